"""Makes span tables from arrays: what every importer does last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stratoscope.trace.importers.imported import TRACK_SCHEMA
from stratoscope.trace.spans import SPAN_SCHEMA

#: Kinds of spans, and their codes in `span_frame`.
KINDS: Final = ("sync", "launch", "exec", "instant")
SYNC: Final = 0
LAUNCH: Final = 1
EXEC: Final = 2
INSTANT: Final = 3
#: Level of a profiler's records on itself: outside everything, so that nothing takes one for its parent.
PROFILER_LEVEL: Final = 5

Array = NDArray[Any]


def span_frame(
    *,
    name: pl.Series,
    level: Array | int,
    kind: Array | int,
    track: Array | int,
    start_ns: Array,
    end_ns: Array,
    correlation: Array | int = 0,
    run: Array | int = 0,
    attributes: pl.Series | None = None,
) -> pl.DataFrame:
    """Spans numbered from 0 (trace.spans.SPAN_SCHEMA), without parents and sites; scalars hold for all of them."""
    size = len(name)

    def column(key: str, values: Array | int) -> pl.Series:
        return pl.Series(key, np.broadcast_to(np.asarray(values, np.int64), size)).cast(SPAN_SCHEMA[key])

    kinds = pl.Series("kind", KINDS, dtype=SPAN_SCHEMA["kind"])
    empty = pl.Series([None], dtype=pl.String).new_from_index(0, size)
    return pl.DataFrame(
        [
            pl.int_range(size, dtype=pl.Int64, eager=True).alias("span"),
            pl.Series([None], dtype=pl.Int64).new_from_index(0, size).alias("parent"),
            column("level", level),
            kinds.gather(np.broadcast_to(np.asarray(kind, np.int64), size)),
            name.alias("name"),
            column("track", track),
            pl.Series("start_ns", start_ns, dtype=pl.Int64),
            pl.Series("end_ns", end_ns, dtype=pl.Int64),
            column("correlation", correlation),
            column("run", run),
            empty.alias("site"),
            (empty if attributes is None else attributes).alias("attributes"),
        ]
    )


def coded(values: Sequence[str], codes: Array) -> pl.Series:
    """The texts that `codes` stand for; they share one copy of each."""
    return pl.Series(values, dtype=pl.String).gather(codes)


def track_frame(rows: Sequence[tuple[int, str | None, str | None, str | None, int | None, int | None]]) -> pl.DataFrame:
    """The side table of tracks (TRACK_SCHEMA)."""
    return pl.DataFrame(rows, schema=TRACK_SCHEMA, orient="row")
