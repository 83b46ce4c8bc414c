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
#: Columns that are shown before others where there is no room for all.
_MAIN: Final = frozenset(
    {"index", "order", "depth", "name", "type", "batch_size", "time_s", "latency_s", "total_s", "share", "bound"}
    | {"roof_share", "kernel_time_s", "component", "kind", "duration_s", "self_change_s", "verdict", "status"}
)
_TEXT_WIDTH: Final = 28
_INTENSITY: Final = "FLOP/byte"
#: Units of single figures by the end of their name, the longest that fits.
_UNITS: Final = {
    "_s": "s",
    "_bytes": "byte",
    "_flops_per_s": "FLOP/s",
    "_bytes_per_s": "byte/s",
    "_flop_per_byte": _INTENSITY,
}
_SHARES: Final = ("share", "gain", "occupancy")


def render_analysis(result: AnalysisResult, console: Console, rows: int) -> None:
    """Prints at most `rows` rows, without interval ends, sites and columns that are empty throughout."""
    console.print(Text(f"{result.id}  {result.title}", style="bold"))
    shown = [column for column in result.columns if has_room(column, result.frame)]
    cells = [column_cells(column, result.frame.head(rows)) for column in shown]
    kept = _that_fit(shown, cells, console.width)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for place in kept:
        numeric = shown[place].dtype.is_numeric()
        table.add_column(
            heading(shown[place]),
            justify="right" if numeric else "left",
            overflow="fold",
            no_wrap=numeric,
            max_width=None if numeric else _TEXT_WIDTH,
        )
    for row in zip(*(cells[place] for place in kept), strict=True):
        table.add_row(*(Text(_cut(text)) for text in row))
    console.print(table)
    left_out = [column.name for place, column in enumerate(shown) if place not in kept]
    if left_out:
        _line(console, f"no room for {', '.join(left_out)}: widen the terminal, or take --csv or --json")
    if result.frame.height > rows:
        _line(console, f"... {fmt.count(result.frame.height - rows, 'more row')}")
    for name, value in result.facts.items():
        if value is not None:
            _line(console, fact_text(name, value))
    for note in result.notes:
        _line(console, f"note: {note}")


def _cut(text: str) -> str:
    """At most two lines of a name: those of C++ kernels fill a page. CSV and JSON have it whole."""
    return text if len(text) <= 2 * _TEXT_WIDTH else text[: 2 * _TEXT_WIDTH - 1] + "…"


def column_cells(column: Column, frame: pl.DataFrame) -> list[str]:
    """The texts of a column; names in a tree are indented by their depth."""
    texts = [cell_text(value, column) for value in frame[column.name].to_list()]
    if column.name != "name" or "depth" not in frame.columns:
        return texts
    return ["  " * depth + text for depth, text in zip(frame["depth"].to_list(), texts, strict=True)]


def _that_fit(columns: Sequence[Column], cells: Sequence[Sequence[str]], width: int) -> list[int]:
    """Places of the columns that fit beside each other; the main ones are looked at first."""
    needed = []
    for column, texts in zip(columns, cells, strict=True):
        longest = max(map(len, [*texts, heading(column)]))
        needed.append((longest if column.dtype.is_numeric() else min(longest, _TEXT_WIDTH)) + 2)
    kept: list[int] = []
    left = width + 2  # no space after the last one
    for place in sorted(range(len(columns)), key=lambda one: (columns[one].name not in _MAIN, one)):
        if needed[place] <= left or not kept:
            kept.append(place)
            left -= needed[place]
    return sorted(kept)


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
    return fmt.bare(value, "" if column.unit == _INTENSITY else column.unit)


def has_room(column: Column, frame: pl.DataFrame) -> bool:
    """Whether a column tells anything here: no flag that is nowhere set, no own time that is the time everywhere."""
    if column.name.endswith(_LEFT_OUT) or column.name in _PATHS:
        return False
    cells = frame[column.name]
    if column.name == "self_time_s" and "time_s" in frame.columns:
        return not cells.equals(frame["time_s"].alias(column.name))
    if isinstance(column.dtype, pl.Boolean) and not cells.any():
        return False
    return frame.height == 0 or cells.null_count() < frame.height


def heading(column: Column) -> str:
    """The name without its unit, which stands in the cells; but for an intensity, whose unit is long."""
    if column.unit == _INTENSITY:
        return _INTENSITY
    return column.name.removesuffix("_per_s").removesuffix("_s").removesuffix("_bytes").replace("_", " ")


def fact_text(name: str, value: str | int | float | bool) -> str:
    """A single figure with its name, from whose end the unit is known."""
    end = max((end for end in _UNITS if name.endswith(end)), key=len, default="")
    label = name.removesuffix(end).replace("_", " ")
    if isinstance(value, float):
        return f"{label}: {fmt.bare(value, _UNITS.get(end, ''))}"
    return f"{label}: {_printable(str(value))}"


def _printable(text: str) -> str:
    """Names come from traces of others: no control character reaches the terminal."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def _line(console: Console, text: str) -> None:
    console.print(Text(text), soft_wrap=True)
