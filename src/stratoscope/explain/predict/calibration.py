"""Small networks that calibrate layer predictions: the operators that move or touch data, at a grid of sizes.

A model has few element-wise layers and copies of each kind, and what they cost depends on size, alignment and the
caches. These networks have them all, cut and measured like any model; none of them is from a model.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

#: Channels and edge length of the planes: powers of two and odd ones, from 6 KiB to 6.4 MB of activations.
SIZES: Final = (
    (32, 7), (32, 14), (32, 27), (32, 56), (32, 112), (96, 14), (96, 55), (128, 7), (128, 13), (128, 28), (128, 56),
    (256, 14), (256, 27), (256, 56), (512, 7), (512, 13), (512, 28), (768, 14), (1024, 7), (1024, 14),
)  # fmt: skip
_IR: Final = 8
_OPSET: Final = 18


class _Network:
    """Nodes and weights of a network under construction."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def weight(self, *shape: int) -> str:
        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.full(shape, 0.5, np.float32), name))
        return name

    def ints(self, *values: int) -> str:
        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def add(self, operator: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """The name of the output, or the names where there are several."""
        names = [f"{operator}_{len(self.nodes)}_{place}" for place in range(outputs)]
        self.nodes.append(helper.make_node(operator, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names


def calibration_model(channels: int, edge: int) -> ModelProto:
    """One network: [1, channels, edge, edge] through products, reorders, element-wise layers, copies and pools."""
    net = _Network()
    planes = net.add("Conv", "x", net.weight(channels, channels, 1, 1), kernel_shape=[1, 1])
    scaled = net.add("Mul", planes, net.weight(1, channels, 1, 1))
    shifted = net.add("Add", scaled, net.weight(1, channels, 1, 1))
    active = net.add("Relu", shifted)
    again = net.add("Conv", active, net.weight(channels, channels, 1, 1), kernel_shape=[1, 1])
    joined = net.add("Concat", active, again, axis=1)
    left, right = net.add("Split", joined, outputs=2, axis=1, num_outputs=2)
    summed = net.add("Add", left, right)
    last = net.add("Transpose", summed, perm=[0, 2, 3, 1])
    normal = net.add("LayerNormalization", last, net.weight(channels), net.weight(channels), axis=-1)
    rows = net.add("Reshape", normal, net.ints(edge * edge, channels))
    biased = net.add("Add", rows, net.weight(channels))
    halved = net.add("Mul", biased, net.weight())
    curved = net.add("Erf", halved)
    gated = net.add("Mul", halved, curved)
    likely = net.add("Softmax", gated, axis=-1)
    sliced = net.add("Slice", likely, net.ints(0), net.ints(channels // 2), net.ints(1))
    twice = net.add("Concat", sliced, sliced, axis=1)
    shaped = net.add("Reshape", twice, net.ints(1, edge, edge, channels))
    back = net.add("Transpose", shaped, perm=[0, 3, 1, 2])
    wide = net.add("Conv", back, net.weight(channels, channels, 1, 1), kernel_shape=[1, 1])
    largest = net.add("MaxPool", wide, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    mean = net.add("AveragePool", largest, kernel_shape=[2, 2], strides=[1, 1])
    pooled = net.add("ReduceMean", mean, net.ints(2, 3), keepdims=0)
    net.add("Relu", pooled)
    values = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, channels, edge, edge]),
        helper.make_tensor_value_info(net.nodes[-1].output[0], TensorProto.FLOAT, [1, channels]),
    ]
    graph = helper.make_graph(net.nodes, f"calibration_{channels}_{edge}", values[:1], values[1:], net.weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
