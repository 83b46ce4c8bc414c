"""The plots of the analyses: bars by type and name, columns over the layers, points under the roofs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from stratoscope.explain.analyses.result import AnalysisResult
from stratoscope.report import format as fmt
from stratoscope.report.axes import Axis, Tick, axis_from_zero, log_axis
from stratoscope.report.charts import Bar, bar_list, dot, figure, legend, line, plot, rect
from stratoscope.report.markup import Markup, join

Row = Mapping[str, Any]

_MOST_BARS: Final = 12
_KERNELS: Final = "kernels"
#: Colour classes of the bound classes.
_BOUND: Final = {"compute-bound": "c0", "memory-bound": "c1", "overhead-bound": "c5"}


def plot_of(result: AnalysisResult) -> Markup | None:
    """The plot of an analysis; None where it is a table only, or has nothing to draw."""
    draw = _PLOTS.get(result.id)
    rows = result.frame.to_dicts()
    return draw(result, rows) if draw is not None and rows else None


def _bars(label: str, value: str, unit: str, share: str | None = None) -> Callable[..., Markup | None]:
    """A list of bars, the longest first."""

    def draw(result: AnalysisResult, rows: Sequence[Row]) -> Markup | None:
        known = sorted((row for row in rows if row[value] is not None), key=lambda row: -row[value])
        longest = max((row[value] for row in known), default=0)
        if longest <= 0:
            return None
        bars = []
        for row in known[:_MOST_BARS]:
            text = fmt.bare(row[value], unit)
            part = f" · {fmt.share(row[share])}" if share is not None and row[share] is not None else ""
            bars.append(Bar(str(row[label]), row[value] / longest, text + part, f"{row[label]}: {text}{part}"))
        left = len(known) - len(bars)
        note = f"the {len(bars)} largest of {len(known)}" if left else None
        return figure(result.title, bar_list(bars), note=note, wide=True)

    return draw


def _batches(result: AnalysisResult, rows: Sequence[Row]) -> Markup | None:
    """Throughput by batch size, in the order of the sizes."""
    known = [row for row in rows if row["throughput_per_s"] is not None]
    longest = max((row["throughput_per_s"] for row in known), default=0)
    if len(known) < 2 or longest <= 0:
        return None
    bars = []
    for row in known:
        text = fmt.bare(row["throughput_per_s"], "1/s")
        name = f"batch {row['batch_size']}"
        colour = "c2" if row["optimal"] else "c0"
        bars.append(Bar(name, row["throughput_per_s"] / longest, text, f"{name}: {text}", colour))
    return figure("Throughput by batch size", bar_list(bars), note="the optimum in another colour", wide=True)


def _columns(title: str, value: str, unit: str, below: str | None = None) -> Callable[..., Markup | None]:
    """A column a layer, in the order of execution; `below` is a part of the value that stands in it."""

    def draw(result: AnalysisResult, rows: Sequence[Row]) -> Markup | None:
        highest = max((row[key] or 0.0 for row in rows for key in (value, below) if key is not None), default=0.0)
        if highest <= 0:
            return None
        y, width = axis_from_zero(highest, unit), 1 / len(rows)
        marks = []
        for place, row in enumerate(rows):
            for key, colour in ((value, "c0"), (below, "c5")):
                if key is None or not row[key]:
                    continue
                tip = f"{row['name'] or 'outside of all layers'}: {fmt.bare(row[key], unit)}"
                marks.append(rect(place * width, width * 0.9, max(0.0, y.at(row[key])), tip, colour))
        chart = plot(*marks, x=_order(len(rows)), y=y, height=180, x_title="layers in order of execution")
        words = legend([("c0", "layer"), ("c5", _KERNELS)]) if below is not None else None
        return figure(title, words, chart, wide=True, summary=f"{title} over {fmt.count(len(rows), 'layer')}")

    return draw


def _metrics(result: AnalysisResult, rows: Sequence[Row]) -> Markup | None:
    """A12: operations, reads and writes over the layers."""
    plots = [
        _columns("Operations", "flops", "FLOP")(result, rows),
        _columns("Read from memory", "dram_read_bytes", "byte")(result, rows),
        _columns("Written to memory", "dram_write_bytes", "byte")(result, rows),
    ]
    drawn = [one for one in plots if one is not None]
    return join(drawn) if drawn else None


def _roofline(result: AnalysisResult, rows: Sequence[Row]) -> Markup | None:
    """Points (intensity, rate) on logarithmic axes, with the roofs where they are known."""
    points = [row for row in rows if (row["intensity"] or 0) > 0 and (row["flop_rate"] or 0) > 0]
    if not points:
        return None
    facts = result.facts
    bandwidth = facts.get("bandwidth_bytes_per_s")
    peaks = {name: peak for name, peak in facts.items() if name.startswith("peak_") and isinstance(peak, float)}
    rates = [row["flop_rate"] for row in points] + list(peaks.values())
    intensities = [row["intensity"] for row in points]
    if isinstance(bandwidth, float):
        intensities += [peak / bandwidth for peak in peaks.values()]
    x = log_axis(min(intensities) / 2, max(intensities) * 2, "FLOP/byte")
    y = log_axis(min(rates) / 2, max(rates) * 2, "FLOP/s")
    marks = [_roof(x, y, peak, bandwidth) for peak in peaks.values()] if isinstance(bandwidth, float) else []
    for row in points:
        tip = f"{row['name']}: {fmt.bare(row['intensity'], '')} FLOP/byte, {fmt.bare(row['flop_rate'], 'FLOP/s')}"
        marks.append(dot(x.at(row["intensity"]), y.at(row["flop_rate"]), tip, f"{_BOUND.get(row['bound'], 'cx')} p"))
    chart = plot(*marks, x=_few(x), y=y, height=260, x_title="FLOP/byte", y_title="FLOP/s")
    classes = [(colour, name) for name, colour in _BOUND.items() if any(row["bound"] == name for row in points)]
    left = len(rows) - len(points)
    notes = [
        f"{left} of {len(rows)} without operations have no place here" if left else "",
        "" if peaks else "no roofs are known: give --machine, or --roof and --bandwidth, to analyze",
    ]
    note = "; ".join(filter(None, notes)) or None
    return figure(result.title, legend(classes) if classes else None, chart, note=note, wide=True)


def _roof(x: Axis, y: Axis, peak: float, bandwidth: float) -> Markup:
    """The slope of the bandwidth and the flat of a peak, as far as they are in the plot."""
    ridge = peak / bandwidth
    foot = max(x.low, y.low / bandwidth)
    slope = line(x.at(foot), y.at(foot * bandwidth), x.at(ridge), y.at(peak), "guide") if foot < ridge else None
    return join(slope, line(x.at(max(ridge, x.low)), y.at(peak), 1, y.at(peak), "guide"))


def _few(axis: Axis) -> Axis:
    """At most five marks, so that a telephone has room for them; without the unit, which is the axis' title."""
    every = -(-len(axis.ticks) // 5) or 1
    ticks = tuple(Tick(tick.at, tick.label.split()[0]) for tick in axis.ticks[::every])
    return Axis(axis.low, axis.high, ticks, axis.logarithmic)


def _order(count: int) -> Axis:
    """Places in the order of execution, from 0."""
    step = max(1, -(-count // 6))
    return Axis(0, count, tuple(Tick((place + 0.5) / count, str(place)) for place in range(0, count, step)))


_PLOTS: Final[Mapping[str, Callable[[AnalysisResult, Sequence[Row]], Markup | None]]] = {
    "A1": _batches,
    "A3": _columns("Latency of each layer", "time_s", "s"),
    "A4": _columns("Memory of each layer", "allocated_bytes", "byte"),
    "A5": _bars("type", "layers", "", "share"),
    "A6": _bars("type", "time_s", "s", "share"),
    "A7": _bars("type", "allocated_bytes", "byte", "share"),
    "A9": _roofline,
    "A10": _bars("name", "time_s", "s", "model_share"),
    "A12": _metrics,
    "A13": _columns("Layers and their kernels", "layer_time_s", "s", "kernel_time_s"),
    "A14": _roofline,
}
