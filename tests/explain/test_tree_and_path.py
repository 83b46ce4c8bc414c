"""The top-down tree and the critical path, on traces small enough to draw."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratoscope.explain.analyses.leveled_trace import LeveledTrace
from stratoscope.explain.analyses.registry import analyse
from stratoscope.explain.analyses.result import AnalysisOptions, AnalysisResult, Missing
from stratoscope.explain.critical_path import critical_path
from stratoscope.explain.tree import top_down
from stratoscope.trace.levels import Level

US = 1e-6


def path(trace: LeveledTrace, run: int = 0) -> list[tuple[str, float, float, bool]]:
    """(name, start, end in us, waiting) of each step."""
    names = trace.spans["name"].to_list()
    return [(names[one.row], one.start_ns / 1000, one.end_ns / 1000, one.waiting) for one in critical_path(trace, run)]


def test_on_one_thread_all_work_is_on_the_path(spans: Any) -> None:
    spans.add(0, Level.MODEL, "net", 0, 10)
    spans.add(0, Level.LAYER, "a", 1, 4)
    spans.add(0, Level.OPERATOR, "mm", 2, 2)
    spans.add(0, Level.LAYER, "b", 6, 3)
    assert path(spans.trace()) == [
        ("net", 0, 1, False),
        ("a", 1, 2, False),
        ("mm", 2, 4, False),
        ("a", 4, 5, False),
        ("net", 5, 6, False),
        ("b", 6, 9, False),
        ("net", 9, 10, False),
    ]


def test_of_two_threads_the_one_that_is_waited_for_is_on_the_path(spans: Any) -> None:
    net = spans.add(0, Level.MODEL, "net", 0, 10)
    spans.add(0, Level.LAYER, "short", 1, 3, parent=net)
    spans.add(0, Level.LAYER, "long", 2, 6, parent=net, track=2)
    spans.add(0, Level.LAYER, "idle", 1, 2, parent=net, track=3)
    assert path(spans.trace()) == [
        ("net", 0, 1, False),
        ("short", 1, 2, False),  # the other thread was started in here, or right before
        ("long", 2, 8, False),
        ("net", 8, 10, False),
    ]


def test_a_synchronisation_leads_to_the_device_and_the_launch_back_to_the_host(spans: Any) -> None:
    spans.add(0, Level.MODEL, "net", 0, 30)
    spans.add(0, Level.LAYER, "conv", 1, 5)
    spans.add(0, Level.LIBRARY, "cudaLaunchKernel", 2, 2, kind="launch", correlation=1)
    spans.add(0, Level.KERNEL, "conv_k", 7, 10, kind="exec", correlation=1, track=9)
    spans.add(0, Level.LAYER, "relu", 6, 3)
    spans.add(0, Level.LIBRARY, "cudaLaunchKernel", 7, 1, kind="launch", correlation=2)
    spans.add(0, Level.KERNEL, "relu_k", 17, 4, kind="exec", correlation=2, track=9)
    spans.add(0, Level.LIBRARY, "cudaStreamSynchronize", 10, 13)
    assert path(spans.trace()) == [
        ("net", 0, 1, False),
        ("conv", 1, 2, False),
        ("cudaLaunchKernel", 2, 4, False),
        ("conv_k", 4, 7, True),  # from the launch to the begin of the execution
        ("conv_k", 7, 17, False),
        ("relu_k", 17, 21, False),  # launched long before: the stream held it up
        ("cudaStreamSynchronize", 21, 23, False),
        ("net", 23, 30, False),
    ]


def test_a_device_that_outlasts_the_host_ends_the_path(spans: Any) -> None:
    spans.add(0, Level.MODEL, "net", 0, 5)
    spans.add(0, Level.LIBRARY, "launch", 1, 2, kind="launch", correlation=1)
    spans.add(0, Level.KERNEL, "k", 2, 8, kind="exec", correlation=1, track=9)
    assert path(spans.trace()) == [("net", 0, 1, False), ("launch", 1, 2, False), ("k", 2, 10, False)]


def test_an_execution_without_a_launch_is_a_marker_and_no_work(spans: Any) -> None:
    spans.add(0, Level.MODEL, "net", 0, 20)
    spans.add(0, Level.LIBRARY, "cudaDeviceSynchronize", 5, 10)
    spans.add(0, Level.LIBRARY, "Context Sync", 6, 8, kind="exec", correlation=4, track=9)
    trace = spans.trace()
    assert path(trace) == [("net", 0, 5, False), ("cudaDeviceSynchronize", 5, 15, False), ("net", 15, 20, False)]
    found = analyse("critical-path", trace)
    assert isinstance(found, AnalysisResult)
    assert found.notes == ("1 executions have no launch in the trace and are left out",)
    assert tree_of(trace.of(spans.frame(), batch_size=1))[0]["share"] == 1.0


def test_a_run_without_spans_has_no_path(spans: Any) -> None:
    spans.add(0, Level.MODEL, "net", 0, 5)
    with pytest.raises(Missing, match="run 7 has no spans"):
        critical_path(spans.trace(), 7)


@given(seed=st.integers(0, 10_000))
def test_work_and_waiting_add_up_to_the_end_to_end_time(make_spans: Any, seed: int) -> None:
    chance = random.Random(seed)
    spans = make_spans()
    net = spans.add(0, Level.MODEL, "net", 0, 200)
    for number in range(chance.randint(1, 12)):
        start, kind = chance.randint(0, 150), chance.choice(["layer", "thread", "device"])
        if kind == "device":
            spans.add(0, Level.LIBRARY, "launch", start, chance.randint(0, 3), kind="launch", correlation=number + 1)
            begin = start + chance.randint(0, 40)
            spans.add(0, Level.KERNEL, "k", begin, chance.randint(0, 60), kind="exec", correlation=number + 1, track=9)
        else:
            track = 1 if kind == "layer" else chance.randint(2, 3)
            spans.add(0, Level.LAYER, kind, start, chance.randint(0, 50), parent=net, track=track)
    trace = spans.trace()
    steps = critical_path(trace, 0)
    assert steps[0].start_ns == 0
    assert steps[-1].end_ns == trace.spans["end_ns"].max()
    assert all(a.end_ns == b.start_ns for a, b in itertools.pairwise(steps))
    starts, ends = trace.spans["start_ns"].to_list(), trace.spans["end_ns"].to_list()
    for step in steps:
        assert step.waiting or starts[step.row] <= step.start_ns < step.end_ns <= ends[step.row]


def test_the_registry_shows_the_path_of_the_run_nearest_to_the_median(spans: Any) -> None:
    for run, length in enumerate((10, 20, 90)):
        spans.add(run, Level.MODEL, "net", 0, length)
    found = analyse("critical-path", spans.trace())
    assert isinstance(found, AnalysisResult)
    assert found.facts["run"] == 1
    assert found.frame["duration_s"].to_list() == pytest.approx([20 * US])


def tree_of(trace: LeveledTrace, **options: Any) -> list[dict[str, Any]]:
    columns = ["depth", "level", "name", "calls", "total_s", "self_s", "share", "level_time_s", "aside", "path"]
    return [dict(zip(columns, row, strict=True)) for row in top_down(trace, AnalysisOptions(1), **options).rows]


def test_the_tree_has_own_time_and_the_time_of_the_own_level_beside_it(gpu_trace: LeveledTrace) -> None:
    lines = tree_of(gpu_trace)
    assert [(line["depth"], line["name"]) for line in lines if line["level"] == "layer"] == [
        (1, "conv"),
        (1, "relu"),
        (1, "conv"),
        (1, "mean"),
    ]
    root = lines[0]
    assert (root["name"], root["total_s"]) == ("net", pytest.approx(9000 * US))
    assert root["self_s"] == pytest.approx((9000 - 4 * 100 - 1) * US)  # four layers, and the launch of the copy
    assert root["level_time_s"] == pytest.approx(120 * US)
    layers = [line for line in lines if line["level"] == "layer"]
    assert [line["level_time_s"] for line in layers] == pytest.approx([44 * US, 10 * US, 23 * US, 6 * US])
    assert [line["self_s"] for line in layers] == pytest.approx([96 * US, 98 * US, 98 * US, 100 * US])
    assert [line["name"] for line in lines if line["aside"]] == ["Memcpy HtoD", "gemm", "gemm", "relu_k", "gemm"]


def test_merged_calls_of_one_name_stand_together_longest_first(gpu_trace: LeveledTrace) -> None:
    lines = tree_of(gpu_trace, merge=True)
    layers = [(line["name"], line["calls"], line["total_s"]) for line in lines if line["depth"] == 1][:3]
    assert layers[0] == ("conv", 2.0, pytest.approx(200 * US))
    assert {one[0] for one in layers[1:]} == {"relu", "mean"}
    device = [line for line in lines if line["aside"] and line["name"] == "gemm"]
    assert [line["calls"] for line in device] == [3.0]
    assert device[0]["total_s"] == pytest.approx((13 + 8 + 10) * US)


def test_own_time_and_children_make_the_total_at_every_line(gpu_trace: LeveledTrace) -> None:
    lines = tree_of(gpu_trace)
    for place, line in enumerate(lines):
        inside = []
        for child in lines[place + 1 :]:
            if child["depth"] <= line["depth"]:
                break
            if child["depth"] == line["depth"] + 1 and not child["aside"]:
                inside.append(child["total_s"])
        assert line["self_s"] + sum(inside) == pytest.approx(line["total_s"])
