"""Loads, runs and traces modules with PyTorch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from onnx import TensorProto, helper

from stratoscope.backends.base import Backend, BackendOptions, SettlingSession, TraceSession, TracingBackend
from stratoscope.backends.onnxruntime import OnnxRuntimeBackend
from stratoscope.backends.pytorch.backend import PyTorchBackend
from stratoscope.backends.registry import get_backend
from stratoscope.errors import BackendError
from stratoscope.models.resolve import resolve
from stratoscope.spec.model import LoadableModel, ModelManifest, TensorSpec
from stratoscope.trace.check import check_conservation
from stratoscope.trace.levels import Level

pytestmark = pytest.mark.torch

ONE_THREAD = BackendOptions(threads=1)
Feeds = dict[str, np.ndarray]


def traced(model: LoadableModel, feeds: Feeds, level: Level, repeats: int = 3) -> pl.DataFrame:
    session = PyTorchBackend().open_trace(model, ONE_THREAD, level)
    assert isinstance(session, TraceSession)
    call = session.bind(feeds)
    for _ in range(repeats):
        call()
    return session.finish()


def names(spans: pl.DataFrame, level: Level, run: int = 0) -> list[str]:
    chosen = spans.filter((pl.col("level") == level.value) & (pl.col("run") == run)).sort("start_ns", "span")
    return chosen["name"].to_list()


def parents(spans: pl.DataFrame) -> dict[str, str]:
    pairs = spans.join(spans.select(parent="span", above="name"), on="parent").select("name", "above")
    return dict(pairs.iter_rows())


def test_it_is_registered_and_follows_the_protocols() -> None:
    backend = get_backend("pytorch")
    assert isinstance(backend, Backend)
    assert isinstance(backend, TracingBackend)
    capabilities = backend.capabilities()
    assert capabilities.available
    assert capabilities.version == torch.__version__
    assert set(capabilities.levels) == set(Level)
    assert capabilities.levels[Level.LAYER] is None
    assert "counters" in str(capabilities.levels[Level.HARDWARE])


def test_module_computes_what_it_computes_by_itself(small: LoadableModel, images: Feeds) -> None:
    session = PyTorchBackend().load(small, ONE_THREAD)
    with torch.inference_mode():
        expected = small.module(torch.from_numpy(images["image"])).numpy()
    np.testing.assert_array_equal(session.run(images)[0], expected)
    np.testing.assert_array_equal(session.bind(images)()[0], expected)


@pytest.mark.slow
def test_compiled_module_gives_what_the_eager_one_gives(small: LoadableModel, images: Feeds) -> None:
    compiled = PyTorchBackend().load(small, BackendOptions(threads=1, execution="compile"))
    eager = PyTorchBackend().load(small, ONE_THREAD)
    assert compiled.effective_options["execution"] == "compile"
    compiled.run(images)
    torch._dynamo.utils.counters.clear()
    for ours, theirs in zip(compiled.run(images), eager.run(images), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    assert not torch._dynamo.utils.counters["graph_break"]
    assert PyTorchBackend().trace_levels(BackendOptions(execution="compile"))[Level.LAYER] is not None


def test_session_leaves_the_module_of_the_caller_alone(small: LoadableModel, images: Feeds) -> None:
    small.module.train()
    before = {key: value.clone() for key, value in small.module.state_dict().items()}
    PyTorchBackend().load(small, BackendOptions(precision="bfloat16", channels_last=True)).run(images)
    traced(small, images, Level.LAYER)
    assert small.module.training
    assert all(not module._forward_hooks for module in small.module.modules())
    assert all(torch.equal(value, before[key]) for key, value in small.module.state_dict().items())


@pytest.mark.slow
def test_zoo_model_from_the_builder_has_the_weights_of_its_onnx_file() -> None:
    model = resolve("mobilenet-v2")
    feeds = {"pixel_values": np.random.default_rng(0).uniform(-1, 1, (1, 3, 224, 224)).astype(np.float32)}
    session = PyTorchBackend().load(model, ONE_THREAD)
    assert session.effective_options["module"] == "zoo"
    expected = OnnxRuntimeBackend().load(model, ONE_THREAD).run(feeds)[0]
    np.testing.assert_allclose(session.run(feeds)[0], expected, atol=1e-4 * float(np.abs(expected).max()))


def test_options_in_effect_are_read_back(small: LoadableModel, images: Feeds) -> None:
    options = BackendOptions(threads=1, precision="bfloat16", channels_last=True)
    session = PyTorchBackend().load(small, options)
    told = session.effective_options
    assert (told["threads"], told["precision"], told["channels_last"]) == (1, "bfloat16", True)
    exact = PyTorchBackend().load(small, ONE_THREAD).run(images)[0]
    rounded = session.run(images)[0]
    assert rounded.dtype == np.float32
    assert not np.array_equal(rounded, exact)
    np.testing.assert_allclose(rounded, exact, atol=0.05)


@pytest.mark.parametrize(
    ("feeds", "why"),
    [
        ({"image": np.zeros((2, 3, 8, 8), np.float32)}, "expects shape"),
        ({"image": np.zeros((2, 3, 48, 48))}, "expects float32"),
        ({}, "is missing"),
    ],
)
def test_feeds_that_do_not_fit_are_refused_before_anything_runs(small: LoadableModel, feeds: Feeds, why: str) -> None:
    with pytest.raises(BackendError, match=why):
        PyTorchBackend().load(small, ONE_THREAD).bind(feeds)


def test_module_that_refuses_its_input_is_one_clear_line() -> None:
    inputs = (TensorSpec(name="x", element_type="float32", shape=(2, 5)),)
    model = LoadableModel(ModelManifest(id="wrong", inputs=inputs), module=torch.nn.Linear(3, 4))
    with pytest.raises(BackendError, match="'wrong': mat1 and mat2 shapes") as refused:
        PyTorchBackend().load(model, ONE_THREAD).run({"x": np.zeros((2, 5), np.float32)})
    assert "\n" not in str(refused.value)


def test_model_without_module_and_file_is_refused() -> None:
    with pytest.raises(BackendError, match="neither a module nor a graph file"):
        PyTorchBackend().load(LoadableModel(ModelManifest(id="nothing")), ONE_THREAD)


def test_unknown_provider_and_missing_gpu_are_refused(small: LoadableModel) -> None:
    with pytest.raises(BackendError, match="'tpu' is unknown"):
        PyTorchBackend().load(small, BackendOptions(providers=("tpu",)))
    if not torch.cuda.is_available():
        with pytest.raises(BackendError, match="no CUDA device"):
            PyTorchBackend().load(small, BackendOptions(providers=("cuda",)))


def test_layer_trace_nests_modules_as_they_call_each_other(small: LoadableModel, images: Feeds) -> None:
    spans = traced(small, images, Level.LAYER)
    assert names(spans, Level.MODEL) == ["small"]
    assert names(spans, Level.LAYER) == ["0", "1", "1.first", "1.second", "2", "3", "4"]
    assert parents(spans) == {"1.first": "1", "1.second": "1"} | dict.fromkeys("01234", "small")
    assert all(check_conservation(spans).holds.values())
    told = {name: json.loads(text) for name, text in spans.select("name", "attributes").iter_rows() if text}
    assert told["1"]["container"]
    assert not told["4"]["container"]
    assert told["4"]["op"] == "Linear"
    assert told["4"]["outputs"] == [{"type": "float32", "shape": [2, 10]}]
    assert told["4"]["parameters"] == 32 * 10 + 10


def test_operators_stand_under_the_module_that_calls_them(small: LoadableModel, images: Feeds) -> None:
    spans = traced(small, images, Level.OPERATOR)
    assert names(spans, Level.LAYER) == ["0", "1", "1.first", "1.second", "2", "3", "4"]
    assert parents(spans)["aten::addmm"] == "aten::linear"
    above = spans.join(spans.select(parent="span", above="name"), on="parent")
    owners = above.filter((pl.col("name") == "aten::conv2d") & (pl.col("run") == 0)).sort("start_ns")["above"].to_list()
    assert owners == ["0", "1.first", "1.second"]
    assert above.filter(pl.col("name") == "aten::add")["above"].unique().to_list() == ["1"]
    assert all(check_conservation(spans).holds.values()), check_conservation(spans).details


def test_shapes_of_operators_are_known_although_they_cost_nothing(small: LoadableModel, images: Feeds) -> None:
    spans = traced(small, images, Level.OPERATOR)
    row = spans.filter((pl.col("name") == "aten::addmm") & (pl.col("run") == 2)).row(0, named=True)
    assert json.loads(row["attributes"])["shapes"][:3] == [[10], [2, 32], [32, 10]]


def test_primitives_stand_under_their_operators(small: LoadableModel, images: Feeds) -> None:
    spans = traced(small, images, Level.LIBRARY)
    primitives = spans.filter(pl.col("level") == Level.LIBRARY.value)
    above = primitives.join(spans.select(parent="span", above="name"), on="parent")
    assert above.height == primitives.height > 0
    told = [json.loads(text) for text in above["attributes"]]
    for name, operator, facts in zip(above["name"], above["above"], told, strict=True):
        assert operator in {"aten::mkldnn_convolution", "aten::_slow_conv2d_forward", "aten::addmm"}
        assert facts["library"] == ("mkl" if name == "sgemm" else "onednn")
    model = json.loads(spans.filter(pl.col("level") == Level.MODEL.value)["attributes"][0])
    assert model["primitives_not_placed"] == 0
    assert model["primitives"] * 3 == primitives.height
    found = check_conservation(spans)
    assert found.holds["children_within_parents"], found.details
    assert found.holds["same_sites_in_all_runs"], found.details


@pytest.mark.parametrize("level", [Level.OPERATOR, Level.LIBRARY])
def test_settling_leaves_no_trace(small: LoadableModel, images: Feeds, level: Level) -> None:
    session = PyTorchBackend().open_trace(small, ONE_THREAD, level)
    assert isinstance(session, SettlingSession)
    try:
        call = session.bind(images)
        session.settle()
        call()
        session.settle()
        spans = session.finish()
    finally:
        session.close()
    assert names(spans, Level.MODEL) == ["small"]
    assert spans["run"].unique().to_list() == [0]


def test_library_session_gives_the_outputs_of_the_model(small: LoadableModel, images: Feeds) -> None:
    session = PyTorchBackend().open_trace(small, ONE_THREAD, Level.LIBRARY)
    try:
        expected = PyTorchBackend().load(small, ONE_THREAD).run(images)[0]
        np.testing.assert_allclose(session.bind(images)()[0], expected, rtol=1e-5, atol=1e-6)
    finally:
        session.close()


def test_killed_process_of_the_libraries_is_one_clear_line(small: LoadableModel, images: Feeds) -> None:
    session = PyTorchBackend().open_trace(small, ONE_THREAD, Level.LIBRARY)
    try:
        call = session.bind(images)
        session._child.kill()
        with pytest.raises(BackendError, match=r"libraries of 'small' died: it was killed by SIGKILL") as caught:
            call()
        assert "\n" not in str(caught.value)
    finally:
        session.close()


def test_error_in_the_process_of_the_libraries_is_the_models_own() -> None:
    inputs = (TensorSpec(name="x", element_type="float32", shape=(2, 5)),)
    model = LoadableModel(ModelManifest(id="wrong", inputs=inputs), module=torch.nn.Linear(3, 4))
    session = PyTorchBackend().open_trace(model, ONE_THREAD, Level.LIBRARY)
    with pytest.raises(BackendError, match="'wrong': mat1 and mat2 shapes"):
        session.bind({"x": np.zeros((2, 5), np.float32)})
    session.close()
    with pytest.raises(BackendError, match="has ended already"):
        session.finish()


def test_level_that_cannot_be_traced_says_why(small: LoadableModel) -> None:
    compiled = BackendOptions(execution="compile")
    assert "hooks" in str(PyTorchBackend().trace_levels(compiled)[Level.LAYER])
    with pytest.raises(BackendError, match="cannot trace the layer level"):
        PyTorchBackend().open_trace(small, compiled)
    if not torch.cuda.is_available():
        with pytest.raises(BackendError, match="cannot trace the kernel level"):
            PyTorchBackend().open_trace(small, ONE_THREAD, Level.KERNEL)


def test_trace_of_a_graph_file_is_named_after_its_nodes(two_layers: LoadableModel, tmp_path: Path) -> None:
    backend = PyTorchBackend()
    feeds = {"x": np.ones((1, 3), np.float32)}
    spans = backend.trace(two_layers, ONE_THREAD, feeds, warmup=2, repeats=2)
    assert spans["run"].unique().sort().to_list() == [0, 1]
    assert names(spans, Level.LAYER) == ["mm", "act"]
    assert backend.executed_graph(two_layers, ONE_THREAD, tmp_path) == two_layers.path


def test_unsupported_operator_of_a_graph_is_one_clear_line(build) -> None:  # type: ignore[no-untyped-def]
    node = helper.make_node("Einsum", ["x"], ["y"], name="odd", equation="ij->ji")
    model = build([node], [("x", TensorProto.FLOAT, [2, 3])], [("y", TensorProto.FLOAT, None)])
    with pytest.raises(BackendError, match="node 'odd' \\(Einsum\\) cannot be converted"):
        PyTorchBackend().load(model, ONE_THREAD)
