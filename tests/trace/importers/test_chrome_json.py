from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratoscope.trace.chrome import write_chrome
from stratoscope.trace.importers import import_trace
from stratoscope.trace.importers.chrome_json import import_chrome
from stratoscope.trace.importers.source import Source
from stratoscope.trace.spans import SPAN_SCHEMA

text = st.text(max_size=8)
any_span = st.fixed_dictionaries(
    {
        "level": st.integers(0, 255),
        "kind": st.sampled_from(["sync", "launch", "exec", "instant", None]),
        "name": text,
        "track": st.integers(-(2**40), 2**40),
        "start_ns": st.integers(0, 2**50),
        "length": st.integers(0, 2**40),
        "correlation": st.integers(0, 2**40),
        "run": st.integers(0, 1000),
        "site": st.none() | text,
        "attributes": st.none() | st.dictionaries(text, text, max_size=2).map(json.dumps),
    }
)


def frame(rows: list[dict[str, Any]]) -> pl.DataFrame:
    full = [
        {**row, "span": number, "parent": number - 1 if number % 3 else None, "end_ns": row["start_ns"] + row["length"]}
        for number, row in enumerate(rows)
    ]
    return pl.DataFrame([tuple(row[key] for key in SPAN_SCHEMA) for row in full], schema=SPAN_SCHEMA, orient="row")


@settings(deadline=None, max_examples=60)
@given(st.lists(any_span, max_size=8), st.sampled_from(["t.json", "t.json.gz"]))
def test_what_we_write_is_read_back_the_same(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], name: str
) -> None:
    path = tmp_path_factory.mktemp("own") / name
    spans = frame(rows)
    write_chrome(spans, path)
    trace = import_trace(path)
    assert trace.spans.equals(spans)
    assert dict(trace.spans.schema) == dict(SPAN_SCHEMA)
    assert trace.report.format == "stratoscope"
    assert not trace.report.dropped


def test_our_own_file_cut_in_the_middle_gives_whole_spans_without_lost_parents(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    spans = frame(
        [
            {**dict.fromkeys(("correlation", "run"), 0), "level": 30, "kind": "sync", "name": f"s{k}", "track": 1}
            | {"start_ns": k, "length": 1, "site": None, "attributes": None}
            for k in range(40)
        ]
    ).with_columns(parent=pl.lit(39, dtype=pl.Int64))
    write_chrome(spans, path)
    path.write_bytes(path.read_bytes()[:3000])
    trace = import_trace(path)
    assert 5 < trace.spans.height < 39
    assert trace.spans.drop("parent").equals(spans[: trace.spans.height].drop("parent"))
    assert trace.spans["parent"].null_count() == trace.spans.height
    assert f"{trace.spans.height} spans have lost their parent" in trace.report.notes


def generic(folder: Path, *events: dict[str, Any]) -> Any:
    path = folder / "t.json"
    path.write_text(json.dumps(list(events)))
    return import_chrome(Source(path))


def test_begins_and_ends_pair_up_within_their_thread_even_out_of_order(tmp_path: Path) -> None:
    plain = {"pid": 1, "cat": "layer"}
    trace = generic(
        tmp_path,
        {"ph": "E", "tid": 1, "ts": 9, **plain},
        {"ph": "B", "tid": 1, "ts": 1, "name": "outer", "args": {"a": 1}, **plain},
        {"ph": "B", "tid": 1, "ts": 2, "name": "inner", **plain},
        {"ph": "B", "tid": 2, "ts": 3, "name": "other", **plain},
        {"ph": "E", "tid": 1, "ts": 5, **plain},
        {"ph": "E", "tid": 2, "ts": 7.5, **plain},
    )
    told = sorted(trace.spans.select("name", "start_ns", "end_ns", "level").iter_rows())
    assert told == [("inner", 2000, 5000, 30), ("other", 3000, 7500, 30), ("outer", 1000, 9000, 30)]
    outer = trace.spans.filter(pl.col("name") == "outer")["attributes"][0]
    assert json.loads(outer) == {"category": "layer", "a": 1}
    assert (trace.report.records, trace.report.spans) == (3, 3)


def test_ends_and_begins_without_the_other_are_dropped_and_counted(tmp_path: Path) -> None:
    trace = generic(
        tmp_path,
        {"ph": "E", "pid": 1, "tid": 1, "ts": 1},
        {"ph": "B", "pid": 1, "tid": 1, "ts": 2, "name": "a"},
        {"ph": "b", "pid": 1, "tid": 1, "ts": 2, "name": "a", "id": 5, "cat": "c"},
        {"ph": "X", "pid": 1, "tid": 1, "ts": 2, "dur": 1, "name": "kept"},
    )
    assert trace.spans["name"].to_list() == ["kept"]
    assert dict(trace.report.dropped) == {"an end without a begin": 1, "a begin without an end": 2}
    assert trace.report.records == trace.report.spans + sum(trace.report.dropped.values())


def test_asynchronous_pairs_overlap_on_tracks_of_their_own(tmp_path: Path) -> None:
    trace = generic(
        tmp_path,
        {"ph": "b", "pid": 1, "tid": 1, "ts": 1, "name": "request", "cat": "http", "id": "0x1"},
        {"ph": "b", "pid": 1, "tid": 1, "ts": 2, "name": "request", "cat": "http", "id": "0x2"},
        {"ph": "e", "pid": 1, "tid": 1, "ts": 3, "name": "request", "cat": "http", "id": "0x1"},
        {"ph": "e", "pid": 1, "tid": 1, "ts": 4, "name": "request", "cat": "http", "id": "0x2"},
    )
    assert sorted(trace.spans.select("start_ns", "end_ns").iter_rows()) == [(1000, 3000), (2000, 4000)]
    assert trace.spans["track"].n_unique() == 2


def test_instants_and_counters_are_instants_and_arrows_are_counted(tmp_path: Path) -> None:
    trace = generic(
        tmp_path,
        {"ph": "i", "pid": 1, "tid": 1, "ts": 4, "name": "mark"},
        {"ph": "C", "pid": 1, "ts": 5, "name": "memory", "args": {"bytes": 7}},
        {"ph": "s", "pid": 1, "tid": 1, "ts": 5, "id": 1, "name": "arrow"},
        {"ph": "M", "pid": 1, "name": "process_name", "args": {"name": "server"}},
    )
    told = trace.spans.select("name", "kind", "start_ns", "end_ns", "attributes").rows()
    assert told == [("mark", "instant", 4000, 4000, None), ("memory", "instant", 5000, 5000, '{"bytes": 7}')]
    assert dict(trace.report.skipped) == {"arrow between spans": 1, "metadata": 1}
    assert trace.tracks["name"][0] == "server thread 1"


HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "time beyond 64 bits": ({"ts": 2**63, "dur": 1}, "no usable time"),
    "negative duration": ({"ts": 5, "dur": -1}, "no duration, or a negative one"),
    "no duration": ({"ts": 5}, "no duration, or a negative one"),
    "no time": ({"dur": 5}, "no usable time"),
    "time of words": ({"ts": "soon", "dur": 1}, "no usable time"),
    "endless": ({"ts": 1, "dur": 1e300}, "ends beyond 64-bit nanoseconds"),
    "list for a name": ({"ts": 1, "dur": 1, "name": [1]}, "a field of another type, or an unknown phase"),
    "unknown phase": ({"ts": 1, "dur": 1, "ph": "?!"}, "a field of another type, or an unknown phase"),
    "duration of words": ({"ts": 1, "dur": "long"}, "a field of another type, or an unknown phase"),
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("attributes", [True, False])
def test_a_hostile_event_is_dropped_with_its_reason_and_the_rest_is_kept(
    tmp_path: Path, case: str, attributes: bool
) -> None:
    bad, reason = HOSTILE[case]
    good = {"ph": "X", "pid": 1, "tid": 1, "ts": 1, "dur": 2, "name": "good"}
    path = tmp_path / "t.json"
    path.write_text(json.dumps({"traceEvents": [good, {"ph": "X", "pid": 1, "tid": 1, **bad}, good]}))
    trace = import_trace(path, attributes=attributes)
    assert trace.spans["name"].to_list() == ["good", "good"]
    assert dict(trace.report.dropped) == {reason: 1}
    assert (trace.report.records, trace.report.spans) == (3, 2)


@pytest.mark.parametrize("value", [2**63, 2**70, -1, "0x1f", "word", 1.5, None, [1], {}, True])
@pytest.mark.parametrize("attributes", [True, False])
def test_odd_correlation_ids_do_not_cost_other_events_theirs(tmp_path: Path, value: Any, attributes: bool) -> None:
    events = [
        {"ph": "X", "pid": 1, "tid": 1, "ts": k, "dur": 1, "name": "a", "args": {"correlation": one}}
        for k, one in enumerate([7, value, 9])
    ]
    path = tmp_path / "t.json"
    path.write_text(json.dumps(events))
    trace = import_trace(path, attributes=attributes)
    first, last = trace.spans.sort("start_ns")["correlation"][0], trace.spans.sort("start_ns")["correlation"][-1]
    assert (first, last) == (7, 9)
    assert trace.report.records == 3


def test_overlapping_spans_are_kept_as_they_are(tmp_path: Path) -> None:
    plain = {"ph": "X", "pid": 1, "tid": 1, "name": "a"}
    trace = generic(tmp_path, {**plain, "ts": 0, "dur": 10}, {**plain, "ts": 5, "dur": 10})
    assert trace.spans.select("start_ns", "end_ns").rows() == [(0, 10_000), (5_000, 15_000)]


def test_onnx_runtimes_profile_has_inferences_with_their_nodes(tmp_path: Path) -> None:
    plain = {"pid": 9, "tid": 9, "ph": "X"}
    events = [
        {"cat": "Session", "name": "session_initialization", "ts": 1, "dur": 90, "args": {}, **plain},
        {"cat": "Node", "name": "conv_kernel_time", "ts": 102, "dur": 5, "args": {"op_name": "Conv"}, **plain},
        {"cat": "Node", "name": "Reorder_token_7_kernel_time", "ts": 108, "dur": 1, "args": {}, **plain},
        {"cat": "Session", "name": "SequentialExecutor::Execute", "ts": 101, "dur": 12, "args": {}, **plain},
        {"cat": "Session", "name": "model_run", "ts": 100, "dur": 14, "args": {}, **plain},
        {"cat": "Node", "name": "conv_kernel_time", "ts": 202, "dur": 6, "args": {"op_name": "Conv"}, **plain},
        {"cat": "Session", "name": "model_run", "ts": 200, "dur": 15, "args": {}, **plain},
    ]
    path = tmp_path / "profile.json.gz"
    path.write_bytes(gzip.compress(json.dumps(events).encode()))
    trace = import_trace(path)
    assert trace.report.format == "onnxruntime"
    told = trace.spans.sort("start_ns").select("name", "level", "run").rows()
    assert told == [
        ("session_initialization", 10, 0),
        ("model_run", 20, 0),
        ("SequentialExecutor::Execute", 20, 0),
        ("conv", 30, 0),
        ("Reorder", 30, 0),
        ("model_run", 20, 1),
        ("conv", 30, 1),
    ]
