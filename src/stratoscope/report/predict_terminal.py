"""Predictions for another machine on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from stratoscope.explain.predict.model import Prediction
from stratoscope.report import format as fmt
from stratoscope.report.compose_terminal import line


def render_predictions(rows: Sequence[Prediction], console: Console) -> None:
    """Prints each model here and there with the interval, and what it rests on."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("model", no_wrap=True)
    for heading in ("here", "there", "interval", "here / there", "bound by memory", "covered"):
        table.add_column(heading, justify="right")
    for row in rows:
        there = row.there
        known = there.ci_low is not None and there.ci_high is not None
        interval = f"{fmt.bare(there.ci_low or 0, 's')} .. {fmt.bare(there.ci_high or 0, 's')}" if known else "-"
        table.add_row(
            Text(row.model),
            fmt.bare(row.here.value or 0, "s"),
            fmt.bare(there.require(), "s"),
            interval,
            f"{row.speedup:.2f}",
            fmt.share(row.memory_share),
            fmt.share(row.coverage),
        )
    console.print(table)
    if rows:
        line(console, "")
        line(console, f"here: {rows[0].source}; there: {rows[0].target}; exponents {rows[0].exponents}")
        if rows[0].error is not None:
            line(console, f"interval: {rows[0].error:.0%} either way beside that of the estimate here")
