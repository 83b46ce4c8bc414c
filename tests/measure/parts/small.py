"""Small graphs whose layers are measured in tests, and the candidates that they are measured with."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from stratoscope.graph.onnx_reader import read_graph
from stratoscope.measure.parts import RunnablePart, layer_parts
from stratoscope.spec.performance import Candidate, Environment, Protocol

HERE = Environment(cpu="test", hostname="here")
HOT = Protocol(cache="hot")
FLUSHED = Protocol(cache="flushed")


def value(name: str, shape: tuple[int | str, ...], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def weight(name: str, array: np.ndarray) -> onnx.TensorProto:
    return numpy_helper.from_array(array, name)


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def model_of(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    weights: list[onnx.TensorProto] | None = None,
    opset: int = 17,
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "test", inputs, outputs, weights or [])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def relus(layers: int, width: int = 8) -> onnx.ModelProto:
    """Relus of inputs of different widths: each is unique, and takes microseconds."""
    names = range(layers)
    return model_of(
        [helper.make_node("Relu", [f"x{n}"], [f"y{n}"]) for n in names],
        [value(f"x{n}", (1, width + n)) for n in names],
        [value(f"y{n}", (1, width + n)) for n in names],
    )


def one(op: str, shape: tuple[int, ...], *weights: np.ndarray, **attributes: object) -> onnx.ModelProto:
    """A model of one node with these constant inputs behind the first."""
    names = [f"w{place}" for place in range(len(weights))]
    node = helper.make_node(op, ["x", *names], ["y"], **attributes)
    held = [weight(name, array) for name, array in zip(names, weights, strict=True)]
    return model_of([node], [value("x", shape)], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], held)


def parts_of(model: onnx.ModelProto) -> list[RunnablePart]:
    return layer_parts(read_graph(model))


def ort(level: str = "extended") -> Candidate:
    return Candidate(library="onnxruntime", implementation=f"graph={level}", version="test")


def fake(implementation: str = "fine") -> Candidate:
    return Candidate(library="fake", implementation=implementation, version="1")
