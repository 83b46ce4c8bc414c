"""The charts of a machine's page: bandwidth and latency over the working set, roofline with ridge points."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from stratoscope.host.roofs import MEMORY, Roofs
from stratoscope.report import format as fmt
from stratoscope.report.axes import Axis, Tick, log_axis
from stratoscope.report.charts import Marker, band, dot, figure, legend, path, plot
from stratoscope.report.machine_words import thread_word
from stratoscope.report.markup import Markup
from stratoscope.spec.machine import MachineRecord, Measurement

#: Colour classes, in the order of the series; more series than colours begin again.
COLOURS: Final = ("c0", "c1", "c2", "c3", "c4", "c5")
#: Range of the roofline's arithmetic intensity: this far below the lowest ridge point and above the highest.
_REACH: Final = 32.0


def bandwidth_chart(record: MachineRecord) -> Markup | None:
    """Read bandwidth over the working set, a line a thread count, with the sizes of the caches."""
    found = [m for m in record.measurements if m.probe == "sweep" and m.figure.value is not None]
    groups: dict[tuple[str, int], list[Measurement]] = {}
    for measured in found:
        key = (measured.name.split("/")[1], int(measured.parameters["threads"]))
        groups.setdefault(key, []).append(measured)
    series = [(f"{kernel}, {thread_word(threads)}", members) for (kernel, threads), members in groups.items()]
    return _over_size(record, "Bandwidth over the working set", series, "byte/s", "bandwidth")


def latency_chart(record: MachineRecord) -> Markup | None:
    """Latency of a dependent load over the working set."""
    found = [m for m in record.measurements if m.probe == "chase" and m.figure.value is not None]
    return _over_size(record, "Latency over the working set", [("load, 1 thread", found)], "s", "latency")


def _over_size(
    record: MachineRecord, title: str, series: Sequence[tuple[str, list[Measurement]]], unit: str, y_title: str
) -> Markup | None:
    points = [m for _, members in series for m in members]
    if len(points) < 2:
        return None
    sizes = [float(m.parameters["bytes"]) for m in points]
    values = [m.figure.require() for m in points]
    if min(sizes) == max(sizes):
        return None
    x = size_axis(min(sizes), max(sizes))
    y = log_axis(min(values) * 0.7, max(values) * 1.4, unit)
    marks: list[Markup] = []
    for index, (name, members) in enumerate(series):
        marks += _line(name, sorted(members, key=lambda m: float(m.parameters["bytes"])), x, y, COLOURS[index % 6])
    caches = [cache for cache in record.hardware.cpu.caches or () if cache.type != "instruction"]
    markers = [
        Marker(x.at(cache.size_bytes), f"L{cache.level} {size_text(cache.size_bytes)}")
        for cache in caches
        if min(sizes) <= cache.size_bytes <= max(sizes)
    ]
    drawing = plot(*marks, x=x, y=y, height=260, x_title="working set of all threads", y_title=y_title, markers=markers)
    names = legend([(COLOURS[index % 6], name) for index, (name, _) in enumerate(series)])
    words = "; ".join(f"{name}: {_range(members, unit)}" for name, members in series)
    note = "median with its 95 % interval (band); sizes of one cache are marked; both axes are logarithmic"
    return figure(title, names, drawing, note=note, summary=f"{title}. {words}", wide=True)


def _line(name: str, members: Sequence[Measurement], x: Axis, y: Axis, colour: str) -> Iterable[Markup]:
    at = [(x.at(float(m.parameters["bytes"])), m) for m in members]
    known = [(place, m.figure) for place, m in at if m.figure.ci_low is not None and m.figure.ci_high is not None]
    if len(known) > 1:
        lower = [(place, _clamped(y.at(value.ci_low or value.require()))) for place, value in known]
        upper = [(place, _clamped(y.at(value.ci_high or value.require()))) for place, value in known]
        yield band(lower, upper, f"band {colour}")
    yield path([(place, y.at(m.figure.require())) for place, m in at], f"line {colour}")
    for place, m in at:
        size = size_text(float(m.parameters["bytes"]))
        yield dot(place, y.at(m.figure.require()), f"{name}, {size}: {fmt.text(m.figure)}", colour)


def roofline(roofs: Roofs, threads: int) -> Markup | None:
    """The roofs of one thread count: a slope a level of memory, a ceiling a dtype, and where they meet."""
    peaks = [(dtype, roofs.peak(dtype, threads)) for dtype in roofs.dtypes]
    ceilings = [(dtype, peak.figure.require()) for dtype, peak in peaks if peak.value is not None]
    slopes = [(level, roofs.bandwidth(level, threads)) for level in roofs.levels]
    bands = [(level, slope.figure.require()) for level, slope in slopes if slope.value is not None]
    if not ceilings or not bands:
        return None
    top = max(value for _, value in ceilings)
    ridges = [peak / bandwidth for _, peak in ceilings for _, bandwidth in bands]
    low, high = min(ridges) / _REACH, max(ridges) * _REACH
    x = log_axis(low, high, "FLOP/byte")
    floor = min(low * bandwidth for _, bandwidth in bands)
    y = log_axis(floor, top * 2, "FLOP/s")
    marks: list[Markup] = []
    for index, (level, bandwidth) in enumerate(bands):
        marks.append(
            path([(0.0, y.at(low * bandwidth)), (x.at(top / bandwidth), y.at(top))], f"line {COLOURS[index % 6]}")
        )
        begin = low * bandwidth
        tip = f"{level}: {fmt.text(dict(slopes)[level].figure)} ({dict(slopes)[level].source})"
        marks.append(dot(0.0, y.at(begin), tip, COLOURS[index % 6], 4))
    nearest = max(bandwidth for _, bandwidth in bands)
    for dtype, peak in ceilings:
        marks.append(path([(x.at(peak / nearest), y.at(peak)), (1.0, y.at(peak))], "line cx"))
        roof = dict(peaks)[dtype]
        marks.append(dot(1.0, y.at(peak), f"{dtype}: {fmt.text(roof.figure)} ({roof.source})", "cx", 4))
        for level, bandwidth in bands:
            ridge = roofs.ridge(dtype, threads, level)
            tip = f"ridge point of {dtype} and {level}: {fmt.text(ridge)}"
            marks.append(dot(x.at(peak / bandwidth), y.at(peak), tip, "c5" if level == MEMORY else "cx", 4))
    memory = dict(bands).get(MEMORY)
    markers = []
    if memory is not None:
        markers = [Marker(x.at(peak / memory), f"{dtype} {fmt.bare(peak / memory, '1')}") for dtype, peak in ceilings]
    title = f"Roofline, {thread_word(threads)}"
    names = legend(
        [(COLOURS[index % 6], level) for index, (level, _) in enumerate(bands)] + [("cx", "peak of a dtype")]
    )
    drawing = plot(*marks, x=x, y=y, height=300, x_title="FLOP a byte", y_title="attainable", markers=markers)
    words = "; ".join(f"{dtype} {fmt.bare(peak, 'FLOP/s')}" for dtype, peak in ceilings)
    note = "ridge points with memory are marked; a tip names the benchmark of each roof; both axes are logarithmic"
    return figure(title, names, drawing, note=note, summary=f"{title}: {words}", wide=True)


def size_axis(low: float, high: float) -> Axis:
    """A logarithmic axis of sizes with a mark at every fourth power of two (16 KiB, 256 KiB, 4 MiB, ...)."""
    low, high = low * 0.8, high * 1.25
    base = log_axis(low, high, "byte")
    powers = [2.0**power for power in range(0, 60, 2) if low <= 2.0**power <= high]
    shown = powers if len(powers) <= 9 else powers[::2]
    return Axis(low, high, tuple(Tick(base.at(size), size_text(size)) for size in shown), logarithmic=True)


def size_text(size_bytes: float) -> str:
    """A size in binary units without needless digits: 32 KiB, 1.5 MiB."""
    for factor, unit in ((2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB")):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.4g} {unit}"
    return f"{size_bytes:.0f} B"


def _clamped(part: float) -> float:
    return max(0.0, min(1.0, part))


def _range(members: Sequence[Measurement], unit: str) -> str:
    values = [m.figure.require() for m in members]
    return f"{fmt.bare(min(values), unit)} to {fmt.bare(max(values), unit)}"
