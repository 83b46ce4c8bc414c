"""What is known of constants while a graph is read: which nodes only compute them, and the values of small ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from onnx import AttributeProto, NodeProto
from onnx.reference import ReferenceEvaluator

#: Constants of more elements are not computed: their type and shape are enough.
MAX_VALUE_ELEMENTS: Final = 1 << 16
#: A shape constant carries its numbers up to this many elements.
MAX_SETTING_ELEMENTS: Final = 1024
#: Integer constants of at most this many elements are taken as settings (indices, axes), not as data.
MAX_INDEX_ELEMENTS: Final = 64

#: Kept as layers even where all inputs are constant: random, or (as runtimes do) a decompression at every inference.
NEVER_FOLDED: Final = frozenset(
    {
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
        "Bernoulli",
        "Multinomial",
        "DequantizeLinear",
        "If",
        "Loop",
        "Scan",
        "SequenceMap",
    }
)

#: Inputs that are settings of an operator (attributes in older operator sets), by operator.
_SETTINGS: Final = MappingProxyType(
    {
        **dict.fromkeys(("Reshape", "Expand", "Tile", "Squeeze", "Unsqueeze", "Split", "TopK", "Upsample"), (1,)),
        **dict.fromkeys(("CumSum", "Trilu", "OneHot", "Pow", "CenterCropPad", "ExpandDims", "ConstantOfShape"), (1,)),
        **{
            f"Reduce{kind}": (1,)
            for kind in ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare")
        },
        "ConstantOfShape": (0,),
        "Pad": (1, 2, 3),
        "Slice": (1, 2, 3, 4),
        "Resize": (1, 2, 3),
        "Clip": (1, 2),
        "Dropout": (1, 2),
        "Range": (0, 1, 2),
        "DFT": (1, 2),
        "STFT": (1, 3),
        "NonMaxSuppression": (2, 3, 4),
        "MaxUnpool": (2,),
    }
)

#: Operators whose result is stored data, only seen, scaled, joined or stored differently.
_KEEPS_SOURCES: Final = frozenset(
    [
        "Identity",
        "Cast",
        "CastLike",
        "Transpose",
        "Reshape",
        "Unsqueeze",
        "Squeeze",
        "Flatten",
        "Mul",
        "Div",
        "Add",
        "Sub",
        "Neg",
        "Sqrt",
        "Reciprocal",
        "Concat",
        "Split",
        "Slice",
        "Gather",
        "Pad",
        "QuantizeLinear",
    ]
)


@dataclass(frozen=True, slots=True)
class Constant:
    """A tensor that does not depend on the model's inputs.

    `value` is None where it is large. `sources` names the stored tensors that it was made from, none where it was
    computed (a mask, positions): such a constant is data, but not a parameter.
    """

    value: np.ndarray[Any, Any] | None
    sources: tuple[str, ...]


def is_setting(op: str, position: int) -> bool:
    """Whether the input at `position` of an operator says how to compute, not what to compute on."""
    return position in _SETTINGS.get(op, ())


def is_index_like(element_type: str | None, shape: Sequence[int | str] | None) -> bool:
    """Whether a constant is a handful of int64 or bool numbers: indices and conditions, never trained weights."""
    if element_type not in ("int64", "bool") or shape is None:
        return False
    elements = 1
    for dim in shape:
        elements *= dim if isinstance(dim, int) else MAX_INDEX_ELEMENTS + 1
    return elements <= MAX_INDEX_ELEMENTS


def is_foldable(node: NodeProto, constants: Mapping[str, Constant]) -> bool:
    """Whether a node computes the same at every inference."""
    if node.op_type in NEVER_FOLDED:
        return False
    if any(attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for attribute in node.attribute):
        return False
    return all(name in constants for name in node.input if name)


def compute(
    node: NodeProto, constants: Mapping[str, Constant], opset: Mapping[str, int]
) -> list[np.ndarray[Any, Any]] | None:
    """The outputs of a foldable node by ONNX's reference implementation; None where they cannot be computed here.

    The caller has bounded the outputs' size. None: an input's value is not known, the operator has no reference
    implementation, or it refuses its inputs (the runtime's business, not ours).
    """
    feeds: dict[str, np.ndarray[Any, Any]] = {}
    for name in node.input:
        if name:
            value = constants[name].value
            if value is None:
                return None
            feeds[name] = value
    try:
        outputs = ReferenceEvaluator(node, opsets=dict(opset)).run(None, feeds)
    except (NotImplementedError, ValueError, TypeError, IndexError, KeyError, RuntimeError, AttributeError):
        return None
    return [np.asarray(output) for output in outputs]


def sources_of(node: NodeProto, constants: Mapping[str, Constant]) -> tuple[str, ...]:
    """The stored tensors that the outputs of a folded node come from."""
    if node.op_type in ("Constant", "ConstantOfShape"):
        return (str(node.output[0]),)
    if node.op_type not in _KEEPS_SOURCES:
        return ()
    data = [name for position, name in enumerate(node.input) if name and not is_setting(node.op_type, position)]
    if node.op_type == "Gather":
        data = data[:1]
    return tuple(sorted({source for name in data for source in constants[name].sources}))
