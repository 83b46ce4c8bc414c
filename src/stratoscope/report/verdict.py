"""Whether a reference log was reproduced, on a terminal: the metrics against their tolerances, and what differs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stratoscope.report.format import text

if TYPE_CHECKING:
    from stratoscope.spec.record import RunRecord
    from stratoscope.spec.reference import Verdict

_SHOWN_DIFFERENCES = 8


def render_verdict(verdict: Verdict, record: RunRecord, console: Console) -> None:
    """Prints the verdict, each metric with its tolerance, and the aspects with the fields that differ."""
    word = "[bold green]reproduced[/]" if verdict.reproduced else "[bold red]not reproduced[/]"
    console.print(f"{word}  {escape(record.model.id)} on {escape(record.backend.name)}", highlight=False)
    for reason in verdict.reasons:
        console.print(f"  - {escape(reason)}", highlight=False)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("metric", "reference", "here", "ratio", ""):
        table.add_column(column)
    for metric in verdict.metrics:
        found = text(metric.found) if metric.found is not None else "missing"
        ratio = f"{metric.ratio:.3f}" if metric.ratio is not None else ""
        table.add_row(metric.name, text(metric.expected), found, ratio, metric.outcome)
    console.print(table)
    for aspect in verdict.aspects:
        console.print(f"{aspect.aspect:9} {'same' if aspect.same else 'differs'}", highlight=False)
        for difference in aspect.differences[:_SHOWN_DIFFERENCES]:
            line = f"    {difference.path}: {difference.expected} -> {difference.found}"
            console.print(escape(line), highlight=False)
        if (more := len(aspect.differences) - _SHOWN_DIFFERENCES) > 0:
            console.print(f"    and {more} more", highlight=False)
