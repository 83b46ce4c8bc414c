"""Writes and reads spans as Chrome trace events (JSON), which Perfetto and chrome://tracing show.

Times are microseconds with three decimals since the first span, so that no nanosecond is lost; what the format has no
place for (level, ids, site, run) goes into `args`, and reading a file back gives the same spans.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Final

import polars as pl

from stratoscope.errors import TraceError
from stratoscope.trace.files import written_whole
from stratoscope.trace.lanes import lanes_of
from stratoscope.trace.levels import Level
from stratoscope.trace.spans import SPAN_SCHEMA

_PID: Final = 1
_CATEGORIES: Final = {level.value: level.name.lower() for level in Level}
_PRODUCER: Final = "stratoscope"
_DECIMAL: Final = re.compile(r"-?\d+(\.\d{1,3})?")
#: Largest file that is read whole, after decompression.
MAX_BYTES: Final = 4 << 30


def write_chrome(frame: pl.DataFrame, path: Path, track_names: Mapping[int, str] | None = None) -> None:
    """Writes spans (trace.spans.SPAN_SCHEMA) to `path`, compressed where it ends in `.gz`; whole or not at all.

    One thread row a track; execution spans (kind "exec") have rows of their own, and so have spans that overlap others
    of their track without nesting, since viewers drop or distort those. An arrow leads from each launch span to the
    execution with its correlation id.

    Raises:
        TraceError: the file cannot be written.
    """
    with written_whole(path) as raw, _packed(raw) if path.suffix == ".gz" else contextlib.nullcontext(raw) as file:
        for text in _lines(frame, track_names or {}):
            file.write(text.encode())


def read_chrome(path: Path) -> pl.DataFrame:
    """The spans of a file that `write_chrome` wrote, identical to those that went in, in the same order.

    Raises:
        TraceError: the file cannot be read, or other software wrote it.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise TraceError(f"{path} holds more than {MAX_BYTES >> 30} GiB", hint="split the trace")
        document = json.loads(data, parse_float=str)
        if document["otherData"]["producer"] != _PRODUCER:
            raise KeyError("producer")
        base = int(document["otherData"]["base_ns"])
        rows = [_row(event, base) for event in document["traceEvents"] if event["ph"] == "X"]
        return pl.DataFrame(rows, schema=SPAN_SCHEMA, orient="row")
    except OSError as error:
        raise TraceError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, EOFError, RecursionError, pl.exceptions.PolarsError) as error:
        raise TraceError(f"{path} is no trace that Stratoscope wrote: {error}", hint="export it again") from error


def _packed(raw: IO[bytes]) -> gzip.GzipFile:
    """Compression without name and time, so that equal traces make equal files."""
    return gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=raw, mtime=0)


def _lines(frame: pl.DataFrame, track_names: Mapping[int, str]) -> Iterator[str]:
    """The document, one event a line."""
    base = int(frame["start_ns"].min() or 0) if frame.height else 0  # type: ignore[arg-type]
    other = {"producer": _PRODUCER, "base_ns": str(base)}
    yield f'{{"displayTimeUnit":"ns","otherData":{json.dumps(other)},"traceEvents":[\n'
    yield _meta("process_name", 0, {"name": _PRODUCER})
    lanes = lanes_of(frame)
    rows = {lane: row for row, lane in enumerate(sorted(set(lanes)), 1)}
    for lane, row in rows.items():
        name = track_names.get(lane.track, f"track {lane.track}")
        name += " (execution)" if lane.executed else ""
        name += f" ({lane.number + 1})" if lane.number else ""
        yield ",\n" + _meta("thread_name", row, {"name": name})
        yield ",\n" + _meta("thread_sort_index", row, {"sort_index": row})
    for span, lane in zip(frame.iter_rows(named=True), lanes, strict=True):
        row = rows[lane]
        yield ",\n" + _event(span, base, row)
        if span["correlation"] and span["kind"] in ("launch", "exec"):
            yield ",\n" + _flow(span, base, row)
    yield "\n]}\n"


def _event(span: Mapping[str, Any], base: int, row: int) -> str:
    args: dict[str, Any] = {
        key: span[key]
        for key in ("span", "parent", "level", "kind", "track", "correlation", "run", "site")
        if span[key] is not None
    }
    if span["attributes"] is not None:
        args["attributes"] = span["attributes"]
    level = span["level"]
    category = _CATEGORIES.get(level, str(level))
    return (
        f'{{"ph":"X","pid":{_PID},"tid":{row},"ts":{_us(span["start_ns"] - base)},'
        f'"dur":{_us(span["end_ns"] - span["start_ns"])},"name":{json.dumps(span["name"])},'
        f'"cat":"{category}","args":{json.dumps(args)}}}'
    )


def _flow(span: Mapping[str, Any], base: int, row: int) -> str:
    start = span["kind"] == "launch"
    bind = '"ph":"s"' if start else '"ph":"f","bp":"e"'
    identity = json.dumps(f"{span['run']}.{span['correlation']}")
    time = _us(span["start_ns"] - base)
    return f'{{{bind},"pid":{_PID},"tid":{row},"ts":{time},"id":{identity},"name":"launch","cat":"launch"}}'


def _meta(name: str, row: int, args: Mapping[str, Any]) -> str:
    return json.dumps({"ph": "M", "pid": _PID, "tid": row, "name": name, "args": args})


def _us(nanoseconds: int) -> str:
    """Microseconds with three decimals, exactly."""
    sign, value = ("-", -nanoseconds) if nanoseconds < 0 else ("", nanoseconds)
    return f"{sign}{value // 1000}.{value % 1000:03d}"


def _ns(microseconds: str | int) -> int:
    text = str(microseconds)
    if not _DECIMAL.fullmatch(text):
        raise ValueError(f"a time of {text} us is not whole nanoseconds")
    whole, _, part = text.lstrip("-").partition(".")
    value = int(whole) * 1000 + int(part.ljust(3, "0"))
    return -value if text.startswith("-") else value


def _row(event: Mapping[str, Any], base: int) -> tuple[Any, ...]:
    args = event["args"]
    start = base + _ns(event["ts"])
    own = {"name": event["name"], "start_ns": start, "end_ns": start + _ns(event["dur"])}
    return tuple(own[key] if key in own else args.get(key) for key in SPAN_SCHEMA)
