"""Tells by its content in which format a trace file is, and reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Protocol

from stratoscope.errors import TraceError
from stratoscope.trace.importers import jaeger_json, nsys_sqlite, onednn_verbose, parquet
from stratoscope.trace.importers.chrome_json import import_chrome
from stratoscope.trace.importers.imported import ImportedTrace
from stratoscope.trace.importers.source import Source


class Importer(Protocol):
    """Reads one format."""

    def __call__(self, source: Source, *, attributes: bool = True) -> ImportedTrace: ...


#: Formats by the names under which they can be asked for; `chrome` covers PyTorch's (Kineto), ONNX Runtime's and our
#: own Chrome trace files.
FORMATS: Final[dict[str, Importer]] = {
    "chrome": import_chrome,
    "onednn": onednn_verbose.import_onednn,
    "nsys": nsys_sqlite.import_nsys,
    "jaeger": jaeger_json.import_jaeger,
    "parquet": parquet.import_parquet,
}
_HEAD: Final = 1 << 16


def import_trace(path: Path, *, format: str | None = None, attributes: bool = True) -> ImportedTrace:
    """Reads a trace; its format is told by its content where `format` (a key of `FORMATS`) is not given.

    Spans come with the parents that the file tells; trace.correlate.assign_parents finds the others. Without
    `attributes` what an event says beside name and times is left out, which saves time and memory.

    Raises:
        TraceError: there is no such file or format, or the file is none of them.
    """
    if not path.is_file():
        raise TraceError(f"there is no trace file {path}")
    if format is not None and format not in FORMATS:
        raise TraceError(f"there is no trace format {format!r}", hint=f"one of {', '.join(FORMATS)}")
    source = Source(path)
    return FORMATS[format or _detected(source)](source, attributes=attributes)


def import_nonempty(path: Path, *, format: str | None = None, attributes: bool = True) -> ImportedTrace:
    """As `import_trace`, for those who look into a trace: one without spans is refused with the reason.

    Raises:
        TraceError: also where the file has no spans, or none that can be used.
    """
    trace = import_trace(path, format=format, attributes=attributes)
    if trace.spans.height == 0:
        lost = sum(trace.report.dropped.values())
        why = f"all {lost} of its records are unusable ({next(iter(trace.report.dropped))})" if lost else "it is empty"
        raise TraceError(f"trace {path} has no spans: {why}", hint="record it again, around the work")
    return trace


def _detected(source: Source) -> str:
    head = source.head(_HEAD)
    if head.startswith(nsys_sqlite.MAGIC):
        return "nsys"
    if head.startswith(parquet.MAGIC):
        return "parquet"
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if start[:1] in (b"{", b"["):
        return "jaeger" if jaeger_json.speaks(start) and b'"traceEvents"' not in start else "chrome"
    if onednn_verbose.speaks(head):
        return "onednn"
    raise TraceError(
        f"{source.path} is in no format that is read here",
        hint="Chrome trace JSON, an Nsight Systems SQLite export, Jaeger JSON, a oneDNN verbose log, or Parquet",
    )
