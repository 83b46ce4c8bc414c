"""A brick whose outputs stay inside it, as they are inside a model: one element of each is what leaves.

What leaves a network is written to memory of its own. Inside a model the same tensor takes the place of another that is
not needed any more, or of an input that it is computed from element by element, and lies in a cache. Bricks of small
convolutional networks took up to 10 % longer for that at batch sizes above 1.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from stratoscope.graph.brick_model import IR_VERSION

_DOMAINS: Final = ("", "ai.onnx")
_LAST_WITH_ATTRIBUTES: Final = 9  # opset in which the bounds of Slice were attributes
_PREFIX: Final = "observed_"


def observed(content: bytes) -> tuple[bytes, int]:
    """The model with the first element of each output in the output's place, and the number of such outputs.

    An output without dimensions, or with one that is zero or unknown, is left as it is. The runtime must not know that
    only one element is asked for: it computes all of them, since no rewrite carries a Slice through a layer.
    """
    model = ModelProto.FromString(content)
    graph, opsets = model.graph, {one.domain: one.version for one in model.opset_import}
    opset = next((opsets[domain] for domain in _DOMAINS if domain in opsets), None)
    if opset is None:
        opset = 18
        model.opset_import.append(helper.make_opsetid("", opset))
    outputs = list(graph.output)
    del graph.output[:]
    count = 0
    for output in outputs:
        kind = output.type.tensor_type
        rank = len(kind.shape.dim)
        if rank == 0 or any(dim.dim_value < 1 for dim in kind.shape.dim):
            graph.output.append(output)
            continue
        name = f"{_PREFIX}{count}"
        count += 1
        bounds = {"starts": [0] * rank, "ends": [1] * rank, "axes": list(range(rank))}
        if opset <= _LAST_WITH_ATTRIBUTES:
            graph.node.append(helper.make_node("Slice", [output.name], [name], **bounds))
        else:
            for what, values in bounds.items():
                graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), f"{name}_{what}"))
            graph.node.append(helper.make_node("Slice", [output.name, *(f"{name}_{what}" for what in bounds)], [name]))
        graph.output.append(helper.make_tensor_value_info(name, kind.elem_type, [1] * rank))
    return bytes(model.SerializeToString()), count


def empty_model(*, inside: bool) -> bytes:
    """What every call costs: one Identity of one number; or, of observed bricks, one Slice and nothing to observe."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [size]) for name, size in (("x", 2), ("y", 1))]
    bounds = [numpy_helper.from_array(np.array([number], np.int64), name) for name, number in (("from", 0), ("to", 1))]
    node = helper.make_node("Slice", ["x", "from", "to"], ["y"])
    if not inside:
        values[0], bounds = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1]), []
        node = helper.make_node("Identity", ["x"], ["y"])
    graph = helper.make_graph([node], "empty", values[:1], values[1:], bounds)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=IR_VERSION)
    return bytes(model.SerializeToString())
