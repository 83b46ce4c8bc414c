"""Reads span tables back from Parquet files that `trace.exporters.parquet` wrote."""

from __future__ import annotations

from typing import Final

import msgspec
import polars as pl

from stratoscope.errors import TraceError
from stratoscope.trace.importers.chrome_columns import MAX_SPANS
from stratoscope.trace.importers.imported import TRACK_SCHEMA, ImportedTrace, ImportReport
from stratoscope.trace.importers.source import Source
from stratoscope.trace.spans import SPAN_SCHEMA

#: A file that begins so is Parquet.
MAGIC: Final = b"PAR1"
#: Key of the file's metadata under which the tracks stand, as JSON.
TRACKS_KEY: Final = "stratoscope.tracks"


def import_parquet(source: Source, *, attributes: bool = True) -> ImportedTrace:
    """The spans of a Parquet file with the columns of trace.spans.SPAN_SCHEMA; columns it has beside are passed over.

    Raises:
        TraceError: the file is damaged, lacks columns, has more than `MAX_SPANS` rows, or a time runs backwards.
    """
    report = ImportReport("parquet")
    try:
        lazy = pl.scan_parquet(source.path)
        rows = int(lazy.select(pl.len()).collect().item())
        there = lazy.collect_schema()
        missing = [name for name in SPAN_SCHEMA if name not in there]
        if missing:
            raise TraceError(f"{source.path} has no column {missing[0]!r}", hint="export the spans with `trace export`")
        if rows > MAX_SPANS:
            raise TraceError(f"{source.path} has more than {MAX_SPANS} spans", hint="split the trace")
        spans = lazy.select(pl.col(name).cast(dtype) for name, dtype in SPAN_SCHEMA.items()).collect()
        metadata = pl.read_parquet_metadata(source.path)
    except (pl.exceptions.PolarsError, OSError, ValueError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TraceError(f"{source.path} is no span table: {why[:200]}", hint="export it again") from error
    report.records = spans.height
    wrong = spans.select(
        (pl.col("end_ns") < pl.col("start_ns"))
        | pl.any_horizontal(pl.col(*(n for n in SPAN_SCHEMA if n not in _NULLABLE)).is_null())
    ).to_series()
    if wrong.any():
        report.dropped["ends before it starts, or a value is missing"] += int(wrong.sum())
        spans = spans.filter(~wrong)
    if not attributes:
        spans = spans.with_columns(attributes=pl.lit(None, dtype=pl.String))
    report.spans = spans.height
    report.clock["unit"] = "ns"
    return ImportedTrace(spans, _tracks(metadata.get(TRACKS_KEY), spans), report)


_NULLABLE: Final = ("parent", "site", "attributes", "kind")


def _tracks(text: str | None, spans: pl.DataFrame) -> pl.DataFrame:
    try:
        rows = msgspec.json.decode(text or "", type=list[tuple[int, *(str | None,) * 3, *(int | None,) * 2]])  # type: ignore[misc]
        return pl.DataFrame(rows, schema=TRACK_SCHEMA, orient="row")
    except (msgspec.DecodeError, OverflowError, pl.exceptions.PolarsError):
        numbers = spans["track"].unique().sort()
        return pl.DataFrame(
            [(track, f"track {track}", None, None, None, None) for track in numbers], schema=TRACK_SCHEMA, orient="row"
        )
