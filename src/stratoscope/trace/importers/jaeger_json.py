"""Imports Jaeger's JSON, in which MLModelScope and XSP kept their traces: the level of a span is its `trace_level` tag.

Levels by name or number are those of their tracer library: application, model, framework (layer), ML library, system
library (kernel), hardware.
"""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec
import numpy as np
import polars as pl

from stratoscope.errors import TraceError
from stratoscope.trace.importers.build import EXEC, LAUNCH, SYNC, span_frame, track_frame
from stratoscope.trace.importers.chrome_columns import Codes, whole_number
from stratoscope.trace.importers.imported import ImportedTrace, ImportReport
from stratoscope.trace.importers.source import Source
from stratoscope.trace.importers.times import LIMIT_NS
from stratoscope.trace.levels import Level

#: Largest file that is read: it is decoded whole.
MAX_JSON_BYTES: Final = 2 << 30
_LEVELS: Final = {
    "APPLICATION_TRACE": Level.APPLICATION,
    "MODEL_TRACE": Level.MODEL,
    "FRAMEWORK_TRACE": Level.LAYER,
    "ML_LIBRARY_TRACE": Level.LIBRARY,
    "LIBRARY_TRACE": Level.LIBRARY,
    "SYSTEM_LIBRARY_TRACE": Level.KERNEL,
    "HARDWARE_TRACE": Level.HARDWARE,
}
_NUMBERED: Final = dict(enumerate([name for name in _LEVELS if name != "LIBRARY_TRACE"], 1))


class _Tag(msgspec.Struct, gc=False):
    key: str
    value: Any = None


class _Reference(msgspec.Struct, gc=False):
    refType: str
    spanID: str
    traceID: str = ""


class _Span(msgspec.Struct, gc=False):
    spanID: str
    startTime: int | float
    duration: int | float
    operationName: str = ""
    processID: str = ""
    references: list[_Reference] | None = None
    tags: list[_Tag] | None = None
    logs: msgspec.Raw = msgspec.Raw(b"null")


class _Process(msgspec.Struct, gc=False):
    serviceName: str = ""


class _Trace(msgspec.Struct, gc=False):
    spans: list[msgspec.Raw] = []
    processes: dict[str, _Process] = {}
    traceID: str = ""


class _Document(msgspec.Struct, gc=False):
    data: list[_Trace]


def speaks(head: bytes) -> bool:
    """Whether a file that begins so is Jaeger's."""
    return b'"traceID"' in head and (b'"spans"' in head or b'"data"' in head)


def import_jaeger(source: Source, *, attributes: bool = True) -> ImportedTrace:
    """The spans of all traces of the file, each trace one run, parents by their CHILD_OF references.

    Of spans with a `correlation_id` tag, one named gpu_kernel or with the tag `kind: exec` is an execution, others that
    share the id are its launches. Tags become attributes; logs are kept under `logs`.

    Raises:
        TraceError: the file is not Jaeger's, or too large.
    """
    report = ImportReport("jaeger")
    try:
        document = msgspec.json.decode(source.all(MAX_JSON_BYTES), type=_Document)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        why = source.broken or str(error)
        raise TraceError(f"{source.path} is no Jaeger trace: {why}", hint="export it again") from error
    rows = _Rows(report, attributes)
    for run, trace in enumerate(document.data):
        rows.add_trace(run, trace)
    return rows.trace()


class _Rows:
    """Spans as they are collected."""

    def __init__(self, report: ImportReport, attributes: bool) -> None:
        self._report = report
        self._attributes = attributes
        self._spans: list[tuple[int, _Span, dict[str, Any]]] = []
        self._ids: dict[tuple[int, str], int] = {}
        self._tracks = Codes()
        self._track_of: list[int] = []

    def add_trace(self, run: int, trace: _Trace) -> None:
        decode = msgspec.json.Decoder(_Span).decode
        for text in trace.spans:
            self._report.records += 1
            try:
                span = decode(text)
            except (msgspec.DecodeError, RecursionError):
                self._report.dropped["a field is missing or of another type"] += 1
                continue
            if not abs(span.startTime) * 1000 < LIMIT_NS or not abs(span.duration) * 1000 < LIMIT_NS:
                self._report.dropped["no usable time"] += 1
            elif span.duration < 0:
                self._report.dropped["ends before it starts"] += 1
            elif (run, span.spanID) in self._ids:
                self._report.dropped["a span id used twice"] += 1
            else:
                self._ids[run, span.spanID] = len(self._spans)
                service = trace.processes.get(span.processID, _Process()).serviceName or span.processID
                self._track_of.append(self._tracks[service] + 1)
                self._spans.append((run, span, {tag.key: tag.value for tag in span.tags or []}))

    def trace(self) -> ImportedTrace:
        start = np.array([round(span.startTime * 1000) for _, span, _ in self._spans], np.int64)
        length = np.array([round(span.duration * 1000) for _, span, _ in self._spans], np.int64)
        tags = [tags for _, _, tags in self._spans]
        correlation = np.array([whole_number(one.get("correlation_id", 0)) for one in tags], np.int64)
        run = np.array([run for run, _, _ in self._spans], np.int64)
        spans = span_frame(
            name=pl.Series([span.operationName for _, span, _ in self._spans], dtype=pl.String),
            level=np.array([_level(one.get("trace_level", one.get("level"))) for one in tags], np.int64),
            kind=self._kinds(correlation),
            track=np.array(self._track_of, np.int64),
            start_ns=start,
            end_ns=start + length,
            correlation=correlation,
            run=run,
            attributes=self._texts() if self._attributes else None,
        )
        parents = [self._parent(run, span) for run, span, _ in self._spans]
        spans = spans.with_columns(parent=pl.Series(parents, dtype=pl.Int64))
        self._report.spans = spans.height
        self._report.clock.update({"unit": "us", "resolution_ns": 1000, "origin": "unix"})
        tracks = [(number, name, name, None, None, None) for number, name in enumerate(self._tracks, 1)]
        return ImportedTrace(spans, track_frame(tracks), self._report)

    def _parent(self, run: int, span: _Span) -> int | None:
        named = [one.spanID for one in span.references or [] if one.refType == "CHILD_OF"]
        if not named:
            return None
        found = self._ids.get((run, named[0]))
        if found is None:
            self._report.skipped["a reference to a span that is not in the file"] += 1
        return found

    def _kinds(self, correlation: np.ndarray) -> np.ndarray:
        executed = np.array(
            [tags.get("kind") == "exec" or span.operationName == "gpu_kernel" for _, span, tags in self._spans], bool
        )
        executed &= correlation != 0
        launches = ~executed & (correlation != 0) & np.isin(correlation, correlation[executed])
        return np.where(executed, EXEC, np.where(launches, LAUNCH, SYNC))

    def _texts(self) -> pl.Series:
        texts: list[str | None] = []
        for _, span, tags in self._spans:
            logs = bytes(span.logs)
            told = tags if logs in (b"null", b"[]") else {**tags, "logs": msgspec.json.decode(logs)}
            texts.append(json.dumps(told) if told else None)
        return pl.Series(texts, dtype=pl.String)


def _level(value: object) -> int:
    """A level by its name or number; spans that say nothing are the application's."""
    name = _NUMBERED.get(whole_number(value)) if str(value).isdigit() else str(value).upper()
    return int(_LEVELS.get(name or "", Level.APPLICATION))
