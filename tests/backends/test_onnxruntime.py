from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import polars as pl
import pytest
from onnx import TensorProto, helper

from stratoscope.backends.base import BackendOptions, Session, TraceSession
from stratoscope.backends.onnxruntime import OnnxRuntimeBackend
from stratoscope.backends.ort_options import resolve_providers
from stratoscope.errors import BackendError
from stratoscope.spec.model import LoadableModel, ModelManifest, TensorSpec
from stratoscope.trace.correlate import correlate
from stratoscope.trace.levels import Level
from stratoscope.trace.spans import SPAN_SCHEMA

Build = Callable[..., LoadableModel]
FLOAT = TensorProto.FLOAT
BACKEND = OnnxRuntimeBackend()
ONE = BackendOptions(threads=1)
FEEDS = {"x": np.array([[1, 2, 3]], np.float32)}
BY_HAND = np.array([[1 + 6 + 15, 0]], np.float32)  # the second column is negative, so Relu gives zero


def test_run_and_bound_calls_give_the_product_by_hand(two_layers: LoadableModel) -> None:
    session = BACKEND.load(two_layers, ONE)
    assert isinstance(session, Session)
    call = session.bind(FEEDS)
    for outputs in (session.run(FEEDS), call(), call(), call()):
        np.testing.assert_array_equal(outputs[0], BY_HAND)


def test_bound_inputs_of_any_memory_layout_are_right(two_layers: LoadableModel) -> None:
    strided = np.array([[1, 9, 2, 9, 3, 9]], np.float32)[:, ::2]
    call = BACKEND.load(two_layers, ONE).bind({"x": strided})
    call()
    np.testing.assert_array_equal(call()[0], BY_HAND)


def test_large_outputs_are_fresh_arrays_at_each_bound_call(build: Build) -> None:
    model = build([helper.make_node("Neg", ["x"], ["y"])], [("x", FLOAT, [600, 600])], [("y", FLOAT, [600, 600])])
    call = BACKEND.load(model, ONE).bind({"x": np.ones((600, 600), np.float32)})
    kept = [call()[0] for _ in range(3)]
    assert not np.shares_memory(kept[1], kept[2])
    assert all((value == -1).all() for value in kept)


def test_one_bound_call_serves_several_threads(two_layers: LoadableModel) -> None:
    call = BACKEND.load(two_layers, ONE).bind(FEEDS)
    call()
    wrong: list[np.ndarray] = []

    def work() -> None:
        wrong.extend(out for out in (call()[0].copy() for _ in range(300)) if not np.array_equal(out, BY_HAND))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_text_goes_in_and_comes_out(build: Build) -> None:
    model = build(
        [helper.make_node("Identity", ["x"], ["y"])],
        [("x", TensorProto.STRING, [2])],
        [("y", TensorProto.STRING, [2])],
    )
    session = BACKEND.load(model, ONE)
    assert session.inputs[0].element_type == "str"
    call = session.bind({"x": np.array(["a", "b"], object)})
    assert [call()[0].tolist() for _ in range(2)] == [["a", "b"]] * 2


def test_effective_options_are_read_back(two_layers: LoadableModel) -> None:
    options = BackendOptions(threads=2, inter_threads=2, graph_optimization="basic", spin=False)
    told = BACKEND.load(two_layers, options).effective_options
    assert (told["threads"], told["inter_threads"], told["graph_optimization"]) == (2, 2, "basic")
    assert (told["spin"], told["execution_mode"], told["providers"]) == (False, "parallel", ["CPUExecutionProvider"])
    told = BACKEND.load(two_layers, BackendOptions(threads=1)).effective_options
    assert (told["graph_optimization"], told["spin"], told["execution_mode"]) == ("all", True, "sequential")
    json.dumps(told)


def test_inputs_are_those_of_the_manifest_and_must_agree_with_the_file(two_layers: LoadableModel) -> None:
    assert BACKEND.load(two_layers, ONE).inputs[0].shape == (1, 3)
    plain = LoadableModel(ModelManifest(id="plain"), two_layers.path)
    assert BACKEND.load(plain, ONE).inputs[0].shape == ("N", 3)
    for spec, message in (
        (
            TensorSpec(name="x", element_type="float32", shape=(1, 4)),
            r"\[1, 4\] by its manifest.*\['N', 3\] in the file",
        ),
        (TensorSpec(name="x", element_type="float64", shape=(1, 3)), "float64 .*float32"),
        (TensorSpec(name="z", element_type="float32", shape=(1, 3)), "inputs z are not those of the file: x"),
    ):
        wrong = LoadableModel(ModelManifest(id="wrong", inputs=(spec,)), two_layers.path)
        with pytest.raises(BackendError, match=message):
            BACKEND.load(wrong, ONE)


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "input 'x' is missing.*inputs are: 'x'"),
        ({"x": np.ones((1, 3), np.float32), "z": np.ones(1)}, "there is no input 'z'"),
        ({"x": np.ones((1, 3), np.float64)}, "'x' expects float32, got float64"),
        ({"x": np.ones((2, 3), np.float32)}, r"'x' expects shape \[1, 3\], got \[2, 3\]"),
        ({"x": np.ones(3, np.float32)}, r"'x' expects shape \[1, 3\], got \[3\]"),
    ],
)
def test_wrong_feeds_are_named_before_anything_runs(
    two_layers: LoadableModel, feeds: dict[str, np.ndarray], message: str
) -> None:
    session = BACKEND.load(two_layers, ONE)
    with pytest.raises(BackendError, match=message):
        session.bind(feeds)


def test_wrong_feeds_of_a_plain_run_are_one_line_too(two_layers: LoadableModel) -> None:
    session = BACKEND.load(two_layers, ONE)
    with pytest.raises(BackendError, match="model 'two_layers': input 'x' has a dimension of 4 where 3 is expected"):
        session.run({"x": np.ones((1, 4), np.float32)})


def test_operators_that_cannot_run_are_named_with_their_domain(build: Build) -> None:
    value = [("x", FLOAT, [1])], [("y", FLOAT, [1])]
    unknown = build([helper.make_node("Frobnicate", ["x"], ["y"])], *value)
    with pytest.raises(BackendError, match=r"operator Frobnicate of domain ai.onnx is unknown in opset 17"):
        BACKEND.load(unknown, ONE)
    custom = build([helper.make_node("Relu", ["x"], ["y"], domain="com.acme")], *value, domains=[("com.acme", 1)])
    with pytest.raises(BackendError, match=r"operator Relu of domain com.acme is not supported"):
        BACKEND.load(custom, ONE)
    half = [("x", TensorProto.BFLOAT16, [1])], [("y", TensorProto.BFLOAT16, [1])]
    with pytest.raises(BackendError, match=r"operator Relu \(version 14, node 'r'\) has no kernel"):
        BACKEND.load(build([helper.make_node("Relu", ["x"], ["y"], name="r")], *half), ONE)


def test_files_that_are_no_models_are_told_apart(tmp_path: Path, two_layers: LoadableModel, build: Build) -> None:
    assert two_layers.path is not None
    content = two_layers.path.read_bytes()
    cases = {
        "missing": (None, "there is no file"),
        "text": (b"this is not a protobuf " * 20, "truncated or no ONNX file"),
        "cut": (content[:-40], "truncated or no ONNX file"),
        "empty": (b"", "holds no graph"),
    }
    for name, (data, message) in cases.items():
        path = tmp_path / f"{name}.onnx"
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(BackendError, match=f"model {name!r}.*{message}"):
            BACKEND.load(LoadableModel(ModelManifest(id=name), path), ONE)
    with pytest.raises(BackendError, match="has no ONNX file"):
        BACKEND.load(LoadableModel(ModelManifest(id="module"), module=object()), ONE)


def test_models_of_the_future_are_told_apart(build: Build) -> None:
    value = [helper.make_node("Relu", ["x"], ["y"])], [("x", FLOAT, [1])], [("y", FLOAT, [1])]
    with pytest.raises(BackendError, match=r"opset 99 of domain ai.onnx is newer .*\(up to \d+\)"):
        BACKEND.load(build(*value, opset=99), ONE)
    with pytest.raises(BackendError, match=r"IR version 99 is newer .*\(up to \d+\)"):
        BACKEND.load(build(*value, ir_version=99), ONE)


def test_external_data_must_be_there_and_inside_the_folder(build: Build) -> None:
    model = build(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        [("x", FLOAT, [3])],
        [("y", FLOAT, [3])],
        {"w": np.arange(3, dtype=np.float32)},
        name="outside",
        external=True,
    )
    assert model.path is not None
    feeds = {"x": np.ones(3, np.float32)}
    assert BACKEND.load(model, ONE).run(feeds)[0].tolist() == [1, 2, 3]
    (model.path.parent / "outside.weights").rename(model.path.parent.parent / "stolen.weights")
    with pytest.raises(BackendError, match=r"external data .*outside.weights' is missing"):
        BACKEND.load(model, ONE)
    proto = onnx.load(model.path, load_external_data=False)
    for entry in proto.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = "../stolen.weights"
    onnx.save(proto, model.path)
    with pytest.raises(BackendError, match=r"'../stolen.weights' lies outside of the model's folder"):
        BACKEND.load(model, ONE)


def test_memory_that_is_refused_is_told_as_such(build: Build, capfd: pytest.CaptureFixture[str]) -> None:
    model = build(
        [helper.make_node("ConstantOfShape", ["s"], ["y"], name="big")],
        [("s", TensorProto.INT64, [2])],
        [("y", FLOAT, None)],
    )
    session = BACKEND.load(model, ONE)
    with pytest.raises(BackendError, match=f"out of memory: a buffer of {4 << 50} bytes"):
        session.run({"s": np.array([1 << 25, 1 << 25])})
    assert capfd.readouterr().err == ""


def test_a_node_that_fails_is_named(build: Build) -> None:
    model = build(
        [helper.make_node("Reshape", ["x", "s"], ["y"], name="fold")],
        [("x", FLOAT, [6]), ("s", TensorProto.INT64, [2])],
        [("y", FLOAT, None)],
    )
    call = BACKEND.load(model, ONE).bind({"x": np.zeros(6, np.float32), "s": np.array([4, 4])})
    with pytest.raises(BackendError, match=r"operator Reshape \(node 'fold'\) fails.*\{6\}, requested shape:\{4,4\}"):
        call()


def test_providers_are_found_by_short_name_and_missing_ones_refused() -> None:
    available = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert resolve_providers((), available) == ("CPUExecutionProvider",)
    assert resolve_providers(("cuda", "CPUExecutionProvider", "cpu"), available) == tuple(available)
    with pytest.raises(BackendError, match=r"'rocm' is not in this build.*available: CUDAExecutionProvider, CPU"):
        resolve_providers(("rocm",), available)


def test_trace_has_a_model_span_and_its_layers_for_each_repeat(two_layers: LoadableModel) -> None:
    before = time.perf_counter_ns()
    spans = BACKEND.trace(two_layers, ONE, FEEDS, warmup=2, repeats=3)
    after = time.perf_counter_ns()
    assert dict(spans.schema) == dict(SPAN_SCHEMA)
    assert spans["run"].to_list() == [0] * 3 + [1] * 3 + [2] * 3
    assert spans["site"].to_list() == ["20:two_layers#0", "20:two_layers#0|30:mm#0", "20:two_layers#0|30:act#0"] * 3
    models = spans.filter(pl.col("level") == Level.MODEL)
    assert before <= models["start_ns"].min()
    assert models["end_ns"].max() <= after
    assert set(spans["track"]) == {threading.get_native_id()}
    layer = json.loads(spans.row(1, named=True)["attributes"])
    assert (layer["op"], layer["provider"]) == ("MatMul", "CPUExecutionProvider")
    assert layer["inputs"][0] == {"type": "float32", "shape": [1, 3]}
    assert layer["outputs"] == [{"type": "float32", "shape": [1, 2]}]
    assert layer["output_bytes"] == 8


def test_trace_layers_lie_within_their_model_span_on_our_clock(two_layers: LoadableModel) -> None:
    spans = BACKEND.trace(two_layers, ONE, FEEDS, warmup=1, repeats=20)
    # Parents by time alone agree with those that the back end assigned: the two clocks are in register.
    by_time = correlate(spans.with_columns(parent=pl.lit(None, pl.Int64)))
    assert by_time.flagged.height == 0
    assert by_time.spans["parent"].to_list() == spans["parent"].to_list()
    clocks = [json.loads(text) for text in spans.filter(pl.col("level") == Level.MODEL)["attributes"]]
    assert all(0 <= clock["clock_error_ns"] < 1_000_000 for clock in clocks)


def test_layers_of_a_loop_body_are_children_of_the_loop(loop_model: LoadableModel) -> None:
    spans = BACKEND.trace(loop_model, ONE, {"x": np.ones((4, 4), np.float32)}, warmup=0, repeats=2)
    name = dict(spans.select("span", "name").iter_rows())
    pairs = [(child, name.get(parent)) for child, parent in spans.select("name", "parent").iter_rows()]
    body = [("body_mm", "loop"), ("body_relu", "loop"), ("body_cond", "loop")]
    top = [("looping", None), ("loop", "looping"), ("tanh", "looping")]
    assert sorted(pairs, key=str) == sorted((top + body * 3) * 2, key=str)
    assert "20:looping#0|30:loop#0|30:body_mm#2" in spans["site"].to_list()


def test_layers_on_worker_threads_belong_to_the_model_span(build: Build) -> None:
    nodes = [helper.make_node("MatMul", ["x", f"w{k}"], [f"h{k}"], name=f"mm{k}") for k in range(3)]
    model = build(
        [*nodes, helper.make_node("Sum", ["h0", "h1", "h2"], ["y"], name="sum")],
        [("x", FLOAT, [64, 64])],
        [("y", FLOAT, [64, 64])],
        {f"w{k}": np.full((64, 64), k, np.float32) for k in range(3)},
        name="wide",
    )
    options = BackendOptions(threads=1, inter_threads=2)
    spans = BACKEND.trace(model, options, {"x": np.ones((64, 64), np.float32)}, warmup=1, repeats=2)
    layers = spans.filter(pl.col("level") == Level.LAYER)
    assert sorted(layers["name"]) == sorted(["mm0", "mm1", "mm2", "sum"] * 2)
    assert layers["parent"].null_count() == 0
    assert threading.get_native_id() not in layers["track"].to_list()


def test_interleaved_trace_counts_only_its_own_calls_and_leaves_no_file(
    two_layers: LoadableModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    plain, traced = BACKEND.load(two_layers, ONE), BACKEND.open_trace(two_layers, ONE)
    assert isinstance(traced, TraceSession)
    calls = plain.bind(FEEDS), traced.bind(FEEDS)
    for _ in range(5):
        for call in calls:
            np.testing.assert_array_equal(call()[0], BY_HAND)
    spans = traced.finish()
    assert spans["run"].n_unique() == 5
    assert list((tmp_path / "scratch").iterdir()) == []
    with pytest.raises(BackendError, match="has ended already"):
        traced.finish()


def test_a_trace_session_given_up_leaves_no_file(
    two_layers: LoadableModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    BACKEND.open_trace(two_layers, ONE).close()
    with pytest.raises(BackendError, match="no file"):
        BACKEND.open_trace(LoadableModel(ModelManifest(id="gone"), tmp_path / "gone.onnx"), ONE)
    assert list((tmp_path / "scratch").iterdir()) == []


def test_executed_graph_is_the_fused_one_and_computes_the_same(build: Build, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((8, 4, 3, 3)).astype(np.float32), "b": np.zeros(8, np.float32)}
    model = build(
        [
            helper.make_node("Conv", ["x", "w", "b"], ["h"], name="conv", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["h"], ["y"], name="relu"),
        ],
        [("x", FLOAT, [1, 4, 8, 8])],
        [("y", FLOAT, [1, 8, 8, 8])],
        weights,
        name="conv",
    )
    path = BACKEND.executed_graph(model, BackendOptions(graph_optimization="extended"), tmp_path / "made" / "here")
    assert path is not None
    assert [node.op_type for node in onnx.load(path).graph.node] == ["FusedConv"]
    assert path.stat().st_size < sum(value.nbytes for value in weights.values())  # the weights lie beside it
    feeds = {"x": rng.standard_normal((1, 4, 8, 8)).astype(np.float32)}
    again = BACKEND.load(LoadableModel(ModelManifest(id="again"), path), ONE).run(feeds)[0]
    np.testing.assert_allclose(again, BACKEND.load(model, ONE).run(feeds)[0], rtol=1e-5, atol=1e-6)


def test_executed_graph_into_a_folder_that_cannot_be_is_one_line(two_layers: LoadableModel, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BackendError, match="cannot make the folder"):
        BACKEND.executed_graph(two_layers, ONE, tmp_path / "file" / "folder")


def test_levels_that_it_cannot_trace_say_why() -> None:
    capabilities = BACKEND.capabilities()
    assert capabilities.available
    assert [level for level, why in capabilities.levels.items() if why is None] == [Level.MODEL, Level.LAYER]
    assert set(capabilities.levels) == set(Level)
