"""Suites and estimates on a terminal: what was built and measured, what models take, and what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from stratoscope.explain.compose.assembly import ModelEstimate, Saving
from stratoscope.explain.compose.synthesis import Synthesis
from stratoscope.measure.sequence import SequenceSummary
from stratoscope.measure.suite import Suite
from stratoscope.report import format as fmt
from stratoscope.stats.quantity import Quantity

_MOST_ROWS: Final = 8


def render_suite(suite: Suite, console: Console) -> None:
    """Prints each model's places and unique bricks, and what cannot be built."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("model", no_wrap=True)
    for heading in ("batch", "layers", "bricks", "unique", "new in the suite"):
        table.add_column(heading, justify="right")
    seen: set[str] = set()
    for model in suite.index.models:
        keys = {place.key for place in model.places}
        batch = "-" if model.batch_size is None else str(model.batch_size)
        counts = [model.layers, len(model.places), len(keys), len(keys - seen)]
        table.add_row(Text(model.name), batch, *map(fmt.count, counts))
        seen |= keys
    console.print(table)
    places = sum(len(model.places) for model in suite.index.models)
    index = suite.index
    how = f"{index.graph} graph, cut by {index.rule}" + (f", G={index.granularity}" if index.granularity > 1 else "")
    line(console, "")
    line(console, f"{fmt.count(places, 'brick')}, {fmt.count(len(index.bricks))} unique ({how})")
    problems = [brick for brick in index.bricks.values() if brick.problem]
    for brick in problems[:_MOST_ROWS]:
        line(console, f"  not built: {brick.part.slug}: {brick.problem}")
    if len(problems) > _MOST_ROWS:
        line(console, f"  and {len(problems) - _MOST_ROWS} more that cannot be built (in --json)")


def render_run(summary: SequenceSummary, known: int, console: Console) -> None:
    """Prints what a run measured."""
    if not summary.measured and not summary.failed and not summary.left:
        line(console, f"nothing to measure: all {fmt.count(known, 'measurement')} are known here")
        return
    took = fmt.bare(summary.seconds, "s")
    failed = f", {fmt.count(summary.failed)} without a time" if summary.failed else ""
    line(console, f"measured in {took}: {fmt.count(summary.measured)} ok{failed}; {fmt.count(known)} known before")
    if summary.left:
        line(console, f"the budget ended before {fmt.count(summary.left, 'brick')}: run it again to go on")


def render_estimates(
    rows: Sequence[ModelEstimate], console: Console, measured: dict[str, Quantity] | None = None
) -> None:
    """Prints each model's point estimate with its interval and bracket, its coverage, and what is missing."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("model", no_wrap=True)
    for heading in ("batch", "estimate", "lowest", "highest", "parallel", "bricks", "covered"):
        table.add_column(heading, justify="right")
    for heading in ("measured", "error") if measured else ():
        table.add_column(heading, justify="right")
    for row in rows:
        found = row.estimate
        cells = [
            "-" if row.batch_size is None else str(row.batch_size),
            fmt.text(found.latency) if found.latency.status == "ok" else "-",
            _short(found.low),
            _short(found.high),
            _short(found.parallel),
            f"{found.measured}/{found.unique}",
            fmt.share(found.coverage),
        ]
        if measured is not None:
            cells += _beside(found.latency, measured.get(row.model))
        table.add_row(Text(row.model), *cells)
    console.print(table)
    for row in rows:
        _missing(row, console)


def _beside(estimated: Quantity, measured: Quantity | None) -> list[str]:
    if measured is None or measured.value is None or estimated.value is None:
        return ["-", "-"]
    return [_short(measured), f"{estimated.value / measured.value - 1:+.1%}"]


def _missing(row: ModelEstimate, console: Console) -> None:
    missing = row.estimate.missing
    if not missing:
        return
    if row.estimate.latency.statistic.startswith("line"):
        line(console, "")
        line(console, f"{row.model} at batch {row.batch_size}: not measured; the {row.estimate.latency.statistic}")
        return
    share = sum(one.share for one in missing)
    line(console, "")
    line(console, f"{row.model}: {fmt.count(len(missing), 'brick')} without a time, {fmt.share(share)} of its work:")
    for one in missing[:_MOST_ROWS]:
        line(console, f"  {fmt.share(one.share):>7}  {one.slug} ({one.places}x), {one.status}: {one.reason}")
    if len(missing) > _MOST_ROWS:
        line(console, f"  and {len(missing) - _MOST_ROWS} more (in --json)")


def render_saving(saving: Saving, console: Console) -> None:
    """Prints unique / total and the time saved, as the paper counts it."""
    line(console, "")
    line(console, f"unique bricks: {fmt.count(saving.unique)} of {fmt.count(saving.places)}")
    if saving.saved.value is None:
        line(console, f"time saved: not known, {saving.saved.reason}")
        return
    line(
        console,
        f"one pass of all models {_short(saving.models)}, of the unique bricks {_short(saving.bricks)}: "
        f"{saving.saved.value:.2f} times less benchmarking",
    )


def render_synthesis(found: Synthesis, console: Console) -> None:
    """Prints the chosen bricks with their shares, and the distance."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("brick", overflow="fold")
    table.add_column("share", justify="right")
    table.add_column("weight", justify="right")
    for one in found.bricks:
        table.add_row(Text(one.slug), fmt.share(one.share), f"{one.weight:.4g}")
    console.print(table)
    line(console, "")
    line(
        console,
        f"{fmt.count(len(found.bricks), 'brick')} of {fmt.count(found.of)}; distance of the mixes {found.distance:.3f} "
        "(0: the same, 1: nothing in common)",
    )


def _short(quantity: Quantity) -> str:
    return fmt.bare(quantity.value, quantity.unit) if quantity.value is not None else "-"


def line(console: Console, text: str) -> None:
    """One line as it is, without control characters."""
    clean = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
    console.print(clean, markup=False, highlight=False, soft_wrap=True)
