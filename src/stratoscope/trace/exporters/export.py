"""Writes a span table in the format that a file's name asks for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import polars as pl

from stratoscope.errors import TraceError
from stratoscope.trace.chrome import write_chrome
from stratoscope.trace.exporters.otlp import write_otlp
from stratoscope.trace.exporters.parquet import write_parquet
from stratoscope.trace.exporters.perfetto import write_perfetto


def _chrome(spans: pl.DataFrame, path: Path, tracks: pl.DataFrame | None) -> None:
    names = {} if tracks is None else dict(tracks.select("track", "name").drop_nulls().iter_rows())
    write_chrome(spans, path, names)


def _perfetto(spans: pl.DataFrame, path: Path, tracks: pl.DataFrame | None) -> None:
    names = {} if tracks is None else dict(tracks.select("track", "name").drop_nulls().iter_rows())
    write_perfetto(spans, path, names)


def _otlp(spans: pl.DataFrame, path: Path, tracks: pl.DataFrame | None) -> None:
    write_otlp(spans, path)


#: Formats by name: the endings of file names that ask for them, and the function that writes them.
EXPORTS: Final[dict[str, tuple[tuple[str, ...], Callable[[pl.DataFrame, Path, pl.DataFrame | None], None]]]] = {
    "otlp": ((".otlp.json",), _otlp),
    "chrome": ((".json", ".json.gz"), _chrome),
    "perfetto": ((".pftrace", ".perfetto-trace"), _perfetto),
    "parquet": ((".parquet",), write_parquet),
}


def export_trace(
    spans: pl.DataFrame, path: Path, *, tracks: pl.DataFrame | None = None, format: str | None = None
) -> None:
    """Writes spans (trace.spans.SPAN_SCHEMA) to `path`, whole or not at all.

    Args:
        tracks: what the tracks are called (trace.importers.TRACK_SCHEMA).
        format: a key of `EXPORTS`; by default what the ending of the name says.

    Raises:
        TraceError: there is no such format, or the file cannot be written.
    """
    if format is None:
        format = next((name for name, (ends, _) in EXPORTS.items() if path.name.endswith(ends)), None)
    if format is None or format not in EXPORTS:
        endings = ", ".join(ending for ends, _ in EXPORTS.values() for ending in ends)
        raise TraceError(f"{path.name} names no format of traces", hint=f"end it in one of {endings}")
    EXPORTS[format][1](spans, path, tracks)
