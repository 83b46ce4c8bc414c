"""Bricks of which one element leaves: they compute all of it, and the element is the right one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper

from stratoscope.measure.observed import empty_model, observed


def model(shapes: list[list[int]], opset: int = 18, domain: str = "") -> bytes:
    nodes = [helper.make_node("Exp", [f"x{n}"], [f"y{n}"]) for n in range(len(shapes))]
    ends = [
        [helper.make_tensor_value_info(f"{name}{n}", TensorProto.FLOAT, shape) for n, shape in enumerate(shapes)]
        for name in "xy"
    ]
    graph = helper.make_graph(nodes, "g", *ends)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid(domain, opset)], ir_version=8)
    return bytes(made.SerializeToString())


def session(content: bytes, *, level: str = "ORT_ENABLE_ALL") -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("opset", [9, 13, 18])
@pytest.mark.parametrize("domain", ["", "ai.onnx"])
def test_the_first_element_of_each_output_leaves(opset: int, domain: str) -> None:
    content, count = observed(model([[3, 5], [2, 1, 4]], opset, domain))
    assert count == 2
    feeds = {"x0": np.arange(1.0, 16.0, dtype=np.float32).reshape(3, 5), "x1": np.full((2, 1, 4), 2, np.float32)}
    found = session(content).run(None, feeds)
    assert [one.shape for one in found] == [(1, 1), (1, 1, 1)]
    np.testing.assert_allclose([one.item() for one in found], np.exp([1.0, 2.0]), rtol=1e-6)


def test_an_output_without_elements_or_dimensions_is_left_as_it_is() -> None:
    content, count = observed(model([[], [0, 4], [2]]))
    assert count == 1
    outputs = ModelProto.FromString(content).graph.output
    assert [one.name for one in outputs] == ["y0", "y1", "observed_0"]


def test_a_model_without_standard_operators_gets_their_version() -> None:
    message = ModelProto.FromString(model([[2, 2]]))
    message.graph.node[0].op_type, message.graph.node[0].domain = "Gelu", "com.microsoft"
    message.opset_import[0].domain, message.opset_import[0].version = "com.microsoft", 1
    content, _ = observed(message.SerializeToString())
    assert session(content).run(None, {"x0": np.ones((2, 2), np.float32)})[0].shape == (1, 1)


def test_the_runtime_computes_all_of_it_though_one_element_is_asked_for(tmp_path: Path) -> None:
    # log of what the optimiser made of it: the layer still comes before the Slice, at its full size
    content, _ = observed(model([[64, 64]]))
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = f"{tmp_path}/optimised.onnx"
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    made = onnx.load(options.optimized_model_filepath).graph
    assert [node.op_type for node in made.node] == ["Exp", "Slice"]
    assert made.node[0].input[0] == "x0"


@pytest.mark.parametrize(("inside", "operator"), [(True, "Slice"), (False, "Identity")])
def test_the_empty_models_stay_what_they_are(tmp_path: Path, inside: bool, operator: str) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = f"{tmp_path}/optimised.onnx"
    made = onnxruntime.InferenceSession(empty_model(inside=inside), options, providers=["CPUExecutionProvider"])
    size = made.get_inputs()[0].shape[0]
    assert made.run(None, {"x": np.arange(7.0, 7.0 + size, dtype=np.float32)})[0].tolist() == [7.0]
    assert [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node] == [operator]
