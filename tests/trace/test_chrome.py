from __future__ import annotations

import errno
import gzip
import json
import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratoscope.errors import TraceError
from stratoscope.trace.chrome import read_chrome, write_chrome
from stratoscope.trace.spans import SPAN_SCHEMA


def frame(*rows: dict[str, Any]) -> pl.DataFrame:
    plain = {"parent": None, "kind": "sync", "track": 1, "correlation": 0, "run": 0, "site": None, "attributes": None}
    full = [{**plain, "span": number, "level": 30, "name": f"s{number}", **row} for number, row in enumerate(rows)]
    return pl.DataFrame([tuple(row[key] for key in SPAN_SCHEMA) for row in full], schema=SPAN_SCHEMA, orient="row")


def span(start: int, end: int, **more: Any) -> dict[str, Any]:
    return {"start_ns": start, "end_ns": end, **more}


def events(path: Path, phase: str) -> list[dict[str, Any]]:
    document = json.loads(path.read_text(), parse_float=str)
    return [event for event in document["traceEvents"] if event["ph"] == phase]


def test_times_are_microseconds_since_the_first_span_to_the_nanosecond(tmp_path: Path) -> None:
    day = 86_400 * 10**9 + 7
    write_chrome(frame(span(day + 1_234_567, day + 1_234_567), span(day, day + 2_000_001)), tmp_path / "t.json")
    told = [(event["name"], event["ts"], event["dur"]) for event in events(tmp_path / "t.json", "X")]
    assert told == [("s0", "1234.567", "0.000"), ("s1", "0.000", "2000.001")]
    document = json.loads((tmp_path / "t.json").read_text())
    assert (document["displayTimeUnit"], document["otherData"]["base_ns"]) == ("ns", str(day))


def test_tracks_are_rows_with_names_and_executions_have_their_own(tmp_path: Path) -> None:
    spans = frame(
        span(0, 100, level=20),
        span(10, 12, kind="launch", correlation=5, level=60),
        span(20, 90, kind="exec", correlation=5, level=60),
        span(5, 6, track=77),
    )
    write_chrome(spans, tmp_path / "t.json", {1: "main thread"})
    meta = [event for event in events(tmp_path / "t.json", "M") if event["name"] == "thread_name"]
    rows = {event["tid"]: event["args"]["name"] for event in meta}
    names = [rows[event["tid"]] for event in events(tmp_path / "t.json", "X")]
    assert names == ["main thread", "main thread", "main thread (execution)", "track 77"]
    (start,), (finish,) = events(tmp_path / "t.json", "s"), events(tmp_path / "t.json", "f")
    assert (start["id"], start["ts"], rows[start["tid"]]) == (finish["id"], "0.010", "main thread")
    assert (finish["ts"], finish["bp"], rows[finish["tid"]]) == ("0.020", "e", "main thread (execution)")
    assert [event["cat"] for event in events(tmp_path / "t.json", "X")] == ["model", "kernel", "kernel", "layer"]


intervals = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 10)), max_size=12)


@settings(deadline=None, max_examples=50)
@given(intervals)
def test_events_of_one_row_always_nest(tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[int, int]]) -> None:
    path = tmp_path_factory.mktemp("trace") / "t.json"
    write_chrome(frame(*(span(start, start + length) for start, length in parts)), path)
    found = [(e["tid"], int(e["ts"].replace(".", "")), int(e["dur"].replace(".", ""))) for e in events(path, "X")]
    for tid, start, duration in found:
        for other, begin, length in found:
            assert not (tid == other and start < begin < start + duration < begin + length)


text = st.text(max_size=8)
any_span = st.fixed_dictionaries(
    {
        "level": st.integers(0, 255),
        "kind": st.sampled_from(["sync", "launch", "exec", "instant", None]),
        "name": text,
        "track": st.integers(-(2**62), 2**62),
        "start_ns": st.integers(0, 2**62),
        "correlation": st.integers(0, 3),
        "run": st.integers(0, 2**31 - 1),
        "site": st.none() | text,
        "attributes": st.none() | st.dictionaries(text, st.integers() | text).map(json.dumps),
        "parent": st.none() | st.integers(0, 5),
        "length": st.integers(0, 2**61),
    }
)


@settings(deadline=None, max_examples=50)
@given(st.lists(any_span, max_size=6), st.sampled_from(["t.json", "t.json.gz"]))
def test_what_is_written_reads_back_the_same(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], name: str
) -> None:
    path = tmp_path_factory.mktemp("trace") / name
    spans = frame(*({**row, "end_ns": row["start_ns"] + row["length"]} for row in rows))
    write_chrome(spans, path)
    again = read_chrome(path)
    assert dict(again.schema) == dict(SPAN_SCHEMA)
    assert again.rows() == spans.rows()


def test_gz_is_compressed_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    spans = frame(span(0, 10), span(2, 5))
    for name in ("a.json.gz", "b.json.gz", "c.json"):
        write_chrome(spans, tmp_path / name)
    assert (tmp_path / "a.json.gz").read_bytes() == (tmp_path / "b.json.gz").read_bytes()
    assert gzip.decompress((tmp_path / "a.json.gz").read_bytes()) == (tmp_path / "c.json").read_bytes()


def full(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.json"
    path.write_text("old")
    good = frame(span(0, 1))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(TraceError, match=r"cannot write .*No space left"):
            write_chrome(good, path)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["t.json"]
    with pytest.raises(TraceError, match=r"cannot write .*nowhere"):
        write_chrome(good, tmp_path / "nowhere" / "t.json")
    (tmp_path / "folder").mkdir()
    with pytest.raises(TraceError, match=r"cannot write .*folder"):
        write_chrome(good, tmp_path / "folder")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["folder", "t.json"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"traceEvents": []}',
        b'{"otherData": {"producer": "stratoscope", "base_ns": "x"}, "traceEvents": []}',
        b'{"otherData": {"producer": "stratoscope", "base_ns": "0"}, "traceEvents": [{"ph": "X"}]}',
        b'{"otherData": {"producer": "stratoscope", "base_ns": "0"}, "traceEvents": '
        b'[{"ph": "X", "ts": 1e99, "dur": 0, "name": "a", "args": {}}]}',
        b"\xff\xfe",
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    for name in ("t.json", "t.json.gz"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(TraceError, match=rf"{name}"):
            read_chrome(tmp_path / name)
    with pytest.raises(TraceError, match=r"cannot read .*absent"):
        read_chrome(tmp_path / "absent.json")
