"""Reads back what `trace.chrome.write_chrome` wrote: the same spans, and from a broken file those that are whole."""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np
import polars as pl

from stratoscope.trace.importers.build import track_frame
from stratoscope.trace.importers.chrome_columns import ChromeColumns, whole_number
from stratoscope.trace.importers.imported import ImportedTrace, ImportReport
from stratoscope.trace.spans import SPAN_SCHEMA

BASE: Final = "base_ns"


class _Arguments(msgspec.Struct, gc=False, kw_only=True):
    span: int
    level: int
    track: int
    correlation: int
    run: int
    parent: int | None = None
    kind: str | None = None
    site: str | None = None
    attributes: str | None = None


def is_own(head: bytes) -> bool:
    """Whether a file that begins so is ours."""
    return b'"producer": "stratoscope"' in head


def to_spans(columns: ChromeColumns, report: ImportReport) -> ImportedTrace:
    """The spans that went in, in the same order; parents that a broken file lost are null, and counted in a note."""
    report.format = "stratoscope"
    assert columns.attributes is not None
    base = whole_number(columns.metadata["otherData"][BASE])
    rows, arguments = _decoded(columns.attributes, report)
    names = pl.Series(columns.names, dtype=pl.String).gather(columns.name[rows])
    fields = {key: [getattr(one, key) for one in arguments] for key in _Arguments.__struct_fields__}
    frame = pl.DataFrame(
        {
            **fields,
            "name": names,
            "start_ns": columns.start_ns[rows] + base,
            "end_ns": columns.end_ns[rows] + base,
        },
        schema_overrides=dict(SPAN_SCHEMA),
    ).select(list(SPAN_SCHEMA))
    if report.dropped or report.lost_bytes:
        frame = _without_lost_parents(frame, report)
    report.spans = frame.height
    report.skipped["metadata"] = len(columns.others)
    report.clock.update({"unit": "ns", "origin": "the recording process's monotonic clock"})
    tracks = [(track, f"track {track}", None, None, None, None) for track in frame["track"].unique().sort()]
    return ImportedTrace(frame, track_frame(tracks), report)


def _decoded(texts: pl.Series, report: ImportReport) -> tuple[np.ndarray, list[_Arguments]]:
    """Rows with usable arguments, and those arguments."""
    found, rows = [], []
    decode = msgspec.json.Decoder(_Arguments).decode
    for row, text in enumerate(texts):
        try:
            one = decode(text or "{}")
        except msgspec.DecodeError:
            report.dropped["arguments that are not ours"] += 1
            continue
        if not (0 <= one.level <= 255 and -(1 << 31) <= one.run < 1 << 31):
            report.dropped["a level or run out of range"] += 1
            continue
        found.append(one)
        rows.append(row)
    return np.array(rows, np.int64), found


def _without_lost_parents(frame: pl.DataFrame, report: ImportReport) -> pl.DataFrame:
    there = pl.col("parent").is_in(frame["span"].implode())
    filled = frame.with_columns(parent=pl.when(there).then("parent"))
    lost = filled["parent"].null_count() - frame["parent"].null_count()
    if lost:
        report.notes.append(f"{lost} spans have lost their parent")
    return filled
