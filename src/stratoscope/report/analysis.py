"""Shows the result of an analysis on a terminal: its table, its single figures, and what has to be said of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import polars as pl
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stratoscope.explain.analyses.result import AnalysisResult, Column
from stratoscope.report import format as fmt

#: Columns that a terminal has no room for; CSV and JSON have them.
_LEFT_OUT: Final = ("_low_s", "_high_s")
_PATHS: Final = frozenset({"site", "path"})
_SHARES: Final = ("share", "gain", "occupancy")


def render_analysis(result: AnalysisResult, console: Console, rows: int) -> None:
    """Prints at most `rows` rows, without interval ends, sites and columns that are empty throughout."""
    console.print(Text(f"{result.id}  {result.title}", style="bold"))
    shown = [column for column in result.columns if _has_room(column, result.frame)]
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in shown:
        numeric = column.dtype.is_numeric()
        name = column.name.removesuffix("_s").removesuffix("_per").replace("_", " ")
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in result.frame.head(rows).iter_rows(named=True):
        depth = row.get("depth") or 0
        cells = []
        for column in shown:
            cell = cell_text(row[column.name], column)
            cells.append(Text("  " * depth + cell if column.name == "name" else cell))
        table.add_row(*cells)
    console.print(table)
    if result.frame.height > rows:
        _line(console, f"... {fmt.count(result.frame.height - rows, 'more row')}")
    for name, value in result.facts.items():
        if value is not None:
            _line(console, f"{name.replace('_', ' ')}: {_fact(name, value)}")
    for note in result.notes:
        _line(console, f"note: {note}")


def cell_text(value: Any, column: Column) -> str:
    """A cell in the unit of its column; a value that is not known is a dash, and never a zero."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return fmt.shape(value)
    if isinstance(value, str):
        return _printable(value)
    if isinstance(column.dtype, pl.Int64):
        return str(value)
    if column.unit == "1" and column.name.endswith(_SHARES):
        return fmt.share(value) if value >= 0 else fmt.bare(value * 100, "") + " %"
    return fmt.bare(value, column.unit)


def _has_room(column: Column, frame: pl.DataFrame) -> bool:
    if column.name.endswith(_LEFT_OUT) or column.name in _PATHS:
        return False
    return frame.height == 0 or frame[column.name].null_count() < frame.height


def _fact(name: str, value: str | int | float | bool) -> str:
    if isinstance(value, str):
        return _printable(value)
    if isinstance(value, bool | int):
        return str(value)
    units = {"_s": "s", "_bytes": "byte", "_flops_per_s": "FLOP/s", "_bytes_per_s": "byte/s", "_per_byte": "FLOP/byte"}
    found: Sequence[str] = [unit for end, unit in units.items() if name.endswith(end)]
    return fmt.bare(value, max(found, key=len, default=""))


def _printable(text: str) -> str:
    """Names come from traces of others: no control character reaches the terminal."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def _line(console: Console, text: str) -> None:
    console.print(Text(text), soft_wrap=True)
