"""A1 to A15 on real traces against a second computation in plain Python, which shares no code with the first."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from typing import Any

import numpy as np
import polars as pl
import pytest

from stratoscope.backends.onnxruntime import OnnxRuntimeBackend
from stratoscope.explain.analyses.leveled_trace import LeveledTrace
from stratoscope.explain.analyses.registry import analyse
from stratoscope.explain.analyses.result import AnalysisOptions, AnalysisResult
from stratoscope.explain.roofs import Roofs
from stratoscope.measure.inputs import make_inputs
from stratoscope.measure.leveled import profile_layers
from stratoscope.models.resolve import resolve
from stratoscope.spec.options import BackendOptions
from stratoscope.spec.record import ProfileSection
from stratoscope.trace.levels import Level
from stratoscope.trace.recorder import Recorder

ROOFS = Roofs({"float32": 5e10}, 1e10, "made up")
OPTIONS = AnalysisOptions(roofs=ROOFS)


def trimmed(values: list[float]) -> float:
    """XSP's estimator, written once more."""
    ordered = sorted(values)
    if len(ordered) == 3:
        return ordered[1]
    cut = int(len(ordered) * 0.2)
    kept = ordered[cut : len(ordered) - cut] if cut else ordered
    return sum(kept) / len(kept)


def rows(analysis: str, trace: LeveledTrace) -> list[dict[str, Any]]:
    found = analyse(analysis, trace, OPTIONS)
    assert isinstance(found, AnalysisResult), found
    return found.frame.to_dicts()


def values(found: list[dict[str, Any]], name: str) -> list[Any]:
    return [row[name] for row in found]


@pytest.fixture(scope="module")
def digits() -> tuple[ProfileSection, pl.DataFrame]:
    """The layers of the zoo's digits model on ONNX Runtime, really measured."""
    model = resolve("digits")
    feeds = make_inputs(model, 1, 0)[0]
    return profile_layers(OnnxRuntimeBackend(), model, BackendOptions(), feeds, repeats=8, blocks=4)


@pytest.fixture(scope="module")
def onnxruntime_trace(digits: tuple[ProfileSection, pl.DataFrame]) -> LeveledTrace:
    section, spans = digits
    return LeveledTrace.of(spans, batch_size=1, layers=section.layers)


def by_layer(spans: pl.DataFrame) -> dict[tuple[str, int], dict[str, Any]]:
    """Durations in us and attributes by (name, k-th of that name in its run), in order of execution."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for run in sorted(set(spans["run"].to_list())):
        seen: dict[str, int] = defaultdict(int)
        one = [row for row in spans.to_dicts() if row["run"] == run and row["level"] == 30]
        for row in sorted(one, key=lambda row: (row["start_ns"], row["span"])):
            key = (row["name"], seen[row["name"]])
            seen[row["name"]] += 1
            entry = found.setdefault(key, {"times": [], "attributes": json.loads(row["attributes"])})
            entry["times"].append((row["end_ns"] - row["start_ns"]) / 1e9)
    return found


def test_layers_are_as_a_loop_over_the_spans_has_them(
    digits: tuple[ProfileSection, pl.DataFrame], onnxruntime_trace: LeveledTrace
) -> None:
    layers = list(by_layer(digits[1]).items())
    half_a_microsecond = 0.5e-6  # the runtime's clock rounds down: half a unit is what it took on average
    times = [trimmed(entry["times"]) + half_a_microsecond for _, entry in layers]
    kinds = [entry["attributes"]["op"] for _, entry in layers]
    sizes = [entry["attributes"]["output_bytes"] for _, entry in layers]
    a2, a3, a4 = (rows(name, onnxruntime_trace) for name in ("A2", "A3", "A4"))
    assert values(a2, "name") == [name for (name, _), _ in layers]
    assert values(a2, "type") == kinds
    assert values(a2, "shape") == [entry["attributes"]["outputs"][0]["shape"] for _, entry in layers]
    assert values(a2, "time_s") == pytest.approx(times)
    assert values(a3, "time_s") == pytest.approx(times)
    assert values(a3, "max_s") == pytest.approx([max(entry["times"]) for _, entry in layers])
    assert values(a4, "allocated_bytes") == sizes
    counts: dict[str, int] = defaultdict(int)
    by_time: dict[str, float] = defaultdict(float)
    by_size: dict[str, float] = defaultdict(float)
    for kind, duration, size in zip(kinds, times, sizes, strict=True):
        counts[kind] += 1
        by_time[kind] += duration
        by_size[kind] += size
    a5, a6, a7 = (rows(name, onnxruntime_trace) for name in ("A5", "A6", "A7"))
    assert {row["type"]: row["layers"] for row in a5} == counts
    assert {row["type"]: row["time_s"] for row in a6} == pytest.approx(dict(by_time))
    assert sum(values(a6, "share")) == pytest.approx(1)
    assert {row["type"]: row["allocated_bytes"] for row in a7} == dict(by_size)
    assert {row["type"]: row["share"] for row in a7} == pytest.approx({k: v / sum(sizes) for k, v in by_size.items()})


def test_layer_times_are_those_of_the_record(
    digits: tuple[ProfileSection, pl.DataFrame], onnxruntime_trace: LeveledTrace
) -> None:
    section = digits[0]
    by_name = {row["name"]: row for row in rows("A2", onnxruntime_trace)}
    for layer in section.layers:
        row = by_name[layer.name]
        assert row["time_s"] == pytest.approx(layer.time.require())
        assert (row["time_low_s"], row["time_high_s"]) == pytest.approx((layer.time.ci_low, layer.time.ci_high))


def test_the_layer_roofline_has_the_work_of_the_graph_over_the_time_of_the_layer(
    digits: tuple[ProfileSection, pl.DataFrame], onnxruntime_trace: LeveledTrace
) -> None:
    known = {layer.name: layer for layer in digits[0].layers if layer.flops.value is not None and layer.bytes.value}
    found = rows("A14", onnxruntime_trace)
    assert {row["name"] for row in found} == set(known)
    for row in found:
        layer = known[row["name"]]
        flops, moved, duration = layer.flops.require(), layer.bytes.require(), layer.time.require()
        assert row["source"] == "graph, layer time"
        assert row["intensity"] == pytest.approx(flops / moved)
        assert row["flop_rate"] == pytest.approx(flops / duration)
        reached = max(flops / duration / 5e10, moved / duration / 1e10)
        assert row["roof_share"] == pytest.approx(reached)
        nearer = "compute-bound" if flops / moved >= 5 else "memory-bound"
        assert row["bound"] == ("overhead-bound" if reached < 0.1 else nearer)


@pytest.fixture(scope="module")
def library_spans() -> pl.DataFrame:
    """Matrix products in NumPy as library calls under operators and layers, each depth of profiling five times."""
    recorder = Recorder()
    data = np.random.default_rng(0).random((64, 64), dtype=np.float32)
    work = {"flops": 2 * 64**3, "bytes_read": 2 * 64 * 64 * 4, "bytes_written": 64 * 64 * 4}
    for run in range(15):
        recorder.run, recorder.deepest = run, (Level.MODEL, Level.LAYER, Level.LIBRARY)[run % 3]
        with recorder.span(Level.MODEL, "net"):
            for layer, calls in (("first", 2), ("second", 1), ("third", 0)):
                with recorder.span(Level.LAYER, layer, {"op": "MatMul"}):
                    for _ in range(calls):
                        with recorder.span(Level.OPERATOR, "mm"), recorder.span(Level.LIBRARY, "sgemm", work):
                            data @ data
                    time.sleep(1e-5)
    return recorder.to_frame()


def test_library_calls_take_the_place_of_kernels_on_a_cpu(library_spans: pl.DataFrame) -> None:
    trace = LeveledTrace.of(library_spans, batch_size=1)
    spans = {row["span"]: row for row in library_spans.to_dicts()}

    def length(row: dict[str, Any]) -> float:
        return float(row["end_ns"] - row["start_ns"]) / 1e9

    def layer_of(row: dict[str, Any]) -> str:
        return str(spans[spans[row["parent"]]["parent"]]["name"])

    ordered = sorted(spans.values(), key=lambda row: (row["run"], row["start_ns"]))
    model = [length(row) for row in ordered if row["run"] % 3 == 0]
    layers = {
        name: trimmed([length(row) for row in ordered if row["run"] % 3 == 1 and row["name"] == name])
        for name in ("first", "second", "third")
    }
    deep = [[row for row in ordered if row["run"] == run and row["level"] == 50] for run in range(2, 15, 3)]
    calls = [trimmed([length(run[place]) for run in deep]) for place in range(3)]
    assert [layer_of(row) for row in deep[0]] == ["first", "first", "second"]
    a1, a8, a10, a11, a13, a15 = (rows(name, trace) for name in ("A1", "A8", "A10", "A11", "A13", "A15"))
    assert values(a1, "latency_s") == pytest.approx([trimmed(model)])
    assert values(a8, "time_s") == pytest.approx(calls)
    assert values(a8, "operator") == ["mm"] * 3
    assert values(a8, "flop_rate") == pytest.approx([2 * 64**3 / one for one in calls])
    assert [(row["name"], row["calls"]) for row in a10] == [("sgemm", 3)]
    assert a10[0]["model_share"] == pytest.approx(sum(calls) / trimmed(model))
    assert values(a11, "kernel_time_s") == pytest.approx([calls[0] + calls[1], calls[2], 0])
    assert values(a11, "flops") == [4 * 64**3, 2 * 64**3, None]
    others = [layers["first"] - calls[0] - calls[1], layers["second"] - calls[2], layers["third"]]
    assert values(a13, "other_time_s") == pytest.approx(others)
    assert a15[0]["kernel_time_s"] == pytest.approx(sum(calls))
    assert a15[0]["intensity"] == pytest.approx(3 * 2 * 64**3 / (3 * 3 * 64 * 64 * 4))
    for analysis, key in (("A9", "flop_rate"), ("A12", "flops"), ("A14", "flop_rate")):
        assert rows(analysis, trace)[0][key] > 0
    a9, a12, a14 = (rows(name, trace) for name in ("A9", "A12", "A14"))
    intensity = 2 * 64**3 / (3 * 64 * 64 * 4)
    assert values(a9, "intensity") == pytest.approx([intensity] * 3)
    assert values(a12, "dram_read_bytes") == [4 * 64 * 64 * 4, 2 * 64 * 64 * 4, 0]
    assert values(a14, "time_s") == pytest.approx([calls[0] + calls[1], calls[2]])
    assert values(a14, "roof_share") == pytest.approx(
        [
            max(n * 2 * 64**3 / 5e10, n * 3 * 64 * 64 * 4 / 1e10) / t
            for n, t in zip((2, 1), values(a14, "time_s"), strict=True)
        ]
    )
    says = analyse("A8", trace, OPTIONS)
    assert isinstance(says, AnalysisResult)
    assert says.facts["level"] == "library"
