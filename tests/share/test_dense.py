"""Rewritten dense layers compute what NumPy computes, and their weights lie as the kernel reads them."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from stratoscope.share.dense import NCHWC, block_size, rewrite_dense, to_panels

BLOCK = block_size(Path(tempfile.gettempdir()))
needs_blocks = pytest.mark.skipif(BLOCK is None, reason="ONNX Runtime has no blocked convolution on this processor")
STREAM = np.random.default_rng(0)


def model_of(nodes: list[onnx.NodeProto], rank: int, depth: int, weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "dense",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [*"abc"[: rank - 1], depth])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    outputs: list[np.ndarray] = onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, feeds)
    return outputs


def normal(*shape: int) -> np.ndarray:
    return STREAM.standard_normal(shape, dtype=np.float32)


def test_panels_hold_each_column_block_row_by_row() -> None:
    panels = to_panels(np.arange(4 * 3, dtype=np.float32).reshape(4, 3), 2)
    assert panels.shape == (4, 4, 1, 1)  # three columns padded to two blocks of two
    assert panels.reshape(2, 4, 2).tolist() == [
        [[0, 1], [3, 4], [6, 7], [9, 10]],
        [[2, 0], [5, 0], [8, 0], [11, 0]],
    ]


@needs_blocks
@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 9),
    depth=st.sampled_from([16, 64, 208]),
    width=st.sampled_from([2048, 2056, 2051]),
    rank=st.integers(2, 4),
    bias=st.sampled_from([None, "row", "matrix", "scalar"]),
    activation=st.sampled_from([None, "Relu", "Tanh", "Sigmoid"]),
)
def test_a_matmul_with_what_follows_it_is_what_numpy_computes(
    rows: int, depth: int, width: int, rank: int, bias: str | None, activation: str | None
) -> None:
    weight, x = normal(depth, width), normal(*([2] * (rank - 2)), rows, depth)
    weights, names = {"w": weight}, iter(("p", "q"))
    expected = x.astype(np.float64) @ weight
    nodes, last = [helper.make_node("MatMul", ["x", "w"], ["m"])], "m"
    if bias is not None:
        weights["b"] = {"row": normal(width), "matrix": normal(1, width), "scalar": normal(1)}[bias]
        expected = expected + weights["b"]
        nodes.append(helper.make_node("Add", ["b", last], [last := next(names)]))
    if activation is not None:
        nodes.append(helper.make_node(activation, [last], [last := next(names)]))
        functions = {"Relu": lambda v: np.maximum(v, 0), "Tanh": np.tanh, "Sigmoid": lambda v: 1 / (1 + np.exp(-v))}
        expected = functions[activation](expected)
    nodes.append(helper.make_node("Identity", [last], ["y"]))
    model = model_of(nodes, rank, depth, weights)
    assert rewrite_dense(model, BLOCK or 0) == 1
    kinds = [(node.domain, node.op_type) for node in model.graph.node]
    assert ("", "MatMul") not in kinds
    assert ("", "Add") not in kinds
    found = run(model, {"x": x})[0]
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@needs_blocks
@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("op_type", ["Gemm", "FusedGemm", "FusedMatMul"])
def test_factors_and_transposed_weights_are_kept(op_type: str, transposed: int) -> None:
    weight, bias, x = normal(512, 512), normal(512), normal(5, 512)
    matrix = weight.T if transposed else weight
    attributes: dict[str, object] = {"alpha": 0.5, "transB": transposed}
    expected = 0.5 * (x.astype(np.float64) @ matrix)
    inputs, weights = ["x", "w"], {"w": weight}
    if op_type != "FusedMatMul":
        attributes["beta"] = 2.0
        inputs.append("b")
        weights["b"] = bias
        expected = expected + 2 * bias
    if op_type == "FusedGemm":
        attributes["activation"] = "Relu"
        expected = np.maximum(expected, 0)
    domain = "" if op_type == "Gemm" else "com.microsoft"
    model = model_of([helper.make_node(op_type, inputs, ["y"], domain=domain, **attributes)], 2, 512, weights)
    assert rewrite_dense(model, BLOCK or 0) == 1
    np.testing.assert_allclose(run(model, {"x": x})[0], expected, rtol=1e-4, atol=1e-4)


@needs_blocks
def test_activations_stay_in_blocks_from_one_dense_layer_to_the_next() -> None:
    weights = {f"w{n}": normal(256, 256) / 16 for n in range(3)}
    names = ["x", "a", "b", "y"]
    model = model_of(
        [helper.make_node("MatMul", [names[n], f"w{n}"], [names[n + 1]]) for n in range(3)], 2, 256, weights
    )
    assert rewrite_dense(model, BLOCK or 0) == 3
    kinds = [node.op_type for node in model.graph.node]
    assert kinds[:6] == ["Reshape", "ReorderInput", "Conv", "Conv", "Conv", "ReorderOutput"]
    assert kinds[6:] == ["Shape", "Slice", "Concat", "Reshape"]  # the way back to the shape of the input
    x = normal(4, 256)
    np.testing.assert_allclose(
        run(model, {"x": x})[0], x @ weights["w0"] @ weights["w1"] @ weights["w2"], rtol=1e-3, atol=1e-4
    )


@needs_blocks
def test_a_result_that_others_read_too_is_still_there() -> None:
    """The product feeds a second dense layer, an addition and a graph output."""
    weights = {"w": normal(256, 256) / 16, "v": normal(256, 256) / 16}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("MatMul", ["h", "v"], ["g"]),
        helper.make_node("Add", ["h", "g"], ["y"]),
    ]
    model = model_of(nodes, 3, 256, weights)
    model.graph.output.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, None))
    assert rewrite_dense(model, BLOCK or 0) == 2
    x = normal(2, 3, 256)
    h = x @ weights["w"]
    y, kept = run(model, {"x": x})
    np.testing.assert_allclose(kept, h, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(y, h + h @ weights["v"], rtol=1e-3, atol=1e-4)


@needs_blocks
@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("Gemm", ["x", "w"], ["y"], transA=1),
        helper.make_node("MatMul", ["w", "x"], ["y"]),
        helper.make_node("MatMul", ["x", "odd"], ["y"]),
        helper.make_node("MatMul", ["x", "small"], ["y"]),
        helper.make_node("Gemm", ["x", "w", "whole"], ["y"]),
        helper.make_node("MatMul", ["x", "half"], ["y"]),
    ],
)
def test_what_cannot_be_rewritten_exactly_stays(node: onnx.NodeProto) -> None:
    weights = {
        "w": normal(256, 256),
        "odd": normal(257, 512),
        "small": normal(16, 16),
        "whole": normal(3, 256),
        "half": normal(256, 512).astype(np.float16),
    }
    model = model_of([node], 2, 256, weights)
    before = model.SerializeToString()
    assert rewrite_dense(model, BLOCK or 0) == 0
    assert model.SerializeToString() == before


@needs_blocks
def test_the_rewritten_convolution_is_in_the_runtimes_own_domain() -> None:
    model = model_of([helper.make_node("MatMul", ["x", "w"], ["y"])], 2, 256, {"w": normal(256, 256)})
    rewrite_dense(model, BLOCK or 0)
    assert {node.domain for node in model.graph.node if node.op_type == "Conv"} == {NCHWC}
    assert [tensor.name for tensor in model.graph.initializer if tensor.name == "w"] == []  # no second copy
