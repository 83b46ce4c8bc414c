"""Predictions for another machine, and of models never measured, on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from stratoscope.explain.predict.model import Prediction
from stratoscope.explain.predict.unmeasured import LeftOut, UnmeasuredModel
from stratoscope.report import format as fmt
from stratoscope.report.compose_terminal import line

_SHOWN: Final = 8


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


def render_unmeasured(rows: Sequence[UnmeasuredModel], judged: LeftOut, known: int, console: Console) -> None:
    """Prints each model, the part of it that is predicted, the longest of those layers, and how far they are off."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("model", no_wrap=True)
    for heading in ("batch", "latency", "interval", "layers", "measured", "predicted part"):
        table.add_column(heading, justify="right")
    for row in rows:
        latency = row.latency
        table.add_row(
            Text(row.model),
            str(row.batch_size or 1),
            fmt.bare(latency.require(), "s"),
            f"{fmt.bare(latency.ci_low or 0, 's')} .. {fmt.bare(latency.ci_high or 0, 's')}",
            str(row.layers),
            str(row.measured),
            fmt.share(row.share),
        )
    console.print(table)
    for row in rows:
        if row.predicted:
            line(console, "")
            line(console, f"{row.model}: {len(row.predicted)} different layers were never measured here:")
        for one in row.predicted[:_SHOWN]:
            share = fmt.share(one.seconds * one.times / max(row.latency.require(), 1e-12))
            line(console, f"  {share:>7}  {one.slug} ({one.times}x), {fmt.bare(one.seconds, 's')} each")
        if len(row.predicted) > _SHOWN:
            line(console, f"  and {len(row.predicted) - _SHOWN} more (in --json)")
        if row.refused:
            line(console, f"{row.model}: not in the latency, since no network can be built of them: {len(row.refused)}")
            for slug in row.refused[:_SHOWN]:
                line(console, f"  {slug}")
    line(console, "")
    line(console, f"learned from {known} measured layers; each of {judged.models} models left out in turn:")
    line(
        console,
        f"  {judged.layers} layers from 2 us: median error {judged.median:.1%} (plain roofline {judged.roofline:.1%}), "
        f"nine of ten within {judged.p90:.0%}",
    )
    line(
        console,
        f"  sums of models: median error {judged.model_median:.1%}, nine of ten within {judged.model_error:.1%} "
        "(the interval)",
    )
