from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import polars as pl
import pytest
from onnx import TensorProto, helper, numpy_helper

from stratoscope.backends.base import BackendOptions, Capabilities
from stratoscope.backends.null import NullBackend
from stratoscope.backends.onnxruntime import OnnxRuntimeBackend
from stratoscope.errors import BackendError, MeasurementError
from stratoscope.host.noise import NoiseSnapshot
from stratoscope.measure import leveled_runs
from stratoscope.measure.leveled import profile_layers
from stratoscope.spec.model import LoadableModel, ModelManifest, TensorSpec
from stratoscope.trace.correlate import assign_parents, assign_sites
from stratoscope.trace.levels import Level
from stratoscope.trace.spans import SPAN_SCHEMA

MODEL = LoadableModel(ModelManifest(id="net"))
OPTIONS = BackendOptions()


class Machine:
    """A machine that does not exist: a clock that only work advances, and run-queue wait where it is told to wait."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 10**9
        self.wait = 0
        self.sessions = 0
        monkeypatch.setattr(leveled_runs.time, "perf_counter_ns", lambda: self.now)
        monkeypatch.setattr(leveled_runs, "ThreadNoise", lambda: self)

    def snapshot(self) -> NoiseSnapshot:
        return NoiseSnapshot(self.now, self.now - self.wait, self.wait, 0, 0)

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def work(self, duration_ns: int, wait_ns: int = 0) -> None:
        self.now += duration_ns + wait_ns
        self.wait += wait_ns


class Simulated:
    """A back end of known times in ns: plain inferences, profiled ones, and layers of 3/8 and 1/2 of the profiled."""

    name = "simulated"

    def __init__(self, machine: Machine, plain: Iterator[int], profiled: Iterator[int], waits: Iterator[int]) -> None:
        self.machine, self.plain, self.profiled, self.waits = machine, plain, profiled, waits
        self.open = 0
        self.loaded = 0

    def capabilities(self) -> Capabilities:
        return Capabilities(available=True, reason=None, version="1")

    def load(self, model: LoadableModel, options: BackendOptions) -> Any:
        return SimulatedSession(self)

    def open_trace(self, model: LoadableModel, options: BackendOptions) -> Any:
        return SimulatedTrace(self)

    def trace(self, *arguments: Any, **more: Any) -> pl.DataFrame:
        raise AssertionError("a leveled profile interleaves: it has no use for a trace of its own")

    def executed_graph(self, model: LoadableModel, options: BackendOptions, folder: Path) -> Path | None:
        return None


class SimulatedSession:
    def __init__(self, backend: Simulated) -> None:
        self.backend = backend
        backend.open += 1
        backend.loaded += 1

    def bind(self, feeds: object) -> Callable[[], list[np.ndarray]]:
        def call() -> list[np.ndarray]:
            self.backend.machine.work(next(self.backend.plain), next(self.backend.waits))
            return []

        return call

    def close(self) -> None:
        self.backend.open -= 1


class SimulatedTrace(SimulatedSession):
    def __init__(self, backend: Simulated) -> None:
        super().__init__(backend)
        self.rows: list[tuple[Any, ...]] = []
        self.calls = 0

    def bind(self, feeds: object) -> Callable[[], list[np.ndarray]]:
        def call() -> list[np.ndarray]:
            machine, duration = self.backend.machine, next(self.backend.profiled)
            start = machine.now
            machine.work(duration)
            for level, name, begin, end in (
                (Level.MODEL, "net", 0, duration),
                (Level.LAYER, "conv", duration // 8, duration // 2),
                (Level.LAYER, "gemm", duration // 2, duration),
            ):
                span = len(self.rows)
                told = json.dumps({"op": name.title()})
                row = (span, None, level.value, "sync", name, 7, start + begin, start + end, 0, self.calls, None, told)
                self.rows.append(row)
            self.calls += 1
            return []

        return call

    def finish(self) -> pl.DataFrame:
        return assign_sites(assign_parents(pl.DataFrame(self.rows, schema=SPAN_SCHEMA, orient="row")))


def always(value: int) -> Iterator[int]:
    while True:
        yield value


def cycle(*values: int) -> Iterator[int]:
    while True:
        yield from values


def test_figures_of_a_machine_without_noise_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Simulated(Machine(monkeypatch), always(800_000), always(1_000_000), always(0))
    section, spans = profile_layers(backend, MODEL, OPTIONS, {}, repeats=24, blocks=6)
    assert section.repeats == 24
    assert section.model_time.value == pytest.approx(800e-6)
    assert section.profiled_model_time.value == pytest.approx(1000e-6)
    assert (section.overhead.value, section.overhead.ci_low) == pytest.approx((200e-6, 200e-6))
    assert section.control is not None
    assert section.control.value == pytest.approx(0)
    assert not section.overhead_below_noise
    assert [(row.name, row.op, row.time.value) for row in section.layers] == [
        ("conv", "Conv", pytest.approx(375e-6)),
        ("gemm", "Gemm", pytest.approx(500e-6)),
    ]
    assert section.layers_sum.value == pytest.approx(875e-6)
    assert section.gap.value == pytest.approx(125e-6)
    assert section.layers_sum.require() + section.gap.require() == pytest.approx(section.profiled_model_time.require())
    assert all(section.checks.values())
    assert (section.noise.accepted, section.noise.rejected, section.noise.quiet) == (72, 0, True)
    assert spans["run"].unique().sort().to_list() == list(range(24))
    assert (backend.open, backend.loaded) == (0, 3)


def test_layer_times_come_from_profiled_runs_and_model_time_from_unprofiled_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for plain, profiled in ((100, 1_000_000), (1_000_000, 800)):
        backend = Simulated(Machine(monkeypatch), always(plain), always(profiled), always(0))
        section, _ = profile_layers(backend, MODEL, OPTIONS, {}, repeats=8)
        assert section.model_time.value == pytest.approx(plain * 1e-9)
        assert section.layers[1].time.value == pytest.approx(profiled / 2 * 1e-9)
        # More time in the layers than the model takes unprofiled is told to the reader.
        assert ("shares tell more than their times" in section.note) == (plain < profiled)


def test_an_overhead_that_the_control_has_too_is_below_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    # Plain calls of 100 and 104 us in turn: unprofiled against unprofiled differs by more than the profiler costs.
    backend = Simulated(Machine(monkeypatch), cycle(100_000, 104_000, 109_000), always(104_500), always(0))
    section, _ = profile_layers(backend, MODEL, OPTIONS, {}, repeats=12)
    assert section.overhead_below_noise


def test_inferences_that_had_to_wait_for_a_processor_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # Every tenth unprofiled call waits 50 ms in the run queue.
    waits = cycle(*[0] * 9, 50_000_000)
    backend = Simulated(Machine(monkeypatch), always(1_000_000), always(1_100_000), waits)
    section, _ = profile_layers(backend, MODEL, OPTIONS, {}, repeats=30, blocks=5)
    assert section.noise.rejected > 0
    assert section.noise.accepted + section.noise.rejected == 90
    assert section.model_time.n < 30
    assert (section.model_time.ci_low, section.model_time.ci_high) == pytest.approx((1e-3, 1e-3))
    assert section.repeats == 30  # the profiled inferences never waited
    assert "run-queue wait above 5% of wall time" in (section.noise.reason or "")


def test_the_shown_inference_is_the_one_nearest_to_the_median(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Simulated(Machine(monkeypatch), always(1000), cycle(800, 1600, 8000), always(0))
    section, spans = profile_layers(backend, MODEL, OPTIONS, {}, repeats=9, blocks=3)
    durations = (
        spans.filter(pl.col("level") == 20)["end_ns"] - spans.filter(pl.col("level") == 20)["start_ns"]
    ).to_list()
    median = sorted(durations)[len(durations) // 2]
    shown = [row.duration_ns for row in section.layers]
    assert shown == [median // 2 - median // 8, median - median // 2]
    assert [row.start_ns for row in section.layers] == [median // 8, median // 2]


def test_a_back_end_that_cannot_trace_beside_plain_runs_is_refused() -> None:
    class Plain(NullBackend):
        open_trace = None  # type: ignore[assignment]

    with pytest.raises(MeasurementError, match="'null' cannot trace layers beside unprofiled inferences"):
        profile_layers(Plain(), MODEL, OPTIONS, {})


@pytest.mark.parametrize("wrong", [{"repeats": 0}, {"blocks": 0}, {"budget_s": 0.0}])
def test_a_profile_of_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(MeasurementError, match="at least one block and one repeat, and a budget above zero"):
        profile_layers(NullBackend(), MODEL, OPTIONS, {}, **wrong)


def test_a_trace_without_layers_is_refused_and_all_sessions_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Simulated(Machine(monkeypatch), always(1000), always(1000), always(0))
    whole = SimulatedTrace.finish
    monkeypatch.setattr(SimulatedTrace, "finish", lambda self: whole(self).filter(pl.col("level") == Level.MODEL))
    with pytest.raises(MeasurementError, match="holds no layers"):
        profile_layers(backend, MODEL, OPTIONS, {}, repeats=4)
    assert backend.open == 0


def test_sessions_are_closed_when_a_run_fails_or_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(error: type[BaseException]) -> Iterator[int]:
        yield from [1000] * 250
        raise error("stop")

    for error in (BackendError, KeyboardInterrupt):
        backend = Simulated(Machine(monkeypatch), always(1000), failing(error), always(0))
        with pytest.raises(error):
            profile_layers(backend, MODEL, OPTIONS, {}, repeats=400)
        assert (backend.open, backend.loaded) == (0, 3)


def test_without_memory_for_a_third_copy_the_plain_session_is_its_own_control(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leveled_runs, "MEMORY_SHARE", -1.0)
    backend = Simulated(Machine(monkeypatch), always(1000), always(1000), always(0))
    section, _ = profile_layers(backend, MODEL, OPTIONS, {}, repeats=4)
    assert backend.loaded == 2
    assert "memory has no room for a third copy" in section.note


def test_repeats_that_the_trace_lost_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Simulated(Machine(monkeypatch), always(1000), always(1000), always(0))
    whole = SimulatedTrace.finish
    monkeypatch.setattr(SimulatedTrace, "finish", lambda self: whole(self).filter(pl.col("run") < self.calls - 2))
    section, _ = profile_layers(backend, MODEL, OPTIONS, {}, repeats=8, blocks=2)
    assert section.repeats == 6
    assert section.checks["all_repeats_recorded"] is False


def test_the_null_back_end_has_four_even_layers_and_no_gap() -> None:
    section, _ = profile_layers(NullBackend(), MODEL, BackendOptions(null_latency_s=0.0001), {}, repeats=6)
    assert [row.time.value for row in section.layers] == pytest.approx([25e-6] * 4)
    assert [row.share for row in section.layers] == pytest.approx([0.25] * 4)
    assert section.gap.value == pytest.approx(0)
    assert section.layers[0].flops.reason == "back end 'null' does not tell what it executes"


@pytest.fixture
def convolution(tmp_path: Path) -> LoadableModel:
    """Conv 3x3 (4 to 8 channels, bias) and Relu, which the runtime fuses; then Flatten and Gemm to 10."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((8, 4, 3, 3)).astype(np.float32),
        "b": rng.standard_normal(8).astype(np.float32),
        "m": rng.standard_normal((8 * 16 * 16, 10)).astype(np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w", "b"], ["c"], name="conv", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["r"], name="relu"),
            helper.make_node("Flatten", ["r"], ["f"], name="flatten"),
            helper.make_node("MatMul", ["f", "m"], ["y"], name="matmul"),
        ],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    path = tmp_path / "small.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    inputs = (TensorSpec(name="x", element_type="float32", shape=(2, 4, 16, 16)),)
    return LoadableModel(ModelManifest(id="small", inputs=inputs), path)


def test_layers_of_a_real_runtime_have_names_work_and_times(convolution: LoadableModel) -> None:
    feeds = {"x": np.ones((2, 4, 16, 16), np.float32)}
    options = BackendOptions(threads=1, graph_optimization="extended")
    section, spans = profile_layers(OnnxRuntimeBackend(), convolution, options, feeds, repeats=24)
    rows = {row.authored: row for row in section.layers}
    fused, matmul = rows[("conv", "relu")], rows[("matmul",)]
    outputs = 2 * 8 * 16 * 16
    # 2 FLOP a tap, 4 x 3 x 3 taps, one addition of the bias and one comparison an output.
    assert fused.flops.value == outputs * (2 * 4 * 9 + 1 + 1)
    assert fused.parameters.value == 8 * 4 * 9 + 8
    assert fused.bytes.value == 4 * (2 * 4 * 16 * 16 + outputs + 8 * 4 * 9 + 8)
    assert (fused.op, fused.output_shape, fused.output_type) == ("FusedConv", (2, 8, 16, 16), "float32")
    assert fused.allocated.value == 4 * outputs
    assert matmul.flops.value == 2 * 2 * 2048 * 10
    assert fused.provider == "CPUExecutionProvider"
    assert fused.signature is not None
    assert fused.signature.startswith("sha256:")
    assert all(section.checks.values()), section.note
    assert all(row.time.n == section.repeats for row in section.layers)
    assert sum(row.share or 0 for row in section.layers) == pytest.approx(1)
    starts = [row.start_ns for row in section.layers]
    assert starts == sorted(starts, key=lambda start: start or 0)
    assert spans["run"].n_unique() == section.repeats
    assert section.repeats + 1 <= section.noise.accepted <= 72
    assert "rounds a layer's time down to 1 us" in section.note


def test_layers_of_racing_threads_cover_less_than_their_sum(tmp_path: Path) -> None:
    branches = [helper.make_node("MatMul", ["x", f"w{k}"], [f"h{k}"], name=f"mm{k}") for k in range(4)]
    graph = helper.make_graph(
        [*branches, helper.make_node("Sum", [f"h{k}" for k in range(4)], ["y"], name="sum")],
        "wide",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [64, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [64, 64])],
        [numpy_helper.from_array(np.full((64, 64), k, np.float32), f"w{k}") for k in range(4)],
    )
    path = tmp_path / "wide.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    model = LoadableModel(ModelManifest(id="wide"), path)
    options = BackendOptions(threads=1, inter_threads=3, spin=False)
    feeds = {"x": np.ones((64, 64), np.float32)}
    section, spans = profile_layers(OnnxRuntimeBackend(), model, options, feeds, repeats=12)
    assert {row.authored for row in section.layers} == {(f"mm{k}",) for k in range(4)} | {("sum",)}
    layers = spans.filter(pl.col("level") == Level.LAYER)
    assert layers["parent"].null_count() == 0
    assert section.checks["no_negative_gap"]
    assert section.gap.require() >= 0
