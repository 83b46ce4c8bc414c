"""What an analysis is and what it returns: a table whose columns, types and units are declared beforehand."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import polars as pl

from stratoscope.explain.analyses.leveled_trace import LeveledTrace
from stratoscope.explain.roofs import Roofs
from stratoscope.spec.record import Unavailable

Scalar = str | int | float | bool | None

TEXT: Final = pl.String()
COUNT: Final = pl.Int64()
REAL: Final = pl.Float64()
FLAG: Final = pl.Boolean()
SHAPE: Final = pl.List(pl.Int64)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a result: its name, type, unit ("1" for counts and ratios, "" for text) and what it means."""

    name: str
    dtype: pl.DataType
    unit: str
    meaning: str


@dataclass(frozen=True, slots=True)
class AnalysisOptions:
    """What an analysis may be told: the batch size to look at (None: the only one), and the machine's roofs."""

    batch_size: int | None = None
    roofs: Roofs | None = None


@dataclass(frozen=True, slots=True)
class AnalysisResult:
    """The table of one analysis, with what a reader must know of it.

    Attributes:
        frame: one row a thing looked at; its schema is exactly that of `columns`. A null is a value that is not known.
        facts: single figures of the whole (the optimal batch, the ridge point).
        notes: what is missing, flagged or assumed, in sentences.

    Raises:
        TypeError: the frame has not the declared columns.
    """

    id: str
    title: str
    columns: tuple[Column, ...]
    frame: pl.DataFrame
    facts: Mapping[str, Scalar] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        declared = {column.name: column.dtype for column in self.columns}
        if dict(self.frame.schema) != declared:
            raise TypeError(f"{self.id} declares {declared} and has {dict(self.frame.schema)}")

    def to_csv(self) -> str:
        """The table as CSV with a header line; a shape is a JSON list, an unknown value is empty."""
        lists = [column.name for column in self.columns if isinstance(column.dtype, pl.List)]
        texts = [
            pl.Series(name, [None if row is None else json.dumps(row) for row in self.frame[name].to_list()], TEXT)
            for name in lists
        ]
        return self.frame.with_columns(texts).write_csv()

    def to_json(self) -> dict[str, Any]:
        """The whole result as JSON values, columns with units and rows as objects."""
        return {
            "id": self.id,
            "title": self.title,
            "columns": [{"name": one.name, "unit": one.unit, "meaning": one.meaning} for one in self.columns],
            "rows": self.frame.to_dicts(),
            "facts": dict(self.facts),
            "notes": list(self.notes),
        }


class Missing(Exception):
    """What an analysis needs and the trace does not have; the result then is `Unavailable`, for this reason."""


@dataclass(frozen=True, slots=True)
class Analysis:
    """One analysis: its id, what it tells, the levels of profiling that it needs, its columns, and the function.

    `needs` names levels; "primitive" is the kernel level, or on a CPU the library level in its place.
    """

    id: str
    title: str
    needs: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: Callable[[LeveledTrace, AnalysisOptions], Rows]

    def __call__(self, trace: LeveledTrace, options: AnalysisOptions | None = None) -> AnalysisResult | Unavailable:
        """The result on `trace`, or why there is none."""
        try:
            found = self.rows(trace, options or AnalysisOptions())
        except Missing as missing:
            return Unavailable(what=f"{self.id} {self.title}", why=str(missing))
        schema = {column.name: column.dtype for column in self.columns}
        frame = pl.DataFrame(found.rows, schema=schema, orient="row")
        return AnalysisResult(self.id, self.title, self.columns, frame, found.facts, found.notes)


@dataclass(frozen=True, slots=True)
class Rows:
    """What the function of an analysis returns: tuples in the order of the declared columns, facts and notes."""

    rows: Sequence[tuple[Any, ...]]
    facts: Mapping[str, Scalar] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def notes(*texts: str | None) -> tuple[str, ...]:
    """The texts that are there."""
    return tuple(text for text in texts if text)


def estimate_columns(name: str, what: str) -> tuple[Column, ...]:
    """Columns of a time with its 95 % interval: `name_s`, `name_low_s`, `name_high_s`."""
    return (
        Column(f"{name}_s", REAL, "s", what),
        Column(f"{name}_low_s", REAL, "s", f"lower end of the 95 % interval of {name}_s"),
        Column(f"{name}_high_s", REAL, "s", f"upper end of the 95 % interval of {name}_s"),
    )


def described(columns: Iterable[Column]) -> list[tuple[str, str, str]]:
    """(name, unit, meaning) of each column, for a table of them."""
    return [(one.name, one.unit, one.meaning) for one in columns]
