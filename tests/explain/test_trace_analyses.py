from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratoscope.explain.trace_device import (
    communication_overlap,
    device_work,
    kernel_breakdown,
    temporal_breakdown,
    type_breakdown,
    union,
    whole_steps,
)
from stratoscope.explain.trace_idle import idle_breakdown, idle_gaps
from stratoscope.explain.trace_launch import launch_stats, launches, queue_length, queue_summary
from stratoscope.explain.trace_operators import top_operators
from stratoscope.explain.trace_summary import summarise
from stratoscope.trace.spans import SPAN_SCHEMA


def frame(*rows: dict[str, Any]) -> pl.DataFrame:
    plain = {"parent": None, "track": 1, "correlation": 0, "run": 0, "site": None, "attributes": None}
    full = [{**plain, "span": number, **row} for number, row in enumerate(rows)]
    return pl.DataFrame([tuple(row[key] for key in SPAN_SCHEMA) for row in full], schema=SPAN_SCHEMA, orient="row")


def work(name: str, start: int, end: int, track: int = 7, correlation: int = 0) -> dict[str, Any]:
    told = {"name": name, "start_ns": start, "end_ns": end, "track": track, "correlation": correlation}
    return {**told, "level": 60, "kind": "exec"}


def call(start: int, end: int, correlation: int, name: str = "cudaLaunchKernel") -> dict[str, Any]:
    told = {"name": name, "start_ns": start, "end_ns": end, "correlation": correlation}
    return {**told, "level": 60, "kind": "launch"}


def host(name: str, start: int, end: int, level: int = 40, **more: Any) -> dict[str, Any]:
    return {"name": name, "start_ns": start, "end_ns": end, "level": level, "kind": "sync", **more}


NCCL = "ncclDevKernel_AllReduce_Sum_f32"
#: Two streams: computation 0-10 and 30-50, communication 5-35 on the other, a copy 60-64.
TWO_STREAMS = frame(
    work("gemm", 0, 10),
    work("gemm", 30, 50),
    work(NCCL, 5, 35, track=8),
    work("Memcpy HtoD (Pinned -> Device)", 60, 64),
)


def test_types_go_by_name_and_only_executions_count() -> None:
    spans = frame(
        work("ncclKernel_x", 0, 1),
        work("Memset (Device)", 0, 1),
        work("my_nccl_like", 0, 1),
        work("sgemm Memcpy", 0, 1),
        host("gemm", 0, 1, level=60),
        {**work("Stream Sync", 0, 1), "level": 50},
        {**work("ProfilerStep#1", 0, 1), "level": 10},
    )
    types = device_work(spans).select("name", "type").rows()
    assert types == [
        ("ncclKernel_x", "communication"),
        ("Memset (Device)", "memory"),
        ("my_nccl_like", "computation"),
        ("sgemm Memcpy", "computation"),
    ]


def test_kernels_are_counted_summed_and_ranked_by_name() -> None:
    rows = kernel_breakdown(TWO_STREAMS).to_dicts()
    gemm, nccl, copy = rows[1], rows[0], rows[2]  # both sum up to 30: by name then
    assert [row["sum_ns"] for row in rows] == [30, 30, 4]
    if gemm["name"] != "gemm":
        gemm, nccl = nccl, gemm
    assert (gemm["count"], gemm["mean_ns"], gemm["min_ns"], gemm["max_ns"]) == (2, 15.0, 10, 20)
    assert gemm["std_ns"] == pytest.approx(50**0.5)
    assert (nccl["count"], nccl["std_ns"], nccl["share"]) == (1, None, 30 / 64)
    assert copy["type"] == "memory"


def test_overlapping_work_counts_once_and_the_parts_make_the_whole() -> None:
    found = temporal_breakdown(TWO_STREAMS)
    assert found is not None
    # busy: 0-50 and 60-64; computation: 0-10 and 30-50; communication 5-35
    assert (found.total_ns, found.idle_ns, found.compute_ns, found.non_compute_ns) == (64, 10, 30, 24)
    assert (found.communication_ns, found.memory_ns) == (30, 4)
    types = {types: time for types, time, _ in type_breakdown(TWO_STREAMS).iter_rows()}
    assert types == {"computation": 20, "communication": 20, "computation + communication": 10, "memory": 4}
    assert communication_overlap(TWO_STREAMS) == 10 / 30


def test_without_work_there_is_nothing_to_break_down() -> None:
    spans = frame(host("a", 0, 5))
    assert temporal_breakdown(spans) is None
    assert communication_overlap(spans) is None
    assert [f(spans).height for f in (kernel_breakdown, type_breakdown, idle_breakdown, launches, queue_length)] == [
        0
    ] * 5


times = st.tuples(st.integers(0, 40), st.integers(0, 12), st.sampled_from(["gemm", NCCL, "Memcpy"]), st.integers(7, 8))


@given(st.lists(times, max_size=12))
def test_breakdowns_agree_with_counting_every_nanosecond(parts: list[tuple[int, int, str, int]]) -> None:
    spans = frame(*(work(name, start, start + length, track) for start, length, name, track in parts))
    running = {kind: np.zeros(60, bool) for kind in ("gemm", NCCL, "Memcpy")}
    for start, length, name, _ in parts:
        running[name][start : start + length] = True
    busy = np.logical_or.reduce(list(running.values()))
    found = temporal_breakdown(spans)
    if not busy.any():
        assert found is None
        return
    assert found is not None
    first, last = int(np.argmax(busy)), 60 - int(np.argmax(busy[::-1]))
    assert found.total_ns == last - first
    assert found.idle_ns == last - first - busy.sum()
    assert (found.compute_ns, found.communication_ns) == (running["gemm"].sum(), running[NCCL].sum())
    assert found.total_ns == found.compute_ns + found.non_compute_ns + found.idle_ns
    assert type_breakdown(spans)["time_ns"].sum() == busy.sum()
    if running[NCCL].any():
        assert communication_overlap(spans) == (running[NCCL] & running["gemm"]).sum() / running[NCCL].sum()


@given(st.lists(st.tuples(st.integers(-20, 40), st.integers(0, 12)), max_size=12))
def test_a_union_is_disjoint_sorted_and_covers_the_same(parts: list[tuple[int, int]]) -> None:
    start = np.array([one for one, _ in parts], np.int64)
    begin, end = union(start, start + np.array([length for _, length in parts], np.int64))
    assert (begin < end).all()
    assert (begin[1:] > end[:-1]).all()
    covered = {moment for one, length in parts for moment in range(one, one + length)}
    assert {moment for one, other in zip(begin, end, strict=True) for moment in range(one, other)} == covered


def test_causes_of_gaps_are_those_of_hta() -> None:
    spans = frame(
        *(call(0, 5, 1), work("a", 10, 20, correlation=1)),
        *(call(25, 30, 2), work("b", 40, 50, correlation=2)),  # launched after the gap began: host wait, 20
        *(call(31, 33, 3), work("c", 55, 60, correlation=3)),  # launched before, short: kernel wait, 5
        *(call(34, 36, 4), work("d", 160, 170, correlation=4)),  # launched before, long: other, 100
        work("e", 175, 180),  # no launch in the trace, short: kernel wait, 5
        work("f", 300, 310, track=8),  # another stream has no gap
    )
    assert idle_gaps(spans, 30).select("start_ns", "end_ns", "cause").rows() == [
        (20, 40, "host wait"),
        (50, 55, "kernel wait"),
        (60, 160, "other"),
        (170, 175, "kernel wait"),
    ]
    told = idle_breakdown(spans, 30).select("track", "cause", "gaps", "idle_ns").rows()
    assert told == [(7, "other", 1, 100), (7, "host wait", 1, 20), (7, "kernel wait", 2, 10)]
    assert idle_breakdown(spans, 30)["share"].sum() == pytest.approx(1.0)


def test_work_under_longer_work_of_its_stream_ends_no_gap() -> None:
    spans = frame(work("long", 0, 100), work("inside", 10, 20), work("next", 130, 140))
    assert idle_gaps(spans, 1).select("start_ns", "end_ns").rows() == [(100, 130)]


def test_launches_queues_and_their_outliers() -> None:
    spans = frame(
        *(call(0, 60_000, 1), work("slow call, short work", 70_000, 80_000, correlation=1)),
        *(call(61_000, 65_000, 2), work("late", 200_000, 300_000, correlation=2)),
        *(call(66_000, 68_000, 3), work("begins during its call", 67_000, 90_000, track=8, correlation=3)),
        *(call(0, 1, 4), call(2, 3, 4), work("two launches", 9, 10, correlation=4)),
        work("no launch", 5, 6, correlation=99),
    )
    found = launches(spans).select("work", "delay_ns", "call_ns", "work_ns").rows()
    assert found == [
        ("slow call, short work", 10_000, 60_000, 10_000),
        ("late", 135_000, 4_000, 100_000),
        ("begins during its call", 0, 2_000, 23_000),
    ]
    stats = launch_stats(spans)
    assert (stats["launches"], stats["short_work"], stats["slow_calls"], stats["delayed"]) == (3, 1, 1, 1)
    assert (stats["call_ns_median"], stats["delay_ns_median"]) == (4_000, 10_000)
    series = queue_length(spans).filter(pl.col("track") == 7).select("time_ns", "queued").rows()
    assert series == [(0, 1), (61_000, 2), (70_000, 1), (200_000, 0)]
    weighted = (1 * 61_000 + 2 * 9_000 + 1 * 130_000) / 200_000
    assert queue_summary(spans).row(0) == (7, 2, pytest.approx(weighted))


def test_the_last_step_is_left_out_with_the_work_it_launched() -> None:
    spans = frame(
        host("ProfilerStep#1", 0, 100, level=10),
        host("ProfilerStep#2", 100, 200, level=10),
        call(10, 20, 1),
        call(110, 120, 2),
        work("first", 150, 160, correlation=1),  # runs during the second step
        work("second", 170, 180, correlation=2),
        work("from nowhere", 30, 40, correlation=3),
    )
    assert whole_steps(spans)["name"].to_list() == ["ProfilerStep#1", "cudaLaunchKernel", "first"]
    assert whole_steps(spans.filter(pl.col("name") != "ProfilerStep#2")).height == 6


def test_operators_by_self_time_with_the_device_time_they_launched() -> None:
    spans = frame(
        host("linear", 0, 100),
        host("addmm", 10, 60, parent=0),
        host("linear", 20, 30, parent=1),  # the same name inside: counts once in the total
        {**call(40, 50, 1), "parent": 1},
        {**work("gemm", 200, 270, correlation=1), "parent": 1},
        host("module", 0, 100, level=30, track=2),
    )
    rows = {row["name"]: row for row in top_operators(spans).to_dicts()}
    assert set(rows) == {"linear", "addmm"}
    assert (rows["linear"]["count"], rows["linear"]["total_ns"], rows["linear"]["self_ns"]) == (2, 100, 60)
    assert (rows["addmm"]["total_ns"], rows["addmm"]["self_ns"], rows["addmm"]["device_ns"]) == (50, 30, 70)
    assert rows["linear"]["share"] == pytest.approx(60 / 90)


def test_a_summary_holds_json_values_and_none_where_there_is_no_device() -> None:
    import json

    told = json.loads(json.dumps(summarise(TWO_STREAMS).as_dict()))
    assert (told["duration_ns"], told["temporal"]["idle_ns"], told["kernels"][2]["sum_ns"]) == (64, 10, 4)
    nothing = summarise(frame(host("conv", 0, 5, level=30))).as_dict()
    assert (nothing["temporal"], nothing["kernels"], nothing["operator_level"]) == (None, None, 30)
    assert nothing["operators"][0]["name"] == "conv"
    assert summarise(frame()).as_dict()["spans"] == 0
