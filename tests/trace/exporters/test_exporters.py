from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratoscope.errors import TraceError
from stratoscope.trace.exporters import export_trace, push_otlp
from stratoscope.trace.exporters.otlp import write_otlp
from stratoscope.trace.importers import import_trace
from stratoscope.trace.spans import SPAN_SCHEMA

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
any_span = st.fixed_dictionaries(
    {
        "level": st.sampled_from([10, 20, 30, 40, 60]),
        "kind": st.sampled_from(["sync", "launch", "exec", "instant", None]),
        "name": text,
        "track": st.integers(-3, 2**40),
        "start_ns": st.integers(0, 60) | st.integers(0, 2**60),
        "length": st.integers(0, 30) | st.integers(0, 2**50),
        "correlation": st.integers(-5, 2**40),
        "run": st.integers(0, 3),
        "site": st.none() | text,
        "attributes": st.none() | st.dictionaries(text, text, max_size=2).map(json.dumps),
    }
)
spans = st.lists(any_span, max_size=8)


def frame(rows: list[dict[str, Any]]) -> pl.DataFrame:
    full = [
        {**row, "span": number, "parent": number - 1 if number % 3 else None, "end_ns": row["start_ns"] + row["length"]}
        for number, row in enumerate(rows)
    ]
    return pl.DataFrame([tuple(row[key] for key in SPAN_SCHEMA) for row in full], schema=SPAN_SCHEMA, orient="row")


# A protobuf reader of its own, after the wire format's documentation: field number -> values, in order.
def fields(data: bytes) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {}
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        key = varint()
        if key & 7 == 0:
            value: Any = varint()
        elif key & 7 == 1:
            value, at = int.from_bytes(data[at : at + 8], "little"), at + 8
        else:
            assert key & 7 == 2
            size = varint()
            value, at = data[at : at + size], at + size
        found.setdefault(key >> 3, []).append(value)
    return found


def signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def read_perfetto(path: Path) -> tuple[list[dict[str, Any]], dict[int, str]]:
    """Spans as Perfetto pairs them (an end closes the innermost open slice of its track), and the names of tracks."""
    names: dict[int, str] = {}
    keys: dict[int, str] = {}
    tracks: dict[int, str] = {}
    stacks: dict[int, list[dict[str, Any]]] = {}
    found = []
    for data in fields(path.read_bytes()).get(1, []):
        packet = fields(data)
        if 60 in packet:
            descriptor = fields(packet[60][0])
            tracks[descriptor[1][0]] = descriptor.get(2, [b""])[0].decode()
        if 12 in packet:
            interned = fields(packet[12][0])
            for number, table in ((2, names), (3, keys)):
                for entry in map(fields, interned.get(number, [])):
                    table[entry[1][0]] = entry[2][0].decode()
        if 11 in packet:
            event, time = fields(packet[11][0]), packet[8][0]
            stack = stacks.setdefault(event[11][0], [])
            if event[9] == [2]:
                stack.pop()["end_ns"] = time
                continue
            span: dict[str, Any] = dict.fromkeys(SPAN_SCHEMA)
            for annotation in map(fields, event[4]):
                value = annotation[4][0] if 4 in annotation else annotation[6 if 6 in annotation else 9][0]
                span[keys[annotation[1][0]]] = signed(value) if isinstance(value, int) else value.decode()
            span |= {"name": names[event[10][0]], "start_ns": time, "end_ns": time}
            found.append(span)
            if event[9] == [1]:
                stack.append(span)
    assert not any(stacks.values())
    return found, tracks


@settings(deadline=None, max_examples=80)
@given(spans)
def test_a_perfetto_trace_holds_every_span_whole(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    path = tmp_path_factory.mktemp("perfetto") / "t.pftrace"
    export_trace(frame(rows), path)
    found, _ = read_perfetto(path)
    assert sorted(found, key=lambda span: span["span"]) == frame(rows).to_dicts()


def test_times_below_zero_are_shifted_and_the_process_says_so(tmp_path: Path) -> None:
    plain = {"level": 30, "kind": "sync", "name": "a", "track": 1, "correlation": 0, "run": 0, "site": None}
    rows = [{**plain, "attributes": None, "start_ns": start, "length": 5} for start in (-7, 3)]
    export_trace(frame(rows), tmp_path / "t.pftrace")
    found, _ = read_perfetto(tmp_path / "t.pftrace")
    assert [(span["start_ns"], span["end_ns"]) for span in found] == [(0, 5), (10, 15)]
    assert b"times shifted by 7 ns" in (tmp_path / "t.pftrace").read_bytes()


def test_launch_and_execution_share_a_flow(tmp_path: Path) -> None:
    plain = {"level": 60, "name": "k", "track": 1, "run": 2, "site": None, "attributes": None, "length": 1}
    rows = [{**plain, "kind": "launch", "correlation": 9, "start_ns": 0}]
    rows.append({**plain, "kind": "exec", "correlation": 9, "start_ns": 5})
    export_trace(frame(rows), tmp_path / "t.pftrace")
    packets = [fields(one) for one in fields((tmp_path / "t.pftrace").read_bytes())[1]]
    events = [fields(packet[11][0]) for packet in packets if 11 in packet]
    assert [event[47] for event in events if 47 in event] == [event[48] for event in events if 48 in event]


@settings(deadline=None, max_examples=60)
@given(spans)
def test_parquet_gives_back_the_same_table(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    path = tmp_path_factory.mktemp("parquet") / "t.parquet"
    export_trace(frame(rows), path)
    assert import_trace(path).spans.equals(frame(rows))


def read_otlp(document: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    for span in document["resourceSpans"][0]["scopeSpans"][0]["spans"]:
        row: dict[str, Any] = dict.fromkeys(SPAN_SCHEMA)
        for attribute in span["attributes"]:
            value = attribute["value"]
            number = "intValue" in value
            row[attribute["key"].removeprefix("stratoscope.")] = (
                int(value["intValue"]) if number else value["stringValue"]
            )
        row |= {
            "name": span["name"],
            "start_ns": int(span["startTimeUnixNano"]),
            "end_ns": int(span["endTimeUnixNano"]),
        }
        row["parent"] = int(span["parentSpanId"], 16) - 1 if "parentSpanId" in span else None
        assert int(span["spanId"], 16) - 1 == row["span"]
        assert (len(span["traceId"]), len(span["spanId"])) == (32, 16)
        found.append(row)
    return found


@settings(deadline=None, max_examples=60)
@given(spans)
def test_otlp_holds_every_span_whole_and_makes_each_run_a_trace(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    path = tmp_path_factory.mktemp("otlp") / "t.otlp.json"
    written = write_otlp(frame(rows), path, deepest=70)
    document = json.loads(path.read_text())
    assert read_otlp(document) == frame(rows).to_dicts()
    assert written == len(rows)
    ids = {span["traceId"] for span in document["resourceSpans"][0]["scopeSpans"][0]["spans"]}
    assert len(ids) == len({row["run"] for row in rows})


def layered() -> pl.DataFrame:
    plain = {"kind": "sync", "track": 1, "correlation": 0, "run": 0, "site": None, "attributes": None, "length": 9}
    return frame([{**plain, "name": f"l{level}", "level": level, "start_ns": 1000} for level in (20, 30, 40)])


class _Collector(BaseHTTPRequestHandler):
    received: list[tuple[str, str, dict[str, Any]]] = []
    status, answer = 200, b"{}"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.received.append((self.path, self.headers["Content-Type"], body))
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.answer)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[tuple[str, type[_Collector]]]:
    handler = type("Collector", (_Collector,), {"received": []})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()
    thread.join()
    server.server_close()


def test_spans_down_to_the_layers_are_pushed_unless_more_are_asked_for(
    collector: tuple[str, type[_Collector]],
) -> None:
    address, handler = collector
    assert push_otlp(layered(), address, unix_offset_ns=10**18) == 2
    assert push_otlp(layered(), address + "/custom/path", deepest=40) == 3
    (path, kind, body), (other, _, deep) = handler.received
    assert (path, other, kind) == ("/v1/traces", "/custom/path", "application/json")
    assert [span["name"] for span in read_otlp(body)] == ["l20", "l30"]
    assert read_otlp(body)[0]["start_ns"] == 10**18 + 1000
    assert [span["name"] for span in read_otlp(deep)] == ["l20", "l30", "l40"]


def test_what_a_collector_rejects_is_subtracted_and_a_refusal_is_an_error(
    collector: tuple[str, type[_Collector]],
) -> None:
    address, handler = collector
    handler.answer = b'{"partialSuccess": {"rejectedSpans": "1", "errorMessage": "too old"}}'
    assert push_otlp(layered(), address) == 1
    handler.status, handler.answer = 503, b"come back later"
    with pytest.raises(TraceError, match=r"answers 503 .*: come back later"):
        push_otlp(layered(), address)


@pytest.mark.parametrize("address", ["localhost:4318", "ftp://localhost", "http://", "http://host:port", "file:///etc"])
def test_an_address_that_is_none_is_named(address: str) -> None:
    with pytest.raises(TraceError, match="is no"):
        push_otlp(layered(), address)


def test_nobody_at_the_address_is_one_clear_error() -> None:
    with pytest.raises(TraceError, match=r"cannot send spans to http://127\.0\.0\.1:9"):
        push_otlp(layered(), "http://127.0.0.1:9", timeout_s=2)


def test_a_name_without_a_format_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="names no format"):
        export_trace(layered(), tmp_path / "t.xyz")
    with pytest.raises(TraceError, match="before 1970"):
        write_otlp(layered().with_columns(start_ns=pl.lit(-5, dtype=pl.Int64)), tmp_path / "t.otlp.json")
    with pytest.raises(TraceError, match="cannot write"):
        export_trace(layered(), tmp_path / "missing" / "t.parquet")
    assert list(tmp_path.iterdir()) == []
