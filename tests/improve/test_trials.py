"""Advice is tried on a real model: outputs are compared before time counts, and what fails does not stop the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from stratoscope.errors import ModelError
from stratoscope.explain.advice.changes import Change
from stratoscope.improve.check import difference
from stratoscope.improve.race import race
from stratoscope.improve.trials import Attempt, run_trials
from stratoscope.improve.variants import Variant, changed
from stratoscope.models.resolve import resolve
from stratoscope.spec.options import BackendOptions
from stratoscope.stats.quantity import Quantity


def lrn_model(scale: float = 1.0) -> ModelProto:
    factor = numpy_helper.from_array(np.array(scale, np.float32), "factor")
    nodes = [helper.make_node("LRN", ["x"], ["n"], size=5, alpha=1e-2), helper.make_node("Mul", ["n", "factor"], ["y"])]
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 32, 24, 24]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", info[:1], info[1:], [factor])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def variant(folder: Path, scale: float = 1.0) -> Variant:
    path = folder / f"model{scale}.onnx"
    path.write_bytes(lrn_model(scale).SerializeToString())
    return Variant(resolve(path), "onnxruntime", BackendOptions(threads=1))


def fail() -> Variant:
    raise ModelError("this one cannot be made")


def test_equal_outputs_are_timed_wrong_ones_are_not_and_failures_are_told(tmp_path: Path) -> None:
    original = variant(tmp_path)
    better = changed(original, Change(graph=("lrn-as-pool",)), lrn_model(), tmp_path, "better")
    attempts = [
        Attempt("better", lambda: better, 1e-4),
        Attempt("wrong", lambda: variant(tmp_path, 1.01), 1e-4),
        Attempt("failed", fail, 1e-4),
    ]
    (found,) = run_trials(original, attempts, budget_s=0.3)
    assert found.original.require() > 0
    trial = found.trials["better"]
    assert trial.status in ("faster", "no gain")
    assert trial.speedup.value is not None
    assert trial.max_error is not None
    assert trial.max_error <= trial.tolerance
    wrong = found.trials["wrong"]
    assert wrong.status == "wrong"
    assert wrong.time.value is None
    assert wrong.max_error == pytest.approx(0.01, rel=1e-2)
    assert found.trials["failed"].status == "failed"
    assert "cannot be made" in (found.trials["failed"].reason or "")


def test_accuracy_is_told_where_the_model_has_labelled_data() -> None:
    original = Variant(resolve("digits"), "onnxruntime", BackendOptions(threads=1))
    other = Variant(original.model, "onnxruntime", BackendOptions(threads=1, graph_optimization="off"))
    (found,) = run_trials(original, [Attempt("off", lambda: other, 1e-4)], budget_s=0.1)
    trial = found.trials["off"]
    assert trial.accuracy is not None
    assert trial.accuracy_before is not None
    assert trial.accuracy.value == trial.accuracy_before.value
    assert trial.accuracy.require() > 0.9


def test_a_change_that_fits_nowhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="fits nowhere"):
        changed(variant(tmp_path), Change(graph=("fold-affine", "lrn-as-pool")), lrn_model(), tmp_path, "x")


class Ticks:
    """A clock that only calls move."""

    def __init__(self) -> None:
        self.at = 0

    def now_ns(self) -> int:
        return self.at


def test_race_finds_the_ratio_on_a_virtual_clock() -> None:
    clock = Ticks()

    def way(cost_ns: int) -> object:
        def call() -> None:
            clock.at += cost_ns

        return call

    drift = iter(range(10**9))

    def slow() -> None:
        clock.at += 3_000_000 + next(drift) % 7

    result = race("slow", {"slow": slow, "fast": way(1_000_000)}, budget_s=0.5, clock=clock)  # type: ignore[dict-item]
    assert result.laps["fast"].speedup.require() == pytest.approx(3.0, rel=1e-4)
    assert result.laps["slow"].speedup.require() == pytest.approx(1.0)
    assert result.laps["fast"].time.require() == pytest.approx(1e-3)


def test_differences_are_relative_to_the_largest_output_and_infinite_where_nothing_compares() -> None:
    a = np.array([0.0, 10.0, -5.0])
    assert difference(a, a + np.array([0.1, 0.0, 0.0])) == (pytest.approx(0.01), "")
    assert difference(a, a[:2])[0] == float("inf")
    assert difference(a, np.array([0.0, np.nan, -5.0]))[0] == float("inf")
    assert difference(np.array([np.inf, 1.0]), np.array([np.inf, 1.0])) == (0.0, "")
    assert difference(np.array([np.inf, 1.0]), np.array([-np.inf, 1.0]))[0] == float("inf")
    assert difference(np.zeros(2), np.full(2, 0.5)) == (0.5, "")
    assert difference(np.zeros(0), np.zeros(0)) == (0.0, "")
    assert difference(np.array(["a"], dtype=object), np.array(["b"], dtype=object))[0] == float("inf")


def test_contradicting_changes_do_not_go_together() -> None:
    a = Change(options={"threads": 1})
    assert a.with_(Change(options={"threads": 2})) is None
    assert a.with_(Change(backend="openvino")) is not None
    assert Change(backend="pytorch").with_(Change(backend="openvino")) is None
    both = Change(graph=("x",)).with_(Change(graph=("y", "x"), tolerance=0.1))
    assert both is not None
    assert both.graph == ("x", "y")
    assert both.changes_numbers


def test_speedups_are_quantities_with_intervals(tmp_path: Path) -> None:
    original = variant(tmp_path)
    (found,) = run_trials(original, [Attempt("same", lambda: original, 0.0)], budget_s=0.2)
    speedup: Quantity = found.trials["same"].speedup
    assert speedup.unit == "1"
    assert speedup.ci_low is not None
    assert found.trials["same"].max_error == 0.0
