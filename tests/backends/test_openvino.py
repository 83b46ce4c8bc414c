"""Loads, runs and traces models with OpenVINO."""

from __future__ import annotations

import enum
import json
from collections.abc import Callable, Sequence
from datetime import timedelta
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from onnx import TensorProto, helper

from stratoscope.backends.base import Backend, BackendOptions, TraceSession, TracingBackend
from stratoscope.backends.onnxruntime import OnnxRuntimeBackend
from stratoscope.backends.openvino import CALLS_A_COMPILATION, OpenVinoBackend, _Call
from stratoscope.backends.registry import get_backend
from stratoscope.errors import BackendError
from stratoscope.models.resolve import resolve
from stratoscope.spec.model import LoadableModel, ModelManifest
from stratoscope.trace.check import check_conservation
from stratoscope.trace.levels import Level

pytest.importorskip("openvino", reason="the openvino extra is not installed")

ONE_THREAD = BackendOptions(threads=1)


@pytest.fixture(scope="module")
def digits() -> LoadableModel:
    return resolve("digits", batch_size=64)


@pytest.fixture(scope="module")
def images() -> dict[str, np.ndarray]:
    return {"image": np.random.default_rng(0).uniform(0, 1, (64, 1, 8, 8)).astype(np.float32)}


def test_it_is_registered_and_follows_the_protocols() -> None:
    backend = get_backend("openvino")
    assert isinstance(backend, Backend)
    assert isinstance(backend, TracingBackend)
    levels = backend.capabilities().levels
    assert levels[Level.LAYER] is None
    assert "below the layer" in str(levels[Level.OPERATOR])


def test_outputs_are_those_of_onnx_runtime(digits: LoadableModel, images: dict[str, np.ndarray]) -> None:
    session = OpenVinoBackend().load(digits, ONE_THREAD)
    expected = OnnxRuntimeBackend().load(digits, ONE_THREAD).run(images)
    np.testing.assert_allclose(session.run(images)[0], expected[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(session.bind(images)()[0], expected[0], rtol=1e-4, atol=1e-4)


def test_precision_is_float32_unless_told_otherwise_and_read_back(digits: LoadableModel) -> None:
    told = OpenVinoBackend().load(digits, ONE_THREAD).effective_options
    assert (told["precision"], told["threads"], told["streams"]) == ("f32", 1, 1)


def test_outputs_of_run_are_not_overwritten_by_the_next(digits: LoadableModel, images: dict[str, np.ndarray]) -> None:
    session = OpenVinoBackend().load(digits, ONE_THREAD)
    first = session.run(images)[0]
    kept = first.copy()
    session.run({"image": 1 - images["image"]})
    np.testing.assert_array_equal(first, kept)


def test_layers_lie_in_their_model_and_keep_their_sites_over_compilations(
    digits: LoadableModel, images: dict[str, np.ndarray]
) -> None:
    session = OpenVinoBackend().open_trace(digits, ONE_THREAD)
    assert isinstance(session, TraceSession)
    call = session.bind(images)
    for _ in range(CALLS_A_COMPILATION + 4):
        call()
    spans = session.finish()
    assert spans.filter(pl.col("level") == Level.MODEL.value).height == CALLS_A_COMPILATION + 4
    layers = spans.filter((pl.col("level") == Level.LAYER.value) & (pl.col("run") == 0))
    operators = [json.loads(text)["op"] for text in layers["attributes"]]
    assert {"Convolution", "FullyConnected"} <= set(operators)
    found = check_conservation(spans)
    assert found.holds["same_sites_in_all_runs"], found.details
    assert found.holds["children_and_self_make_parent"], found.details
    with pytest.raises(BackendError, match="has ended already"):
        session.finish()


def test_mean_of_the_layers_over_calls_is_the_mean_that_openvino_counts(
    digits: LoadableModel, images: dict[str, np.ndarray]
) -> None:
    session = OpenVinoBackend().open_trace(digits, ONE_THREAD)
    call = session.bind(images)
    for _ in range(8):
        call()
    counted = [round(one.real_time.total_seconds() * 1e6) for one in session._idle[-1].profiling_info]
    totals = [sum(times) for times in zip(*(one.times_us for one in session._calls), strict=True)]
    assert len(totals) == sum(one > 0 for one in counted) or len(totals) <= len(counted)
    # Ten calls were counted, the two of the warm-up are not among the traced ones.
    assert all(total <= 10 * max(counted) for total in totals)
    assert sum(totals) <= 10 * sum(counted)


def test_model_without_a_file_and_foreign_provider_are_refused(digits: LoadableModel) -> None:
    with pytest.raises(BackendError, match="has no graph file"):
        OpenVinoBackend().load(LoadableModel(ModelManifest(id="nothing")), ONE_THREAD)
    with pytest.raises(BackendError, match="'npu' is not supported"):
        OpenVinoBackend().load(digits, BackendOptions(providers=("npu",)))


def test_wrong_shape_and_unsupported_operator_are_one_clear_line(
    build: Callable[..., LoadableModel], digits: LoadableModel
) -> None:
    with pytest.raises(BackendError, match="expects shape"):
        OpenVinoBackend().load(digits, ONE_THREAD).bind({"image": np.zeros((1, 1, 9, 8), np.float32)})
    node = helper.make_node("Nothing", ["x"], ["y"], name="odd", domain="nowhere")
    model = build([node], [("x", TensorProto.FLOAT, [2])], [("y", TensorProto.FLOAT, [2])], domains=[("nowhere", 1)])
    with pytest.raises(BackendError, match="OpenVINO cannot") as refused:
        OpenVinoBackend().load(model, ONE_THREAD)
    assert "\n" not in str(refused.value)


def test_a_layer_whose_mean_falls_to_zero_in_one_call_stays_a_layer() -> None:
    """OpenVINO calls what takes less than half a microsecond not run."""
    status = enum.Enum("status", "NOT_RUN EXECUTED")

    def counters(times_us: Sequence[int]) -> SimpleNamespace:
        told = [
            SimpleNamespace(
                status=status.EXECUTED if time_us else status.NOT_RUN, real_time=timedelta(microseconds=time_us),
                node_name=f"node{place}", node_type="Convolution", exec_type="any",
            )
            for place, time_us in enumerate(times_us)
        ]  # fmt: skip
        return SimpleNamespace(profiling_info=told)

    session = OpenVinoBackend().open_trace(resolve("digits"), BackendOptions(threads=1))
    session._names = dict  # type: ignore[method-assign]
    for means in ([5, 1, 0], [5, 0, 0], [7, 1, 0]):
        session._idle.append(counters(means))
        session._calls.append(_Call(0, 10_000, 1, session._read_counters()))
    spans = session.finish().filter(pl.col("level") == 30)
    assert spans["name"].to_list() == ["node0", "node1"] * 3
    assert (spans["end_ns"] - spans["start_ns"]).to_list() == [5000, 1000, 5000, 0, 11000, 3000]
