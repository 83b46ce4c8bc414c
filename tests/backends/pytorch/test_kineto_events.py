"""Spans from the profiler's events as a GPU makes them: launches, executions that come later, copies."""

from __future__ import annotations

import json

import polars as pl
import pytest

from stratoscope.backends.pytorch.operator_trace import LAYER_MARK, RUN_MARK, STREAM_TRACKS, Event, Recorded, spans_of
from stratoscope.errors import BackendError
from stratoscope.trace.levels import Level

pytestmark = pytest.mark.torch

STREAM = STREAM_TRACKS + 7
UNIX = 1_795_000_000_000_000_000


def recorded(*events: Event, start: int = 1_000, end: int = 2_000) -> Recorded:
    return Recorded(list(events), start, end, thread=42)


def event(name: str, start: int, end: int, activity: str = "cpu_op", track: int = 1, correlation: int = 0) -> Event:
    return Event(name, activity, UNIX + start, UNIX + end, track, correlation)


MARK = event(RUN_MARK, 1_010, 1_990)
GPU_RUN = (
    MARK,
    event(f"{LAYER_MARK}0", 1_020, 1_300),
    event("aten::mm", 1_030, 1_290),
    event("cudaLaunchKernel", 1_100, 1_120, "cuda_runtime", correlation=5),
    event("aten::before_the_run", 900, 950),
    event("sgemm_128x64", 1_400, 1_900, "kernel", STREAM, 5),
    event("cudaMemcpyAsync", 1_310, 1_320, "cuda_runtime", correlation=6),
    event("Memcpy DtoH", 1_900, 2_500, "gpu_memcpy", STREAM, 6),
)


def test_execution_stands_under_the_operator_that_launched_it() -> None:
    spans = spans_of([recorded(*GPU_RUN)], "net", ["fc"], ["{}"]).frame()
    above = dict(spans.join(spans.select(parent="span", above="name"), on="parent").select("name", "above").iter_rows())
    assert above == {
        "fc": "net",
        "aten::mm": "fc",
        "cudaLaunchKernel": "aten::mm",
        "sgemm_128x64": "aten::mm",
        "cudaMemcpyAsync": "net",
        "Memcpy DtoH": "net",
    }
    kinds = dict(spans.select("name", pl.col("kind").cast(pl.String)).iter_rows())
    assert kinds["cudaLaunchKernel"] == "launch"
    assert kinds["sgemm_128x64"] == kinds["Memcpy DtoH"] == "exec"
    levels = dict(spans.select("name", "level").iter_rows())
    assert levels["sgemm_128x64"] == Level.KERNEL
    assert json.loads(spans.filter(pl.col("name") == "Memcpy DtoH")["attributes"][0]) == {"activity": "gpu_memcpy"}


def test_clock_of_the_events_is_put_on_ours_within_the_bounds_of_all_runs() -> None:
    # Each run bounds the offset to the 10 ns before its mark and after it; the second run leaves 4 ns of them.
    first = recorded(MARK, start=1_000, end=2_000)
    second = recorded(event(RUN_MARK, 3_010, 3_990), start=3_006, end=3_992)
    spans = spans_of([first, second], "net").frame()
    model = spans.filter(pl.col("level") == Level.MODEL.value).sort("run")
    assert model["start_ns"].to_list() == [1_009, 3_009]
    assert json.loads(model["attributes"][0]) == {"clock_error_ns": 3}


def test_operators_of_the_main_thread_are_on_the_track_of_the_call() -> None:
    spans = spans_of([recorded(*GPU_RUN)], "net", ["fc"], ["{}"]).frame()
    tracks = dict(spans.select("name", "track").iter_rows())
    assert tracks["aten::mm"] == 42
    assert tracks["sgemm_128x64"] == STREAM


def test_profile_without_the_mark_of_its_run_is_refused() -> None:
    with pytest.raises(BackendError, match="holds 0 marks"):
        spans_of([recorded(event("aten::mm", 1_100, 1_200))], "net")
