"""Small ONNX models to load, run and trace, each written for one test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from stratoscope.spec.model import LoadableModel, ModelManifest, TensorSpec

Build = Callable[..., LoadableModel]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """`build(nodes, inputs, outputs, weights, name=..., opset=...)`: a model file and its manifest.

    Inputs and outputs are (name, ONNX element type, shape or None).
    """

    def make(
        nodes: Sequence[onnx.NodeProto],
        inputs: Sequence[tuple[str, int, Any]],
        outputs: Sequence[tuple[str, int, Any]],
        weights: dict[str, np.ndarray] | None = None,
        *,
        name: str = "small",
        opset: int = 17,
        ir_version: int = 8,
        domains: Sequence[tuple[str, int]] = (),
        manifest_inputs: tuple[TensorSpec, ...] = (),
        external: bool = False,
    ) -> LoadableModel:
        graph = helper.make_graph(
            list(nodes),
            name,
            [helper.make_tensor_value_info(*value) for value in inputs],
            [helper.make_tensor_value_info(*value) for value in outputs],
            [numpy_helper.from_array(value, key) for key, value in (weights or {}).items()],
        )
        imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(*domain) for domain in domains)]
        model = helper.make_model(graph, opset_imports=imports, ir_version=ir_version)
        path = tmp_path / f"{name}.onnx"
        if external:
            onnx.save(model, path, save_as_external_data=True, location=f"{name}.weights", size_threshold=0)
        else:
            onnx.save(model, path)
        return LoadableModel(ModelManifest(id=name, inputs=manifest_inputs), path)

    return make


@pytest.fixture
def two_layers(build: Build) -> LoadableModel:
    """relu(x @ w) with a free batch dimension; w is the 3x2 matrix of 1..6 with changing sign."""
    weights = np.array([[1, -2], [3, -4], [5, -6]], np.float32)
    return build(
        [helper.make_node("MatMul", ["x", "w"], ["h"], name="mm"), helper.make_node("Relu", ["h"], ["y"], name="act")],
        [("x", TensorProto.FLOAT, ["N", 3])],
        [("y", TensorProto.FLOAT, ["N", 2])],
        {"w": weights},
        name="two_layers",
        manifest_inputs=(TensorSpec(name="x", element_type="float32", shape=(1, 3)),),
    )


@pytest.fixture
def loop_model(build: Build) -> LoadableModel:
    """Tanh of a Loop that multiplies by a matrix and applies Relu, three times."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["c"], ["c_out"], name="body_cond"),
            helper.make_node("MatMul", ["v", "w"], ["m"], name="body_mm"),
            helper.make_node("Relu", ["m"], ["v_out"], name="body_relu"),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, [4, 4]),
        ],
        [
            helper.make_tensor_value_info("c_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v_out", TensorProto.FLOAT, [4, 4]),
        ],
    )
    return build(
        [
            helper.make_node("Loop", ["n", "go", "x"], ["l"], name="loop", body=body),
            helper.make_node("Tanh", ["l"], ["y"], name="tanh"),
        ],
        [("x", TensorProto.FLOAT, [4, 4])],
        [("y", TensorProto.FLOAT, [4, 4])],
        {"w": np.eye(4, dtype=np.float32) * 0.5, "n": np.array(3), "go": np.array(True)},
        name="looping",
    )
