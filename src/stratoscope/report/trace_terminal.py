"""The analyses of a trace on a terminal: how it was read, busy and idle time, kernels, launches, operators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stratoscope.explain.trace_summary import TraceSummary
from stratoscope.report import format as fmt
from stratoscope.report.trace_tables import Figures, duration, plain, summary_tables
from stratoscope.trace.importers import ImportReport

#: Names of kernels are longer than any line; this much of them is shown.
_NAME_WIDTH: Final = 56


def render_import(report: ImportReport, console: Console) -> None:
    """Prints what an importer read, passed over and dropped."""
    found = f"{fmt.count(report.spans, 'span')} of {fmt.count(report.records, 'record')}, read as {report.format}"
    console.print(Text(found))
    for what, counts in (("passed over", report.skipped), ("dropped", report.dropped)):
        for reason, number in sorted(counts.items()):
            console.print(Text(f"  {what}: {number:,} ({plain(reason)})", style="dim" if what != "dropped" else ""))
    if report.lost_bytes:
        console.print(Text(f"  unreadable: {fmt.count(report.lost_bytes, 'byte')} at the end"))
    for note in report.notes:
        console.print(Text(f"  {plain(note)}"))


def render_analysis(summary: TraceSummary, console: Console, *, track_names: Mapping[int, str], top: int = 10) -> None:
    """Prints the analyses; `top` lines of kernels and operators."""
    console.print(Text(f"{duration(summary.duration_ns)} from the first span to the last", style="bold"))
    for reason, number in sorted(summary.flagged.items()):
        console.print(Text(f"  not placed for certain: {number:,} ({reason})", style="dim"))
    for figures in summary_tables(summary, track_names, top):
        console.print()
        console.print(_table(figures))


def _table(figures: Figures) -> Table:
    table = Table(title=figures.title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for place, column in enumerate(figures.head):
        words = place in figures.texts
        table.add_column(column, justify="left" if words else "right", overflow="fold", no_wrap=not words)
    for row in figures.rows:
        table.add_row(*(Text(_cut(cell)) for cell in row))
    return table


def _cut(name: str) -> str:
    return name if len(name) <= _NAME_WIDTH else name[: _NAME_WIDTH - 1] + "…"
