"""The mapping between authored and executed layers, on graphs that ONNX Runtime really optimised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, helper, numpy_helper

from stratoscope.graph.ir import Graph
from stratoscope.graph.mapping import ExecutedLayer, folded_away, map_executed
from stratoscope.graph.onnx_reader import read_graph
from stratoscope.graph.work import work_of

LIGHT_MODELS = (
    "bvlc_alexnet",
    "densenet121",
    "inception_v1",
    "inception_v2",
    "resnet50",
    "shufflenet",
    "squeezenet",
    "vgg19",
    "zfnet512",
)


def _executed(model: str, folder: Path) -> Graph:
    """The graph that ONNX Runtime makes of a model at its highest level."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights.bin")
    options.add_session_config_entry("session.disable_prepacking", "1")
    ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    graph = read_graph(folder / "optimised.onnx")
    (folder / "weights.bin").unlink(missing_ok=True)
    return graph


def _flops(graph: Graph) -> int:
    works = [work_of(layer) for layer in graph.layers]
    assert all(works)
    return sum(work.flops for work in works if work)


def _check_conservation(authored: Graph, mapped: list[ExecutedLayer]) -> None:
    """Every authored layer is in one executed layer or in none, and the work of both parts is the whole."""
    removed = folded_away(authored, mapped)
    places = Counter(layer.index for one in mapped for layer in one.authored) + Counter(one.index for one in removed)
    assert places == Counter(layer.index for layer in authored.layers)
    covered = sum(one.work.flops for one in mapped if one.work is not None)
    works = [work_of(layer) for layer in removed]
    assert covered + sum(work.flops for work in works if work) == _flops(authored)
    assert all(one.work is not None for one in mapped)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "vgg19" else name for name in LIGHT_MODELS]
)
def test_work_is_conserved_and_each_executed_layer_has_one_core(
    light_file: Callable[[str], Path], light_graph: Callable[[str], Graph], name: str, tmp_path: Path
) -> None:
    authored, executed = light_graph(name), _executed(str(light_file(name)), tmp_path)
    mapped = map_executed(authored, executed)
    assert [one.layer for one in mapped] == list(executed.layers)
    _check_conservation(authored, mapped)
    cores = ("Conv", "Gemm", "MaxPool", "AveragePool", "LRN", "Softmax", "Concat", "Transpose")
    for one in mapped:
        inside = [layer.op for layer in one.authored if layer.op in cores]
        if one.layer.op in ("ReorderInput", "ReorderOutput"):
            assert one.authored == ()
        elif one.layer.op in cores and one.layer.op != "Conv":
            assert inside == [one.layer.op]
        elif one.layer.op == "FusedGemm":
            assert inside == ["Gemm"]
        elif one.layer.op in ("Conv", "FusedConv"):
            # A BatchNormalization or Mul that could not be fused is executed as a convolution of its own.
            assert inside == ["Conv"] or [layer.op for layer in one.authored] in (["BatchNormalization"], ["Mul"])
    # What is gone is without work, except in the Inceptions, whose equal weights make equal convolutions.
    removed = Counter(layer.op for layer in folded_away(authored, mapped))
    merged = {"inception_v1": 2, "inception_v2": 5}.get(name, 0)
    assert removed["Conv"] == removed["Relu"] == merged
    assert merged or not set(removed) - {"Dropout", "Reshape"}


def test_resnet50_fuses_blocks_into_convolutions(
    light_file: Callable[[str], Path], light_graph: Callable[[str], Graph], tmp_path: Path
) -> None:
    mapped = map_executed(light_graph("resnet50"), _executed(str(light_file("resnet50")), tmp_path))
    kinds = Counter(tuple(layer.op for layer in one.authored) for one in mapped if one.layer.op == "Conv")
    # The last convolution of a block also does the addition of the shortcut; the four projections have no activation.
    expected = {
        ("Conv", "BatchNormalization", "Relu"): 33,
        ("Conv", "BatchNormalization", "Sum", "Relu"): 16,
        ("Conv", "BatchNormalization"): 4,
    }
    blocked = any(one.layer.domain == "com.microsoft.nchwc" for one in mapped)
    if blocked:  # the blocked layout needs AVX; without it the additions stay layers
        assert kinds == expected
    # Counted from the executed layers themselves, the products are the same (no channel is padded here).
    own = [one.own_work for one in mapped if one.own_work is not None]
    assert len(own) == len(mapped)
    assert sum(work.macs for work in own) == sum(one.work.macs for one in mapped if one.work is not None)
    fused = next(one for one in mapped if len(one.authored) in (3, 4))
    assert fused.work is not None
    assert fused.own_work is not None
    # Fused, the layer moves less than its parts: the tensors between them stay in registers and caches.
    assert fused.own_work.bytes_read + fused.own_work.bytes_written < fused.work.bytes_read + fused.work.bytes_written


def _transformer_block(model_of: Callable[..., ModelProto]) -> ModelProto:
    """An attention head and a feed-forward layer with GELU, written in basic operators."""
    generator = np.random.default_rng(0)

    def stored(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(generator.normal(size=shape).astype(np.float32), name)

    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "wq"], ["q_product"], "q_matmul"),
        node("Add", ["q_product", "bq"], ["q"], "q_add"),
        node("MatMul", ["x", "wk"], ["k"], "k_matmul"),
        node("MatMul", ["x", "wv"], ["v"], "v_matmul"),
        node("Transpose", ["k"], ["kt"], "k_transpose", perm=[0, 2, 1]),
        node("MatMul", ["q", "kt"], ["scores"], "scores_matmul"),
        node("Mul", ["scores", "scale"], ["scaled"], "scale_mul"),
        node("Softmax", ["scaled"], ["p"], "softmax", axis=-1),
        node("MatMul", ["p", "v"], ["context"], "context_matmul"),
        node("Add", ["context", "x"], ["sum"], "residual"),
        node("LayerNormalization", ["sum", "gamma", "beta"], ["normed"], "norm", axis=-1),
        node("MatMul", ["normed", "w1"], ["h_product"], "up_matmul"),
        node("Add", ["h_product", "b1"], ["h"], "up_add"),
        node("Div", ["h", "root_two"], ["g0"], "gelu_div"),
        node("Erf", ["g0"], ["g1"], "gelu_erf"),
        node("Add", ["g1", "one"], ["g2"], "gelu_add"),
        node("Mul", ["h", "g2"], ["g3"], "gelu_mul"),
        node("Mul", ["g3", "half"], ["g"], "gelu_half"),
        node("Identity", ["g"], ["y"], "end"),
    ]
    scalars = {"scale": 0.25, "root_two": 1.4142135, "one": 1.0, "half": 0.5}
    weights = [stored(name, 16, 16) for name in ("wq", "wk", "wv", "w1")]
    vectors = [stored(name, 16) for name in ("bq", "gamma", "beta", "b1")]
    numbers = [numpy_helper.from_array(np.float32(value), name) for name, value in scalars.items()]
    return model_of(nodes, {"x": (1, 8, 16)}, ["y"], initializers=[*weights, *vectors, *numbers], opset=17)


def test_transformer_fusions_cover_what_they_replace(model_of: Callable[..., ModelProto], tmp_path: Path) -> None:
    model = _transformer_block(model_of)
    onnx.save(model, tmp_path / "model.onnx")
    authored = read_graph(tmp_path / "model.onnx")
    mapped = map_executed(authored, _executed(str(tmp_path / "model.onnx"), tmp_path))
    _check_conservation(authored, mapped)
    inside = {one.layer.op: {layer.name for layer in one.authored} for one in mapped if one.authored}
    assert inside["SkipLayerNormalization"] == {"residual", "norm"}
    assert {"gelu_div", "gelu_erf", "gelu_add", "gelu_mul", "gelu_half"} <= inside[
        "Gelu" if "Gelu" in inside else "BiasGelu"
    ]
    places = {layer.name: one.layer.op for one in mapped for layer in one.authored}
    assert places["q_matmul"] == places["q_add"] == "Gemm"
    assert places["scores_matmul"] == places["scale_mul"] == "FusedMatMul"
    assert places["up_matmul"] in ("MatMul", "Gemm")
    assert "Reshape" not in places.values()  # those that the runtime put around its products cover nothing


def test_identical_graphs_map_layer_by_layer(light_graph: Callable[[str], Graph]) -> None:
    graph = light_graph("squeezenet")
    mapped = map_executed(graph, graph)
    assert all(one.authored == (one.layer,) for one in mapped)
    assert folded_away(graph, mapped) == ()


def test_an_executed_layer_without_counterpart_has_no_work(model_of: Callable[..., ModelProto]) -> None:
    node = helper.make_node
    authored = read_graph(model_of([node("Relu", ["x"], ["y"], "relu")], {"x": (1, 4)}, ["y"]))
    executed = read_graph(
        model_of([node("Exp", ["x"], ["other"], "new"), node("Relu", ["x"], ["y"], "relu")], {"x": (1, 4)}, ["y"])
    )
    mapped = map_executed(authored, executed)
    assert [one.work is None for one in mapped] == [True, False]
    assert mapped[0].own_work is not None
    assert mapped[0].own_work.flops == 4


@pytest.mark.parametrize("name", ["shufflenet", "squeezenet"])
def test_nodes_without_names_map_as_those_with(name: str, tmp_path: Path) -> None:
    """Names that the reader makes up from positions coincide between the two graphs by chance; they decide nothing."""
    light = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / f"light_{name}.onnx"
    work: dict[bool, list[tuple[str, int | None]]] = {}
    for named in (True, False):
        model = onnx.load(str(light))
        for node in model.graph.node:
            node.name = f"layer/{node.output[0]}" if named else ""
        file = tmp_path / f"{name}-{named}.onnx"
        onnx.save(model, str(file))
        folder = tmp_path / str(named)
        folder.mkdir()
        mapped = map_executed(read_graph(file), _executed(str(file), folder))
        work[named] = [(one.layer.op, one.work.flops if one.work else None) for one in mapped]
    assert work[True] == work[False]
