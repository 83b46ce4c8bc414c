"""A1 to A15 against values worked out by hand from the tables of the synthetic trace (conftest.py)."""

from __future__ import annotations

from typing import Any

import pytest

from stratoscope.explain.analyses.leveled_trace import LeveledTrace
from stratoscope.explain.analyses.registry import analyse, registry
from stratoscope.explain.analyses.result import AnalysisOptions, AnalysisResult
from stratoscope.explain.roofs import Roofs
from stratoscope.trace.levels import Level

US = 1e-6


@pytest.fixture
def result(gpu_trace: LeveledTrace, roofs: Roofs) -> Any:
    """`result("A7")` on the synthetic trace at batch 1, with roofs."""

    def run(analysis: str, batch_size: int | None = 1) -> AnalysisResult:
        found = analyse(analysis, gpu_trace, AnalysisOptions(batch_size, roofs))
        assert isinstance(found, AnalysisResult), found
        return found

    return run


def column(result: AnalysisResult, name: str) -> list[Any]:
    return result.frame[name].to_list()


def approx(*values: float | None) -> Any:
    return [None if value is None else pytest.approx(value, rel=1e-12, abs=1e-18) for value in values]


def test_the_registry_has_all_fifteen_in_order() -> None:
    assert list(registry())[:15] == [f"A{number}" for number in range(1, 16)]


def test_a1_tells_latency_throughput_and_the_optimal_batch(result: Any) -> None:
    found = result("A1", None)
    assert column(found, "batch_size") == [1, 2, 4]
    assert column(found, "latency_s") == approx(120 * US, 160 * US, 305 * US)
    assert column(found, "samples") == [5, 3, 2]
    assert column(found, "input_latency_s") == approx(120 * US, 80 * US, 76.25 * US)
    assert column(found, "throughput_per_s") == approx(1 / (120 * US), 12500, 4 / (305 * US))
    assert column(found, "doubling_gain") == approx(0.5, 16 / 15.25 - 1, None)  # 12500 to 4 / 305 us: 4.9 %
    assert column(found, "optimal") == [False, True, False]
    assert found.facts["optimal_batch"] == 2


def test_a1_gives_an_interval_from_three_samples_on(result: Any) -> None:
    found = result("A1", None)
    low, high = column(found, "latency_low_s"), column(found, "latency_high_s")
    assert low[0] < 120 * US < high[0]
    assert low[1] <= 160 * US <= high[1]
    assert (low[2], high[2]) == (None, None)


def test_a2_lists_every_layer_the_first_the_scalar_and_the_one_that_run_zero_lacks(result: Any) -> None:
    found = result("A2")
    assert column(found, "index") == [0, 1, 2, 3]
    assert column(found, "name") == ["conv", "relu", "conv", "mean"]
    assert column(found, "type") == ["Conv", "Relu", "Conv", "ReduceMean"]
    assert column(found, "shape") == [[1, 64], [1, 64], [1, 10], []]
    assert column(found, "time_s") == approx(44 * US, 10 * US, 23 * US, 6 * US)
    assert column(found, "samples") == [5, 5, 4, 5]
    assert column(found, "allocated_bytes") == [256, 256, 40, 4]
    assert column(found, "peak_bytes") == [None] * 4
    assert column(found, "container") == [False] * 4
    assert column(found, "site")[2] == "20:net#0|30:conv#1"
    assert "1 of 4 layers ran in some of the 5 layer-profiled runs only" in found.notes


def test_a3_tells_the_spread_of_each_layer(result: Any) -> None:
    found = result("A3")
    assert column(found, "time_s") == approx(44 * US, 10 * US, 23 * US, 6 * US)
    assert column(found, "min_s") == approx(40 * US, 10 * US, 20 * US, 5 * US)
    assert column(found, "lower_quartile_s") == approx(42 * US, 10 * US, 21.5 * US, 5 * US)
    assert column(found, "median_s") == approx(44 * US, 10 * US, 23 * US, 6 * US)
    assert column(found, "upper_quartile_s") == approx(46 * US, 10 * US, 24.5 * US, 7 * US)
    assert column(found, "max_s") == approx(400 * US, 10 * US, 26 * US, 7 * US)
    assert found.facts["summed_time_s"] == pytest.approx(83 * US)


def test_a4_lists_memory_in_order_of_execution(result: Any) -> None:
    assert result("A4").frame.rows() == [
        (0, "conv", "Conv", 256.0),
        (1, "relu", "Relu", 256.0),
        (2, "conv", "Conv", 40.0),
        (3, "mean", "ReduceMean", 4.0),
    ]


def test_a5_counts_layers_by_type(result: Any) -> None:
    assert result("A5").frame.rows() == [("Conv", 2, 0.5), ("ReduceMean", 1, 0.25), ("Relu", 1, 0.25)]


def test_a6_sums_latency_by_type(result: Any) -> None:
    found = result("A6")
    assert column(found, "type") == ["Conv", "Relu", "ReduceMean"]
    assert column(found, "layers") == [2, 1, 1]
    assert column(found, "time_s") == approx(67 * US, 10 * US, 6 * US)
    assert column(found, "share") == approx(67 / 83, 10 / 83, 6 / 83)


def test_a7_sums_memory_by_type(result: Any) -> None:
    found = result("A7")
    assert found.frame.rows() == [
        ("Conv", 2, 296.0, pytest.approx(296 / 556)),
        ("Relu", 1, 256.0, pytest.approx(256 / 556)),
        ("ReduceMean", 1, 4.0, pytest.approx(4 / 556)),
    ]


def test_a8_joins_launches_executions_and_counters_of_three_kinds_of_runs(result: Any) -> None:
    found = result("A8")
    assert column(found, "name") == ["Memcpy HtoD", "gemm", "gemm", "relu_k", "gemm"]
    assert column(found, "layer_index") == [None, 0, 0, 1, 2]
    assert column(found, "time_s") == approx(3 * US, 13 * US, 8 * US, 12 * US, 10 * US)
    assert column(found, "samples") == [3] * 5
    assert column(found, "flops") == [0, 2e6, 8e6, 64, 1e6]
    assert column(found, "dram_read_bytes") == [None, 1000, 2000, 128, 3000]
    assert column(found, "dram_write_bytes") == [None, 500, 500, 128, 1000]
    assert column(found, "occupancy") == [None, 0.5, 0.25, 0.9, 0.1]
    assert column(found, "intensity")[1:] == approx(2e6 / 1500, 8e6 / 2500, 64 / 256, 1e6 / 4000)
    assert column(found, "flop_rate")[1:] == approx(2e6 / 13e-6, 1e12, 64 / 12e-6, 1e11)
    assert column(found, "roof_share")[1:] == approx(2 / 13, 2.5 / 8, 0.256 / 12, 4 / 10)
    assert column(found, "bound")[1:] == ["compute-bound", "memory-bound", "overhead-bound", "memory-bound"]
    assert column(found, "site")[1:3] == ["20:net#0|30:conv#0|60:gemm#0", "20:net#0|30:conv#0|60:gemm#1"]


def test_a9_has_a_point_for_each_kernel_with_work_and_traffic(result: Any) -> None:
    found = result("A9")
    assert column(found, "order") == [1, 2, 3, 4]
    assert column(found, "bytes") == [1500, 2500, 256, 4000]
    assert column(found, "intensity") == approx(2e6 / 1500, 8e6 / 2500, 0.25, 250)
    assert column(found, "roof_share") == approx(2 / 13, 2.5 / 8, 0.256 / 12, 0.4)
    assert found.facts["ridge_float32_flop_per_byte"] == 1000
    assert found.facts["ridge_int8_flop_per_byte"] == 2000
    assert any(note.startswith("1 of 5 have no point") for note in found.notes)


def test_a10_counts_every_call_of_a_name(result: Any) -> None:
    found = result("A10")
    assert column(found, "name") == ["gemm", "relu_k", "Memcpy HtoD"]
    assert column(found, "calls") == [3, 1, 1]  # XSP has one too few
    assert column(found, "time_s") == approx(31 * US, 12 * US, 3 * US)
    assert column(found, "model_share") == approx(31 / 120, 12 / 120, 3 / 120)
    assert column(found, "kernel_share") == approx(31 / 46, 12 / 46, 3 / 46)
    assert column(found, "flops") == [11e6, 64, 0]
    assert column(found, "dram_read_bytes")[:2] == [6000, 128]
    assert column(found, "dram_write_bytes")[:2] == [2000, 128]
    assert column(found, "occupancy") == approx((0.5 * 13 + 0.25 * 8 + 0.1 * 10) / 31, 0.9, None)
    assert column(found, "intensity")[:2] == approx(1375, 0.25)
    assert column(found, "roof_share")[:2] == approx(8 / 31, 0.256 / 12)  # 4.5 us of compute, 8 us of memory
    assert column(found, "bound")[:2] == ["memory-bound", "overhead-bound"]


def test_a11_sums_kernels_by_layer_layer_zero_and_those_without_too(result: Any) -> None:
    found = result("A11")
    assert column(found, "index") == [0, 1, 2, 3, None]
    assert column(found, "name")[-1] == "(outside all layers)"
    assert column(found, "layer_time_s") == approx(44 * US, 10 * US, 23 * US, 6 * US, None)
    assert column(found, "kernels") == [2, 1, 1, 0, 1]
    assert column(found, "kernel_time_s") == approx(21 * US, 12 * US, 10 * US, 0, 3 * US)
    assert column(found, "flops") == [10e6, 64, 1e6, None, 0]
    assert column(found, "dram_read_bytes")[:3] == [3000, 128, 3000]
    assert column(found, "dram_write_bytes")[:3] == [1000, 128, 1000]
    assert column(found, "occupancy")[:3] == approx((0.5 * 13 + 0.25 * 8) / 21, 0.9, 0.1)
    assert column(found, "intensity")[:3] == approx(2500, 0.25, 250)
    assert column(found, "flop_rate")[:3] == approx(10e6 / 21e-6, 64 / 12e-6, 1e11)
    assert column(found, "roof_share")[:3] == approx(4 / 21, 0.256 / 12, 0.4)  # layer 0: compute 2 + 2, memory 4 us
    assert column(found, "bound")[:3] == ["compute-bound", "overhead-bound", "memory-bound"]


def test_a12_has_the_series_over_the_layers(result: Any) -> None:
    found = result("A12")
    assert column(found, "kernels") == [2, 1, 1, 0, 1]
    assert column(found, "flops") == [10e6, 64, 1e6, 0, 0]
    assert column(found, "dram_read_bytes") == [3000, 128, 3000, 0, 0]
    assert column(found, "dram_write_bytes") == [1000, 128, 1000, 0, 0]
    assert column(found, "occupancy") == approx((0.5 * 13 + 0.25 * 8) / 21, 0.9, 0.1, None, None)


def test_a13_shows_and_flags_a_layer_whose_kernels_outlast_it(result: Any) -> None:
    found = result("A13")
    assert column(found, "other_time_s") == approx(23 * US, -2 * US, 13 * US, 6 * US, None)
    assert column(found, "kernel_share") == approx(21 / 44, 1.2, 10 / 23, 0, None)
    assert column(found, "negative") == [False, True, False, False, None]
    assert found.facts["other_time_s"] == pytest.approx(40 * US)
    assert found.facts["negative"] == 1
    assert any("1 of 5 layers have less time than their kernels" in note for note in found.notes)


def test_a14_has_a_point_for_each_layer_with_work(result: Any) -> None:
    found = result("A14")
    assert column(found, "index") == [0, 1, 2]
    assert column(found, "time_s") == approx(21 * US, 12 * US, 10 * US)
    assert column(found, "bytes") == approx(4000, 256, 4000)
    assert column(found, "intensity") == approx(2500, 0.25, 250)
    assert column(found, "roof_share") == approx(4 / 21, 0.256 / 12, 0.4)
    assert column(found, "source") == ["kernels"] * 3


def test_a15_sums_all_kernels_those_outside_layers_too(result: Any) -> None:
    found = result("A15", None)
    (row,) = found.frame.to_dicts()
    assert (row["batch_size"], row["kernels"]) == (1, 5)
    assert row["kernel_time_s"] == pytest.approx(46 * US)
    assert row["model_time_s"] == pytest.approx(120 * US)
    assert row["model_share"] == pytest.approx(46 / 120)
    assert (row["flops"], row["dram_read_bytes"], row["dram_write_bytes"]) == (11e6 + 64, 6128, 2128)
    assert row["occupancy"] == pytest.approx((9.5 + 0.9 * 12) / 43)
    assert row["intensity"] == pytest.approx((11e6 + 64) / 8256)
    assert row["roof_share"] == pytest.approx(8.256 / 46)
    assert row["bound"] == "memory-bound"


def test_calls_of_the_driver_beside_executions_are_no_kernels(spans: Any) -> None:
    spans.add(0, Level.MODEL, "net", 0, 100)
    spans.add(0, Level.KERNEL, "cudaMalloc", 1, 50)
    spans.add(0, Level.KERNEL, "cudaLaunchKernel", 60, 2, kind="launch", correlation=1)
    spans.add(0, Level.KERNEL, "k", 63, 5, kind="exec", correlation=1, track=9)
    found = analyse("A8", spans.trace(batch_size=1))
    assert isinstance(found, AnalysisResult)
    assert found.frame.select("name", "time_s").rows() == [("k", pytest.approx(5e-6))]


def test_kernels_without_executions_of_their_own_are_spans_as_they_stand(spans: Any) -> None:
    spans.add(0, Level.MODEL, "net", 0, 100)
    spans.add(0, Level.KERNEL, "k", 3, 5)
    found = analyse("A8", spans.trace(batch_size=1))
    assert isinstance(found, AnalysisResult)
    assert column(found, "time_s") == approx(5e-6)


@pytest.mark.parametrize("analysis", ["A2", "A8", "A13"])
def test_with_several_batch_sizes_one_has_to_be_named(gpu_trace: LeveledTrace, analysis: str) -> None:
    found = analyse(analysis, gpu_trace)
    assert not isinstance(found, AnalysisResult)
    assert found.why == "the trace has batch sizes 1, 2, 4: say which one"


def test_a_level_has_no_time_from_deeper_runs(gpu_trace: LeveledTrace) -> None:
    kernels_only = gpu_trace.spans.filter(gpu_trace.spans["run"] >= 15)
    trace = LeveledTrace.of(kernels_only, deepest=Level.KERNEL, batch_size=1)
    for analysis, why in (("A1", "no unprofiled run"), ("A3", "deepest"), ("A6", "deepest"), ("A13", "deepest")):
        found = analyse(analysis, trace)
        assert not isinstance(found, AnalysisResult)
        assert why in found.why
    layers = analyse("A2", trace)
    assert isinstance(layers, AnalysisResult)
    assert column(layers, "time_s") == [None] * 4
    names = analyse("A10", trace)
    assert isinstance(names, AnalysisResult)
    assert column(names, "model_share") == [None] * 3


@pytest.mark.parametrize("analysis", [f"A{number}" for number in range(8, 14)] + ["A15"])
def test_without_kernels_their_analyses_say_so(gpu_trace: LeveledTrace, roofs: Roofs, analysis: str) -> None:
    trace = LeveledTrace.of(gpu_trace.spans.filter(gpu_trace.spans["run"].is_between(10, 14)), batch_size=1)
    found = analyse(analysis, trace, AnalysisOptions(roofs=roofs))
    assert not isinstance(found, AnalysisResult)
    assert "no run has kernel spans" in found.why
