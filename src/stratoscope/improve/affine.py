"""Chains of per-channel products and sums behind a normalisation or convolution, folded into its parameters.

Exporters of Caffe write a batch normalisation as BatchNormalization -> Mul -> Add, with the trained scale and shift in
the last two. All are one affine map a channel, y = a x + b, known before inference. ONNX Runtime folds such a product
into a convolution in front of the chain, but not into a normalisation that stands alone (behind a Concat, say).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from stratoscope.improve.editing import GraphEditor, attribute

Floats = NDArray[Any]
#: From this operator set on, a batch normalisation has one output in inference, and arithmetic broadcasts.
LEAST_OPSET: Final = 9
_CHANNELS: Final = 1
_STEPS: Final = ("Mul", "Add", "Sub", "Div")


@dataclass(frozen=True, slots=True)
class AffineChain:
    """A BatchNormalization or Conv with the steps behind it; together y = factor * head(x) + shift, a channel each."""

    head: NodeProto
    steps: tuple[NodeProto, ...]
    factor: Floats
    shift: Floats


def find_affine_chains(editor: GraphEditor, ranks: Mapping[str, int]) -> list[AffineChain]:
    """The chains that can be folded: all numbers stored, each intermediate result read by the next step only.

    Args:
        ranks: number of dimensions by tensor name, of float32 tensors whose shape is known.
    """
    if editor.opset < LEAST_OPSET:
        return []
    found = (_chain(editor, node, ranks) for node in editor.nodes if _is_head(editor, node))
    return [chain for chain in found if chain is not None]


def fold_affine_chain(editor: GraphEditor, chain: AffineChain) -> None:
    """Takes the steps out and gives the head new parameters, in copies of their own: the old ones may be shared."""
    head = NodeProto()
    head.CopyFrom(chain.head)
    stem = chain.head.output[0]
    if head.op_type == "Conv":
        weights = _required(editor, head.input[1])
        bias = _required(editor, head.input[2]) if _has_bias(head) else np.zeros(weights.shape[0], weights.dtype)
        column = chain.factor.reshape(-1, *[1] * (weights.ndim - 1))
        new = [editor.store(_like(weights * column, weights), f"{stem}_weights")]
        new.append(editor.store(_like(bias * chain.factor + chain.shift, weights), f"{stem}_bias"))
        del head.input[1:]
        head.input.extend(new)
    else:
        scale, bias = _required(editor, head.input[1]), _required(editor, head.input[2])
        head.input[1] = editor.store(_like(scale * chain.factor, scale), f"{stem}_scale")
        head.input[2] = editor.store(_like(bias * chain.factor + chain.shift, bias), f"{stem}_shift")
    head.output[0] = chain.steps[-1].output[0]
    editor.replace([chain.head, *chain.steps], [head])


def _is_head(editor: GraphEditor, node: NodeProto) -> bool:
    if editor.is_operator(node, "BatchNormalization"):
        one_output = len([name for name in node.output if name]) == 1
        known = all(editor.constant(name) is not None for name in node.input[1:3])
        return one_output and known and not attribute(node, "training_mode", 0)
    if editor.is_operator(node, "Conv"):
        return all(editor.constant(name) is not None for name in node.input[1:] if name)
    return False


def _chain(editor: GraphEditor, head: NodeProto, ranks: Mapping[str, int]) -> AffineChain | None:
    rank = ranks.get(head.output[0])
    scale = editor.constant(head.input[1])
    if rank is None or rank <= _CHANNELS or scale is None or scale.dtype != np.float32:
        return None
    channels = scale.shape[0]
    factor, shift = np.ones(channels), np.zeros(channels)  # in double: rounded once, at the end
    steps: list[NodeProto] = []
    tensor = head.output[0]
    while True:
        step = editor.only_reader(tensor)
        if not editor.is_operator(step, *_STEPS) or step is None:
            break
        operand = _operand(editor, step, tensor, rank, channels)
        if operand is None:
            break
        factor, shift = _applied(step.op_type, operand, factor, shift)
        steps.append(step)
        tensor = step.output[0]
    finite = np.isfinite(factor).all() and np.isfinite(shift).all()
    return AffineChain(head, tuple(steps), factor, shift) if steps and finite else None


def _operand(editor: GraphEditor, step: NodeProto, tensor: str, rank: int, channels: int) -> Floats | None:
    """The stored operand of a step as one number a channel; None where it is another tensor or varies elsewhere."""
    position = list(step.input).index(tensor)
    if position == 1 and step.op_type in ("Sub", "Div"):  # stored - x, stored / x
        return None
    if step.input[0] == step.input[1]:
        return None
    value = editor.constant(step.input[1 - position])
    if value is None or value.dtype != np.float32 or value.ndim > rank:
        return None
    full = value.reshape((1,) * (rank - value.ndim) + value.shape)
    if any(size != 1 for axis, size in enumerate(full.shape) if axis != _CHANNELS):
        return None
    if full.shape[_CHANNELS] not in (1, channels):
        return None
    return np.broadcast_to(full.reshape(-1), (channels,)).astype(np.float64)


def _applied(op: str, operand: Floats, factor: Floats, shift: Floats) -> tuple[Floats, Floats]:
    if op == "Mul":
        return factor * operand, shift * operand
    if op == "Div":
        with np.errstate(divide="ignore", invalid="ignore"):  # what is not finite is not folded
            return factor / operand, shift / operand
    return factor, shift + operand if op == "Add" else shift - operand


def _has_bias(head: NodeProto) -> bool:
    return len(head.input) > 2 and bool(head.input[2])


def _required(editor: GraphEditor, tensor: str) -> Floats:
    value = editor.constant(tensor)
    if value is None:
        raise ValueError(f"{tensor!r} is not stored: the chain was not found in this graph")
    return value


def _like(value: Floats, other: Floats) -> Floats:
    return np.asarray(value, dtype=other.dtype)
