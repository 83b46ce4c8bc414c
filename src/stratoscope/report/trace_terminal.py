"""The analyses of a trace on a terminal: how it was read, busy and idle time, kernels, launches, operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stratoscope.explain.trace_summary import TraceSummary
from stratoscope.report import format as fmt
from stratoscope.trace.importers import ImportReport
from stratoscope.trace.levels import Level

#: Names of kernels are longer than any line; this much of them is shown.
_NAME_WIDTH = 56


def render_import(report: ImportReport, console: Console) -> None:
    """Prints what an importer read, passed over and dropped."""
    found = f"{fmt.count(report.spans, 'span')} of {fmt.count(report.records, 'record')}, read as {report.format}"
    console.print(Text(found))
    for what, counts in (("passed over", report.skipped), ("dropped", report.dropped)):
        for reason, number in sorted(counts.items()):
            console.print(Text(f"  {what}: {number:,} ({_plain(reason)})", style="dim" if what != "dropped" else ""))
    if report.lost_bytes:
        console.print(Text(f"  unreadable: {fmt.count(report.lost_bytes, 'byte')} at the end"))
    for note in report.notes:
        console.print(Text(f"  {_plain(note)}"))


def render_analysis(summary: TraceSummary, console: Console, *, track_names: Mapping[int, str], top: int = 10) -> None:
    """Prints the analyses; `top` lines of kernels and operators."""
    console.print(Text(f"{_time(summary.duration_ns)} from the first span to the last", style="bold"))
    for reason, number in sorted(summary.flagged.items()):
        console.print(Text(f"  not placed for certain: {number:,} ({reason})", style="dim"))
    for table in (
        _temporal(summary),
        _kernels(summary, top),
        _idle(summary, track_names),
        _launches(summary),
        _queues(summary, track_names),
        _operators(summary, top),
    ):
        if table is not None:
            console.print()
            console.print(table)


def _temporal(summary: TraceSummary) -> Table | None:
    if summary.temporal is None or summary.types is None:
        return None
    whole = summary.temporal
    rows = [
        [types, _time(time), fmt.share(time / whole.total_ns)]
        for types, time in summary.types.select("types", "time_ns").iter_rows()
    ]
    rows += [["idle", _time(whole.idle_ns), fmt.share(whole.idle_ns / whole.total_ns)]]
    rows += [["all", _time(whole.total_ns), ""]]
    if summary.overlap is not None:
        rows.append(["communication behind computation", "", fmt.share(summary.overlap)])
    return _table("Device time", ["running", "time", "share"], rows)


def _kernels(summary: TraceSummary, top: int) -> Table | None:
    if summary.kernels is None:
        return None
    rows = [
        [
            _name(row["name"]),
            row["type"],
            f"{row['count']:,}",
            _time(row["sum_ns"]),
            _time(row["mean_ns"]),
            fmt.share(row["share"]),
        ]
        for row in summary.kernels.head(top).iter_rows(named=True)
    ]
    title = f"Kernels ({min(top, summary.kernels.height)} of {summary.kernels.height})"
    return _table(title, ["name", "type", "calls", "time", "mean", "share"], rows)


def _idle(summary: TraceSummary, names: Mapping[int, str]) -> Table | None:
    if summary.idle is None or summary.idle.height == 0:
        return None
    rows = [
        [
            _plain(names.get(row["track"], str(row["track"]))),
            row["cause"],
            f"{row['gaps']:,}",
            _time(row["idle_ns"]),
            fmt.share(row["share"]),
        ]
        for row in summary.idle.iter_rows(named=True)
    ]
    return _table("Idle time of streams", ["stream", "cause", "gaps", "time", "share"], rows)


def _launches(summary: TraceSummary) -> Table | None:
    stats = summary.launches
    if stats is None or not stats["launches"]:
        return None
    rows = [
        ["launches", f"{stats['launches']:,}"],
        ["median time of the call", _time(stats["call_ns_median"])],
        ["median wait until it starts", _time(stats["delay_ns_median"])],
        ["work shorter than its launch call", f"{stats['short_work']:,}"],
        ["calls above 50 us", f"{stats['slow_calls']:,}"],
        ["starts more than 100 us late", f"{stats['delayed']:,}"],
    ]
    return _table("Launches", ["", "value"], rows)


def _queues(summary: TraceSummary, names: Mapping[int, str]) -> Table | None:
    if summary.queues is None or summary.queues.height == 0:
        return None
    rows = [
        [_plain(names.get(track, str(track))), f"{longest:,}", "" if average is None else f"{average:.1f}"]
        for track, longest, average in summary.queues.select("track", "longest", "average").iter_rows()
    ]
    return _table("Launched and not yet started", ["stream", "longest", "average over time"], rows)


def _operators(summary: TraceSummary, top: int) -> Table | None:
    frame = summary.operators
    if frame.height == 0:
        return None
    on_device = bool((frame["device_ns"] != 0).any())
    head = ["name", "calls", "self", "share", "total", *(["on the device"] if on_device else [])]
    rows = [
        [
            *(_name(row["name"]), f"{row['count']:,}", _time(row["self_ns"]), fmt.share(row["share"])),
            *(_time(row["total_ns"]), *([_time(row["device_ns"])] if on_device else [])),
        ]
        for row in frame.head(top).iter_rows(named=True)
    ]
    level = Level(summary.operator_level).name.lower()
    return _table(f"Spans of the {level} level ({min(top, frame.height)} of {frame.height})", head, rows)


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    words = {"name", "type", "running", "stream", "cause", ""}
    for column in head:
        table.add_column(
            column, justify="left" if column in words else "right", overflow="fold", no_wrap=column not in words
        )
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _time(nanoseconds: float | int | None) -> str:
    return fmt.UNAVAILABLE if nanoseconds is None else fmt.bare(nanoseconds * 1e-9, "s")


def _name(name: str) -> str:
    name = _plain(name)
    return name if len(name) <= _NAME_WIDTH else name[: _NAME_WIDTH - 1] + "…"


def _plain(text: str) -> str:
    """Text of a foreign file without what could steer a terminal."""
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)
