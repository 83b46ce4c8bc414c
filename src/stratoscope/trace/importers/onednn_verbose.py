"""Imports oneDNN's verbose log (ONEDNN_VERBOSE=1), with or without timestamps; MKL's lines beside it by order.

A line is comma-separated; versions put a version field and a timestamp before the rest, so the word "exec" is looked
for and everything else counted from it: engine, primitive, implementation, ..., milliseconds last (oneDNN's
documentation, "Verbose Mode"). A timestamp (ONEDNN_VERBOSE_TIMESTAMP=1) is UNIX milliseconds at the primitive's start.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Final

import numpy as np
import polars as pl

from stratoscope.errors import TraceError
from stratoscope.trace.importers.build import SYNC, span_frame, track_frame
from stratoscope.trace.importers.imported import ImportedTrace, ImportReport
from stratoscope.trace.importers.source import Source
from stratoscope.trace.importers.times import LIMIT_NS
from stratoscope.trace.levels import Level

#: Largest log that is read.
MAX_LOG_BYTES: Final = 4 << 30
_PREFIXES: Final = ("onednn_verbose,", "dnnl_verbose,", "mkldnn_verbose,")
_FIELDS: Final = ("engine", "primitive", "implementation", "propagation", "memory", "attributes", "auxiliary")
_MKL: Final = re.compile(r"MKL_VERBOSE (?P<call>(?P<name>\w+)\(.*\)) (?P<time>[\d.]+)(?P<unit>ns|us|ms|s) ")


@dataclass(frozen=True, slots=True)
class _Line:
    name: str
    start_ns: int | None
    duration_ns: int
    attributes: dict[str, str]


def speaks(head: bytes) -> bool:
    """Whether a file that begins so is such a log, possibly with other output between its lines."""
    lines = head.decode(errors="replace").splitlines()
    return any(line.startswith((*_PREFIXES, "MKL_VERBOSE ")) for line in lines)


def import_onednn(source: Source, *, attributes: bool = True) -> ImportedTrace:
    """Primitives (library level, one track) of a verbose log.

    Without timestamps the primitives stand end to end from 0, which a note says; so do MKL's calls, which never have
    one, behind the line before them.

    Raises:
        TraceError: the file cannot be read, is too large, or has no execution line.
    """
    report = ImportReport("onednn")
    lines = []
    for text in source.all(MAX_LOG_BYTES).decode(errors="replace").splitlines():
        if not text.startswith((*_PREFIXES, "MKL_VERBOSE ")):
            report.skipped["other output"] += 1
            continue
        report.records += 1
        line = _mkl(text, report) if text.startswith("MKL") else _onednn(text, report)
        if line is not None:
            lines.append(line)
    if source.broken:
        report.notes.append(f"the file is cut off: {source.broken}")
    if not lines:
        raise TraceError(
            f"{source.path} has no primitive that was executed", hint="run with ONEDNN_VERBOSE=1 and keep the output"
        )
    start, end = _placed(lines, report)
    texts = pl.Series([json.dumps(line.attributes) for line in lines], dtype=pl.String) if attributes else None
    spans = span_frame(
        name=pl.Series([line.name for line in lines], dtype=pl.String),
        level=int(Level.LIBRARY),
        kind=SYNC,
        track=1,
        start_ns=start,
        end_ns=end,
        attributes=texts,
    )
    report.spans = spans.height
    return ImportedTrace(spans, track_frame([(1, "primitives", None, None, None, None)]), report)


def _onednn(text: str, report: ImportReport) -> _Line | None:
    fields = text.split(",")
    if "exec" not in fields:
        report.skipped["creation or information"] += 1
        return None
    place = fields.index("exec")
    before, rest = fields[1:place], fields[place + 1 :]
    duration = _nanoseconds(rest[-1], 6) if len(rest) >= 4 else None
    if duration is None or duration < 0:
        # The line that explains the format has words where numbers stand.
        template = "implementation" in rest
        (report.skipped if template else report.dropped)["the template line" if template else "no time at the end"] += 1
        return None
    stamps = [stamp for stamp in (_nanoseconds(field, 6) for field in before) if stamp is not None]
    described = dict(zip(_FIELDS, rest[:-2], strict=False))
    described["problem"] = rest[-2]
    return _Line(
        rest[1], stamps[0] if stamps else None, duration, {key: value for key, value in described.items() if value}
    )


def _mkl(text: str, report: ImportReport) -> _Line | None:
    match = _MKL.match(text + " ")
    if match is None:
        report.skipped["creation or information"] += 1
        return None
    duration = _nanoseconds(match["time"], {"ns": 0, "us": 3, "ms": 6, "s": 9}[match["unit"]])
    if duration is None:
        report.dropped["no time at the end"] += 1
        return None
    return _Line(match["name"], None, duration, {"library": "mkl", "call": match["call"], "placed": "by order"})


def _nanoseconds(text: str, power: int) -> int | None:
    """A decimal of some unit as integer nanoseconds, or None."""
    try:
        value = Decimal(text).scaleb(power)
    except InvalidOperation:
        return None
    return int(value.to_integral_value()) if value.is_finite() and abs(value) <= LIMIT_NS else None


def _placed(lines: list[_Line], report: ImportReport) -> tuple[np.ndarray, np.ndarray]:
    stamped = sum(line.start_ns is not None for line in lines)
    now = next((line.start_ns for line in lines if line.start_ns is not None), 0)
    start = []
    for line in lines:
        now = line.start_ns if line.start_ns is not None else now
        start.append(now)
        now += line.duration_ns
    if stamped < len(lines):
        report.notes.append(
            f"{len(lines) - stamped} of {len(lines)} lines have no timestamp: each stands behind the last"
        )
    report.clock.update({"unit": "ms", "origin": "unix" if stamped else "the first line"})
    starts = np.array(start, np.int64)
    return starts, starts + np.array([line.duration_ns for line in lines], np.int64)
