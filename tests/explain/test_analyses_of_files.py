"""A1 to A15 on trace files: a synthetic CUDA trace as PyTorch's profiler writes it, and our own formats."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from stratoscope.errors import StoreError
from stratoscope.explain.analyses.leveled_trace import LeveledTrace
from stratoscope.explain.analyses.registry import analyse
from stratoscope.explain.analyses.result import AnalysisOptions, AnalysisResult
from stratoscope.explain.analyses.stored import named_trace
from stratoscope.explain.roofs import Roofs
from stratoscope.explain.trace_idle import idle_breakdown, idle_gaps
from stratoscope.explain.trace_launch import launches
from stratoscope.spec.record import Unavailable
from stratoscope.trace.exporters import export_trace
from stratoscope.trace.importers import import_trace
from stratoscope.trace.levels import Level

_PLACE = Path(__file__).parents[1] / "trace" / "importers" / "kineto_files.py"
_SPEC = importlib.util.spec_from_file_location("kineto_files_of_analyses", _PLACE)
assert _SPEC is not None
assert _SPEC.loader is not None
kineto_files: Any = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(kineto_files)

US = 1e-6
#: A kernel takes at least (work / 1e12, traffic / 1e9) s: 4 and 40 us, 2 and 20 us, 0 and 0.8 us.
OPTIONS = AnalysisOptions(None, Roofs({"float32": 1e12}, 1e9))
HOST, STREAM = (42, 42), (0, 7)


def inference() -> dict[str, Any]:
    """Two products of one module, an activation, a module without kernels, and a copy outside of all modules.

    The device works from 30 to 90, from 100 to 110 and from 160 to 165 us. Nothing runs where the host only looks.
    """

    def host(category: str, name: str, start: float, time: float, **args: Any) -> dict[str, Any]:
        return dict(kineto_files.event(category, name, *HOST, start, time, **args))

    def device(category: str, name: str, start: float, time: float, **args: Any) -> dict[str, Any]:
        return dict(kineto_files.event(category, name, *STREAM, start, time, stream=7, device=0, **args))

    first = {"flops": 4_000_000, "dram_read_bytes": 30_000, "dram_write_bytes": 10_000}
    second = {"flops": 2_000_000, "dram_read_bytes": 10_000, "dram_write_bytes": 10_000}
    third = {"flops": 100, "dram_read_bytes": 400, "dram_write_bytes": 400}
    events = [
        host("user_annotation", "ProfilerStep#1", 0, 300),
        host("python_function", "nn.Module: Linear_0", 10, 50),
        host("cpu_op", "aten::linear", 15, 35),
        host("cuda_runtime", "cudaLaunchKernel", 20, 5, correlation=1),
        host("cuda_runtime", "cudaLaunchKernel", 35, 5, correlation=2),
        host("python_function", "nn.Module: ReLU_0", 70, 30),
        host("cpu_op", "aten::relu", 75, 20),
        host("cuda_runtime", "cudaLaunchKernel", 80, 4, correlation=3),
        host("cpu_op", "aten::copy_", 110, 20),
        host("cuda_runtime", "cudaMemcpyAsync", 115, 5, correlation=4),
        host("python_function", "nn.Module: Dropout_0", 140, 10),
        host("cuda_runtime", "cudaStreamSynchronize", 200, 20, correlation=5),
        device("kernel", "gemm", 30, 40, correlation=1, **first),
        device("kernel", "gemm", 70, 20, correlation=2, **second),
        device("kernel", "relu_kernel", 100, 10, correlation=3, **third),
        device("gpu_memcpy", "Memcpy DtoH (Device -> Pinned)", 160, 5, correlation=4, bytes=64),
    ]
    return dict(kineto_files.document(*events))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The trace as a file."""
    path = tmp_path / "cuda.json"
    path.write_text(json.dumps(inference()))
    return path


@pytest.fixture
def rows(file: Path) -> Any:
    """`rows("A8", "name", "time_s")`: those columns of an analysis of the file."""
    trace = named_trace(str(file)).trace

    def found(analysis: str, *columns: str) -> list[tuple[Any, ...]]:
        result = analyse(analysis, trace, OPTIONS)
        assert isinstance(result, AnalysisResult), result
        return list(result.frame.select(columns).iter_rows())

    return found


def column(rows: Any, analysis: str, name: str) -> list[Any]:
    return [value for (value,) in rows(analysis, name)]


def test_kernels_stand_under_the_operator_that_launched_them_and_last_as_they_ran(rows: Any) -> None:
    assert column(rows, "A8", "name") == ["gemm", "gemm", "relu_kernel", "Memcpy DtoH (Device -> Pinned)"]
    assert column(rows, "A8", "operator") == ["aten::linear", "aten::linear", "aten::relu", "aten::copy_"]
    assert column(rows, "A8", "time_s") == pytest.approx([40 * US, 20 * US, 10 * US, 5 * US])
    assert column(rows, "A8", "samples") == [1] * 4
    assert column(rows, "A8", "bound")[:3] == ["memory-bound", "memory-bound", "overhead-bound"]


def test_roofline_has_the_kernels_whose_work_is_told(rows: Any) -> None:
    assert column(rows, "A9", "name") == ["gemm", "gemm", "relu_kernel"]
    assert column(rows, "A9", "intensity") == pytest.approx([100, 100, 0.125])
    assert column(rows, "A9", "flop_rate") == pytest.approx([1e11, 1e11, 1e7])
    assert column(rows, "A9", "roof_share") == pytest.approx([1, 1, 0.08])


def test_kernels_of_one_name_add_up(rows: Any) -> None:
    found = {name: rest for name, *rest in rows("A10", "name", "calls", "time_s", "kernel_share", "flops")}
    assert found["gemm"] == pytest.approx([2, 60 * US, 60 / 75, 6e6])
    assert found["relu_kernel"] == pytest.approx([1, 10 * US, 10 / 75, 100])
    assert found["Memcpy DtoH (Device -> Pinned)"][:3] == pytest.approx([1, 5 * US, 5 / 75])


def test_layers_have_the_sums_of_their_kernels_and_what_is_outside_is_kept(rows: Any) -> None:
    names = ["nn.Module: Linear_0", "nn.Module: ReLU_0", "nn.Module: Dropout_0", "(outside all layers)"]
    assert column(rows, "A11", "name") == column(rows, "A12", "name") == names
    assert column(rows, "A11", "kernels") == [2, 1, 0, 1]
    assert column(rows, "A11", "kernel_time_s") == pytest.approx([60 * US, 10 * US, 0, 5 * US])
    assert column(rows, "A12", "flops")[:3] == [6e6, 100, 0]
    assert column(rows, "A12", "dram_read_bytes")[:3] == [40_000, 400, 0]
    assert column(rows, "A12", "dram_write_bytes")[:3] == [20_000, 400, 0]


def test_layers_stand_under_the_roofs_with_the_work_of_their_kernels(rows: Any) -> None:
    assert column(rows, "A14", "name") == ["nn.Module: Linear_0", "nn.Module: ReLU_0"]
    assert column(rows, "A14", "source") == ["kernels", "kernels"]
    assert column(rows, "A14", "time_s") == pytest.approx([60 * US, 10 * US])
    assert column(rows, "A14", "bytes") == pytest.approx([60_000, 800])
    assert column(rows, "A14", "roof_share") == pytest.approx([1, 0.08])


def test_the_model_has_the_sum_of_all_kernels(rows: Any) -> None:
    ((time, flops, read, written),) = rows("A15", "kernel_time_s", "flops", "dram_read_bytes", "dram_write_bytes")
    assert time == pytest.approx(75 * US)
    assert (flops, read, written) == (6_000_100, 40_400, 20_400)


def test_times_above_the_kernels_are_not_taken_from_a_run_that_traced_kernels(file: Path) -> None:
    found = analyse("A13", named_trace(str(file)).trace, OPTIONS)
    assert isinstance(found, Unavailable)
    assert "deepest" in found.why


def test_launch_delays_and_idle_times_of_the_file_are_those_of_its_events(file: Path) -> None:
    spans = import_trace(file).spans
    assert sorted(launches(spans)["delay_ns"].to_list()) == [5_000, 16_000, 30_000, 40_000]
    gaps = idle_gaps(spans).sort("start_ns")
    assert gaps.select("start_ns", "end_ns", "cause").rows() == [
        (90_000, 100_000, "kernel wait"),
        (110_000, 160_000, "host wait"),
    ]
    assert idle_breakdown(spans)["idle_ns"].sum() == 60_000


@pytest.mark.parametrize("name", ["all.json", "all.json.gz", "all.parquet"])
def test_file_of_leveled_runs_gives_what_the_spans_give(gpu_trace: LeveledTrace, tmp_path: Path, name: str) -> None:
    facts = {run.run: json.dumps({"deepest": run.deepest, "batch_size": run.batch_size}) for run in gpu_trace.runs}
    told = pl.col("run").replace_strict(facts, return_dtype=pl.String)
    model = pl.col("level") == Level.MODEL.value
    spans = gpu_trace.spans.with_columns(attributes=pl.when(model).then(told).otherwise("attributes"))
    export_trace(spans, tmp_path / name)
    read = named_trace(str(tmp_path / name)).trace
    options = AnalysisOptions(1, OPTIONS.roofs)
    for number in range(1, 16):
        ours, theirs = (analyse(f"A{number}", trace, options) for trace in (gpu_trace, read))
        assert isinstance(ours, AnalysisResult), ours
        assert isinstance(theirs, AnalysisResult), theirs
        assert ours.frame.equals(theirs.frame), number


def test_file_that_is_not_there_is_not_looked_for_among_the_runs() -> None:
    with pytest.raises(StoreError, match=r"no trace file nowhere\.json"):
        named_trace("nowhere.json")
