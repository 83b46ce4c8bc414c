"""Writes spans as OpenTelemetry (OTLP/JSON), to a file or to a collector's OTLP/HTTP address.

Encoding: "OTLP/JSON Protobuf Encoding" and "OTLP/HTTP" of the OpenTelemetry specification 1.x: ids as hexadecimal,
64-bit numbers as text. Trace back ends are made for requests, not kernels: only spans down to the layers are sent
unless more are asked for.
"""

from __future__ import annotations

import hashlib
import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import polars as pl

from stratoscope._version import __version__
from stratoscope.errors import TraceError
from stratoscope.trace.correlate import parent_rows
from stratoscope.trace.files import written_whole
from stratoscope.trace.levels import Level

#: Spans in one request.
BATCH: Final = 2000
_INTERNAL: Final = 1  # the span kind of work inside a process
_NUMBERS: Final = ("span", "level", "track", "correlation", "run")
_TEXTS: Final = ("kind", "site", "attributes")


def write_otlp(
    spans: pl.DataFrame,
    path: Path,
    *,
    deepest: int = Level.LAYER,
    unix_offset_ns: int = 0,
    service: str = "stratoscope",
) -> int:
    """Writes the spans down to level `deepest` as one OTLP/JSON request; returns how many. Arguments: see `push_otlp`.

    Raises:
        TraceError: the file cannot be written, or a time lies before 1970 once the offset is added.
    """
    rows = _spans(spans, deepest, unix_offset_ns)
    with written_whole(path) as file:
        file.write(json.dumps(_request(rows, service)).encode())
    return len(rows)


def push_otlp(
    spans: pl.DataFrame,
    address: str,
    *,
    deepest: int = Level.LAYER,
    unix_offset_ns: int = 0,
    service: str = "stratoscope",
    timeout_s: float = 10.0,
) -> int:
    """Sends spans to a collector, a few thousand at a time; returns how many it took.

    Args:
        spans: correlated spans (trace.spans.SPAN_SCHEMA). Each run is a trace of its own; a span whose parent is deeper
            than `deepest` does not occur, as parents are never deeper than their children.
        address: http:// or https:// URL of the collector; /v1/traces is appended where it names no path.
        deepest: the deepest level that is sent.
        unix_offset_ns: what makes UNIX time of the spans' times.
        service: name under which the collector lists them.
        timeout_s: for each request.

    Raises:
        TraceError: the address is none, nobody answers, or the collector refuses.
    """
    _host(address)
    rows = _spans(spans, deepest, unix_offset_ns)
    taken = 0
    for first in range(0, len(rows), BATCH):
        batch = rows[first : first + BATCH]
        taken += len(batch) - _post(address, json.dumps(_request(batch, service)).encode(), timeout_s)
    return taken


def _spans(spans: pl.DataFrame, deepest: int, unix_offset_ns: int) -> list[dict[str, Any]]:
    kept = spans.filter(pl.col("level") <= deepest)
    if kept.height and int(kept["start_ns"].min()) + unix_offset_ns < 0:  # type: ignore[arg-type]
        raise TraceError("a span lies before 1970, which OTLP cannot hold", hint="give the clock's offset to UNIX time")
    there = pl.col("parent").is_in(kept["span"].implode())
    kept = kept.with_columns(parent=pl.when(there).then("parent"))
    parent_rows(kept)  # refuses ids that are used twice
    digest = hashlib.sha256(spans.select("span", "start_ns", "end_ns", "level").hash_rows().to_numpy().tobytes())
    traces = {
        run: hashlib.sha256(f"{digest.hexdigest()} {run}".encode()).hexdigest()[:32] for run in kept["run"].unique()
    }
    return list(_encoded(kept, traces, unix_offset_ns))


def _encoded(spans: pl.DataFrame, traces: dict[int, str], unix_offset_ns: int) -> Iterator[dict[str, Any]]:
    for span in spans.iter_rows(named=True):
        attributes = [_attribute(key, {"intValue": str(span[key])}) for key in _NUMBERS]
        attributes += [_attribute(key, {"stringValue": span[key]}) for key in _TEXTS if span[key] is not None]
        yield {
            "traceId": traces[span["run"]],
            "spanId": _span_id(span["span"]),
            **({} if span["parent"] is None else {"parentSpanId": _span_id(span["parent"])}),
            "name": span["name"],
            "kind": _INTERNAL,
            "startTimeUnixNano": str(span["start_ns"] + unix_offset_ns),
            "endTimeUnixNano": str(span["end_ns"] + unix_offset_ns),
            "attributes": attributes,
        }


def _span_id(span: int) -> str:
    """Sixteen hexadecimal digits, never all zero, which would mean "none"."""
    return format((span + 1) & 0xFFFFFFFFFFFFFFFF or 1 << 63, "016x")


def _attribute(key: str, value: dict[str, str]) -> dict[str, Any]:
    return {"key": f"stratoscope.{key}", "value": value}


def _request(spans: list[dict[str, Any]], service: str) -> dict[str, Any]:
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": service}}]}
    scope = {"name": "stratoscope", "version": __version__}
    return {"resourceSpans": [{"resource": resource, "scopeSpans": [{"scope": scope, "spans": spans}]}]}


def _post(address: str, body: bytes, timeout_s: float) -> int:
    """Sends one request; returns how many of its spans the collector rejected."""
    url, (host, port) = urlsplit(address), _host(address)
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    connection = kind(host, port, timeout=timeout_s)
    path = url.path if url.path not in ("", "/") else "/v1/traces"
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read(1 << 16)
    except (OSError, http.client.HTTPException) as error:
        raise TraceError(f"cannot send spans to {address}: {error}", hint="is a collector running there?") from error
    finally:
        connection.close()
    if answer.status != 200:
        raise TraceError(f"{address} answers {answer.status} {answer.reason}: {text[:200].decode(errors='replace')}")
    return _rejected(text)


def _host(address: str) -> tuple[str, int | None]:
    """Host and port of an address; refuses what is none before anything is sent."""
    try:
        url = urlsplit(address)
        host, port = url.hostname, url.port
    except ValueError as error:
        raise TraceError(f"{address!r} is no address: {error}", hint="http://localhost:4318, say") from error
    if url.scheme not in ("http", "https") or not host:
        raise TraceError(f"{address!r} is no http:// or https:// address", hint="http://localhost:4318, say")
    return host, port


def _rejected(answer: bytes) -> int:
    """How many spans a collector says it rejected; an answer without that says none."""
    try:
        partial = json.loads(answer or b"{}").get("partialSuccess") or {}
        return int(partial.get("rejectedSpans") or 0)
    except (ValueError, AttributeError, TypeError):
        return 0
