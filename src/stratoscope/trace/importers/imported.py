"""What an importer gives back: spans, the tracks they stand on, and an account of what was read and dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import polars as pl

#: Side table of an imported trace: what each number in the spans' `track` column is. `device` and `stream` are set on
#: tracks of device work only; `process` and `thread` are the file's own identifiers, as text.
TRACK_SCHEMA: Final[Mapping[str, pl.DataType]] = {
    "track": pl.Int64(),
    "name": pl.String(),
    "process": pl.String(),
    "thread": pl.String(),
    "device": pl.Int64(),
    "stream": pl.Int64(),
}


@dataclass(slots=True)
class ImportReport:
    """How the reading went. Every record of the file is in `spans`, in `skipped` or in `dropped`."""

    format: str
    #: Records found in the file.
    records: int = 0
    #: Spans made of them.
    spans: int = 0
    #: Records without a place in a span table (metadata, arrows between spans), by what they are.
    skipped: Counter[str] = field(default_factory=Counter)
    #: Records that could not be used, by reason; `bytes` of a file's unreadable rest are under `lost_bytes`.
    dropped: Counter[str] = field(default_factory=Counter)
    lost_bytes: int = 0
    #: Facts on the file's clock: unit, resolution, and what has to be added for UNIX time, where the file tells.
    clock: dict[str, str | int] = field(default_factory=dict)
    #: What a reader of the result should know.
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, object]:
        """The report as JSON values."""
        return {
            "format": self.format,
            "records": self.records,
            "spans": self.spans,
            "skipped": dict(self.skipped),
            "dropped": dict(self.dropped),
            "lost_bytes": self.lost_bytes,
            "clock": dict(self.clock),
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True)
class ImportedTrace:
    """A trace as read: `spans` (trace.spans.SPAN_SCHEMA), `tracks` (TRACK_SCHEMA), and the report."""

    spans: pl.DataFrame
    tracks: pl.DataFrame
    report: ImportReport

    def track_names(self) -> dict[int, str]:
        """Track number to name, for exporters."""
        return {track: name for track, name in self.tracks.select("track", "name").iter_rows() if name is not None}
