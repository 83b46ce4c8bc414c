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
        first = rows[0]
        compute, memory = first.exponents
        how = f"fitted to {first.fitted_on} bricks measured on both" if first.fitted_on else "not fitted"
        line(console, f"here: {first.source}; there: {first.target}")
        line(console, f"exponents of compute and memory: {compute:.2f}, {memory:.2f} ({how})")
        if first.error is not None:
            plain = "" if first.plain_error is None else f" (plain scaling: {first.plain_error:.0%})"
            line(console, f"interval: {first.error:.0%} either way{plain}, beside that of the estimate here")
