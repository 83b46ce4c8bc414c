"""The performance database on a terminal: what is known of models here, and what a fill measured."""

from __future__ import annotations

from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from stratoscope.measure.parts.runner import FillSummary
from stratoscope.measure.parts.status import Coverage, Status
from stratoscope.report import format as fmt

#: Parts and reasons that are listed without --all.
_MOST_ROWS: Final = 8


def render_status(status: Status, console: Console, *, all_rows: bool = False) -> None:
    """Prints coverage by model, the largest parts that are missing, and why candidates have no time."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("model", no_wrap=True)
    for heading in ("layers", "unique", "missing"):
        table.add_column(heading, justify="right")
    for coverage in status.models[0].coverage if status.models else ():
        table.add_column(f"covered ({coverage.protocol})", justify="right")
    for model in status.models:
        missing = f"{fmt.count(model.missing)} of {fmt.count(model.combinations)}"
        cells = [fmt.count(model.uses), fmt.count(model.parts), missing]
        table.add_row(Text(model.name), *cells, *(_coverage(one) for one in model.coverage))
    console.print(table)
    _line(console, "")
    _line(console, f"candidates: {', '.join(f'{one.name} {one.version}' for one in status.candidates) or 'none'}")
    most = len(status.holes) if all_rows else _MOST_ROWS
    if status.holes:
        _line(console, f"missing of {fmt.count(len(status.holes), 'part')}, those with the most work first:")
    for hole in status.holes[:most]:
        _line(console, f"  {hole.part.slug}  ({hole.uses}x)  {fmt.count(hole.missing, 'measurement')}")
    if len(status.holes) > most:
        _line(console, f"  and {len(status.holes) - most} more (--all)")
    _reasons(status, console, all_rows)


def _coverage(coverage: Coverage) -> str:
    """The share of the roofline time that has a time, and how many parts that is."""
    text = f"{fmt.share(coverage.share)}, {coverage.measured} of {coverage.parts}"
    return f"{text}, {coverage.unknown_work} of unknown work" if coverage.unknown_work else text


def _reasons(status: Status, console: Console, all_rows: bool) -> None:
    if not status.reasons:
        return
    _line(console, "without a time:")
    most = len(status.reasons) if all_rows else _MOST_ROWS
    for name, reason, count in status.reasons[:most]:
        _line(console, f"  {fmt.count(count, 'part')}, {name}: {reason}")
    if len(status.reasons) > most:
        _line(console, f"  and {len(status.reasons) - most} more reasons (--all)")


def render_fill(summary: FillSummary, console: Console) -> None:
    """Prints what was measured in how long, and what was not got to."""
    if not summary.counts and not summary.parts_left:
        _line(console, f"nothing to measure: all {fmt.count(summary.known)} combinations are known here")
    else:
        words = [f"{fmt.count(count)} {status}" for status, count in sorted(summary.counts.items())]
        took = fmt.bare(summary.seconds, "s")
        _line(console, f"measured in {took}: {', '.join(words) or 'nothing'}; {fmt.count(summary.known)} known before")
    if summary.parts_left:
        _line(console, f"the budget ended before {fmt.count(summary.parts_left, 'part')}: run it again to go on")
    if summary.interrupted:
        _line(console, "interrupted: what was measured is kept; run it again to go on")
    _line(console, "")


def _line(console: Console, text: str) -> None:
    clean = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
    console.print(clean, markup=False, highlight=False, soft_wrap=True)
