"""Puts what PyTorch tells into span tables: rows, clocks, and which module a span belongs to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import polars as pl

from stratoscope.trace.correlate import assign_sites, correlate
from stratoscope.trace.spans import SPAN_SCHEMA

_COLUMNS: Final = ("level", "kind", "name", "track", "start_ns", "end_ns", "correlation", "run", "attributes")


@dataclass(slots=True)
class SpanRows:
    """Spans under construction, one list a column."""

    columns: dict[str, list[Any]]

    @classmethod
    def empty(cls) -> SpanRows:
        """No spans yet."""
        return cls({name: [] for name in _COLUMNS})

    def add(
        self,
        level: int,
        name: str,
        start_ns: int,
        end_ns: int,
        run: int,
        *,
        track: int,
        kind: str = "sync",
        correlation: int = 0,
        attributes: str | None = None,
    ) -> None:
        """One more span; `attributes` is JSON text."""
        values = (int(level), kind, name, track, start_ns, end_ns, correlation, run, attributes)
        for column, value in zip(self.columns.values(), values, strict=True):
            column.append(value)

    def frame(self) -> pl.DataFrame:
        """The spans (trace.spans.SPAN_SCHEMA) with parents and sites; ids in the order of adding.

        A span without an enclosing one at a lower level is a root. Ambiguous and overlapping spans carry the reason in
        their attributes, under `flagged`.
        """
        count = len(self.columns["name"])
        schema = {name: SPAN_SCHEMA[name] for name in _COLUMNS}
        frame = pl.DataFrame(self.columns, schema=schema).with_columns(
            span=pl.int_range(count, dtype=pl.Int64),
            parent=pl.lit(None, dtype=pl.Int64),
            site=pl.lit(None, dtype=pl.String),
        )
        spans, flagged = correlate(frame.select(list(SPAN_SCHEMA)))
        return assign_sites(_marked(spans, flagged))


def with_attributes(frame: pl.DataFrame, by_site: Mapping[str, Mapping[str, Any]]) -> pl.DataFrame:
    """`frame` with more attributes for the spans of the given sites."""
    rows = [
        _merged(text, by_site[site]) if site in by_site else text
        for site, text in frame.select("site", "attributes").iter_rows()
    ]
    return frame.with_columns(attributes=pl.Series(rows, dtype=pl.String))


def _marked(spans: pl.DataFrame, flagged: pl.DataFrame) -> pl.DataFrame:
    if flagged.height == 0:
        return spans
    why = dict(flagged.iter_rows())
    rows = [
        _merged(text, {"flagged": why[span]}) if span in why else text
        for span, text in spans.select("span", "attributes").iter_rows()
    ]
    return spans.with_columns(attributes=pl.Series(rows, dtype=pl.String))


def _merged(text: str | None, more: Mapping[str, Any]) -> str:
    return json.dumps({**(json.loads(text) if text else {}), **more})


@dataclass(frozen=True, slots=True)
class Offset:
    """Puts a foreign clock on ours: ours = theirs + offset. `error_ns` bounds how far off that may be."""

    low: int
    high: int

    @classmethod
    def fit(cls, bounds: Sequence[tuple[int, int]]) -> Offset | None:
        """From (low, high) of each run, in which its offset lies; None where the runs have none in common."""
        low, high = max(low for low, _ in bounds), min(high for _, high in bounds)
        return cls(low, high) if low <= high else None

    @property
    def value(self) -> int:
        """The middle of what is possible."""
        return (self.low + self.high) // 2

    @property
    def error_ns(self) -> int:
        """Half the width of what is possible."""
        return (self.high - self.low + 1) // 2
