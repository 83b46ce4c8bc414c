"""Writes spans as a Parquet table: every column as it is, the names of tracks in the file's metadata."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl

from stratoscope.errors import TraceError
from stratoscope.trace.files import written_whole
from stratoscope.trace.importers.parquet import TRACKS_KEY


def write_parquet(spans: pl.DataFrame, path: Path, tracks: pl.DataFrame | None = None) -> None:
    """Writes spans (trace.spans.SPAN_SCHEMA) to `path`, whole or not at all; `import_trace` reads the same back.

    Raises:
        TraceError: the file cannot be written.
    """
    metadata = {} if tracks is None else {TRACKS_KEY: json.dumps(tracks.rows())}
    with written_whole(path) as file:
        try:
            spans.write_parquet(file, compression="zstd", metadata=metadata)
        except pl.exceptions.ComputeError as error:  # what polars makes of a disk that is full
            raise TraceError(f"cannot write {path}: {error}", hint="is the disk full?") from error
