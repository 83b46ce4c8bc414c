"""Local response normalisation as a subgraph of operators that every runtime has a fast kernel for.

y = x / (bias + alpha / size * sum of x^2 over `size` neighbouring channels) ^ beta (ONNX; Krizhevsky et al. 2012,
section 3.3). ONNX Runtime's kernel raises each element to a power one by one. Here the window is an average pool over
the channels, made the depth of a volume; the power of three quarters is two square roots and a product.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from onnx import NodeProto

from stratoscope.improve.editing import GraphEditor, NewNodes, attribute

#: From this operator set on, arithmetic broadcasts and AveragePool can count the padding.
LEAST_OPSET: Final = 7
#: Images, or sequences with channels: with the channels' axis twice, a pool has at most three dimensions.
_RANKS: Final = (3, 4)
_CHANNELS: Final = 1


def find_lrn(editor: GraphEditor, ranks: Mapping[str, int]) -> list[NodeProto]:
    """The LRN nodes that can be replaced: on [N, C, W] or [N, C, H, W], with a base that stays above zero.

    Args:
        ranks: number of dimensions by tensor name, of float32 tensors whose shape is known.
    """
    found = []
    for node in editor.nodes:
        if editor.is_operator(node, "LRN") and editor.opset >= LEAST_OPSET and ranks.get(node.input[0]) in _RANKS:
            bias, alpha = float(attribute(node, "bias", 1.0)), float(attribute(node, "alpha", 1e-4))
            if bias > 0 and alpha >= 0 and int(attribute(node, "size", 0)) >= 1:
                found.append(node)
    return found


def replace_lrn(editor: GraphEditor, node: NodeProto, rank: int) -> None:
    """Replaces one LRN on tensors of this rank by square, average pool over the channels, and root.

    An even `size` takes the extra channel from above, as ONNX defines it; channels beyond the ends count as zeros.
    """
    data, out = node.input[0], node.output[0]
    size = int(attribute(node, "size", 1))
    beta = float(attribute(node, "beta", 0.75))
    new = NewNodes(editor, out)
    squares = new.add("Mul", data, data)
    if size > 1:
        below, above, others = (size - 1) // 2, size // 2, [0] * (rank - 2)
        pooled = new.add(
            "AveragePool",
            new.axis_added(squares, _CHANNELS),
            kernel_shape=[size, *[1] * (rank - 2)],
            pads=[below, *others, above, *others],
            strides=[1] * (rank - 1),
            count_include_pad=1,
        )
        squares = new.axis_added(pooled, _CHANNELS, removed=True)
    scaled = new.add("Mul", squares, new.number(float(attribute(node, "alpha", 1e-4)), "alpha"))
    base = new.add("Add", scaled, new.number(float(attribute(node, "bias", 1.0)), "bias"))
    new.add("Div", data, _power(base, beta, new), result=out)
    editor.replace([node], new.nodes)


def _power(base: str, beta: float, new: NewNodes) -> str:
    """base ^ beta by roots where beta is a multiple of a quarter up to one, else by logarithm and exponential."""
    if beta == 1.0:
        return base
    if beta not in (0.25, 0.5, 0.75):
        return new.add("Exp", new.add("Mul", new.add("Log", base), new.number(beta, "beta")))
    root = new.add("Sqrt", base)
    if beta == 0.5:
        return root
    fourth = new.add("Sqrt", root)
    return fourth if beta == 0.25 else new.add("Mul", root, fourth)
