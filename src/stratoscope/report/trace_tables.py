"""The tables of a trace's summary, as texts: for the terminal and for the page alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from stratoscope.explain.trace_summary import TraceSummary
from stratoscope.report import format as fmt
from stratoscope.trace.levels import Level


@dataclass(frozen=True, slots=True)
class Figures:
    """A table: `texts` are the columns that hold words, the others hold numbers with their units."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def texts(self) -> tuple[int, ...]:
        """Places of the columns that hold words."""
        return tuple(place for place, name in enumerate(self.head) if name in _WORDS)


_WORDS = frozenset({"name", "type", "running", "stream", "cause", ""})


def summary_tables(summary: TraceSummary, track_names: Mapping[int, str], top: int) -> Iterator[Figures]:
    """What a trace has: device time, kernels, idle time, launches, queues, operators; `top` kernels and operators."""
    found = (
        _temporal(summary),
        _kernels(summary, top),
        _idle(summary, track_names),
        _launches(summary),
        _queues(summary, track_names),
        _operators(summary, top),
    )
    yield from (one for one in found if one is not None)


def duration(nanoseconds: float | int | None) -> str:
    """A time in its unit."""
    return fmt.UNAVAILABLE if nanoseconds is None else fmt.bare(nanoseconds * 1e-9, "s")


def plain(text: str) -> str:
    """Text of a foreign file without what could steer a terminal."""
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)


def _temporal(summary: TraceSummary) -> Figures | None:
    if summary.temporal is None or summary.types is None:
        return None
    whole = summary.temporal
    rows = [
        [types, duration(time), fmt.share(time / whole.total_ns)]
        for types, time in summary.types.select("types", "time_ns").iter_rows()
    ]
    rows += [["idle", duration(whole.idle_ns), fmt.share(whole.idle_ns / whole.total_ns)]]
    rows += [["all", duration(whole.total_ns), ""]]
    if summary.overlap is not None:
        rows.append(["communication behind computation", "", fmt.share(summary.overlap)])
    return Figures("Device time", ["running", "time", "share"], rows)


def _kernels(summary: TraceSummary, top: int) -> Figures | None:
    if summary.kernels is None:
        return None
    rows = [
        [
            plain(row["name"]),
            row["type"],
            f"{row['count']:,}",
            duration(row["sum_ns"]),
            duration(row["mean_ns"]),
            fmt.share(row["share"]),
        ]
        for row in summary.kernels.head(top).iter_rows(named=True)
    ]
    title = f"Kernels ({min(top, summary.kernels.height)} of {summary.kernels.height})"
    return Figures(title, ["name", "type", "calls", "time", "mean", "share"], rows)


def _idle(summary: TraceSummary, names: Mapping[int, str]) -> Figures | None:
    if summary.idle is None or summary.idle.height == 0:
        return None
    rows = [
        [
            plain(names.get(row["track"], str(row["track"]))),
            row["cause"],
            f"{row['gaps']:,}",
            duration(row["idle_ns"]),
            fmt.share(row["share"]),
        ]
        for row in summary.idle.iter_rows(named=True)
    ]
    return Figures("Idle time of streams", ["stream", "cause", "gaps", "time", "share"], rows)


def _launches(summary: TraceSummary) -> Figures | None:
    stats = summary.launches
    if stats is None or not stats["launches"]:
        return None
    rows = [
        ["launches", f"{stats['launches']:,}"],
        ["median time of the call", duration(stats["call_ns_median"])],
        ["median wait until it starts", duration(stats["delay_ns_median"])],
        ["work shorter than its launch call", f"{stats['short_work']:,}"],
        ["calls above 50 us", f"{stats['slow_calls']:,}"],
        ["starts more than 100 us late", f"{stats['delayed']:,}"],
    ]
    return Figures("Launches", ["", "value"], rows)


def _queues(summary: TraceSummary, names: Mapping[int, str]) -> Figures | None:
    if summary.queues is None or summary.queues.height == 0:
        return None
    rows = [
        [plain(names.get(track, str(track))), f"{longest:,}", "" if average is None else f"{average:.1f}"]
        for track, longest, average in summary.queues.select("track", "longest", "average").iter_rows()
    ]
    return Figures("Launched and not yet started", ["stream", "longest", "average over time"], rows)


def _operators(summary: TraceSummary, top: int) -> Figures | None:
    frame = summary.operators
    if frame.height == 0:
        return None
    on_device = bool((frame["device_ns"] != 0).any())
    head = ["name", "calls", "self", "share", "total", *(["on the device"] if on_device else [])]
    rows = [
        [
            *(plain(row["name"]), f"{row['count']:,}", duration(row["self_ns"]), fmt.share(row["share"])),
            *(duration(row["total_ns"]), *([duration(row["device_ns"])] if on_device else [])),
        ]
        for row in frame.head(top).iter_rows(named=True)
    ]
    level = Level(summary.operator_level).name.lower()
    return Figures(f"Spans of the {level} level ({min(top, frame.height)} of {frame.height})", head, rows)
