"""The span table: one row a span, integers only, as a polars frame with one fixed schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import polars as pl

#: Columns of every span table. Times are integer nanoseconds of `time.perf_counter_ns` (or of the imported trace's
#: own clock), half-open
#: [start_ns, end_ns). `parent` is the `span` of the enclosing span, null at a root or before correlation. `site` is
#: the path of
#: (level, name, k-th occurrence under its parent) that joins spans of different runs; null before correlation. `run`
#: counts repeats.
SPAN_SCHEMA: Final[Mapping[str, pl.DataType]] = {
    "span": pl.Int64(),
    "parent": pl.Int64(),
    "level": pl.UInt8(),
    "kind": pl.Categorical(),  # sync | launch | exec | instant
    "name": pl.String(),
    "track": pl.Int64(),  # thread or stream
    "start_ns": pl.Int64(),
    "end_ns": pl.Int64(),
    "correlation": pl.Int64(),  # 0: none
    "run": pl.Int32(),
    "site": pl.String(),
    "attributes": pl.String(),  # JSON object, or null
}
