"""Work of operators that only move or select data: no arithmetic; and of views, which move nothing either."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from stratoscope.graph.ir import Layer, Work
from stratoscope.graph.work_functions.common import (
    MICROSOFT,
    NCHWC,
    NHWC,
    ONNX,
    OPENVINO,
    Functions,
    WorkFunction,
    activations,
    build,
    element_bytes,
    given,
    nbytes,
    size,
    weights,
)

#: Zero-cost operators: the output is the input's data under another shape or name.
VIEWS: Final = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout", "Shape", "Size"})


def _view(layer: Layer) -> Work:
    """Nothing to compute and nothing to move, whatever a runtime does."""
    if layer.op == "Dropout" and _is_training(layer):
        return build(layer, other=2 * size(layer.outputs[0]))
    return build(layer, read=0, written=0, parameter_bytes=0)


def _is_training(layer: Layer) -> bool:
    mode = given(layer, 2)
    return mode is not None and (mode.value is None or bool(mode.value[0]))


def _move(layer: Layer) -> Work:
    """Every input is read once and the output written once."""
    return build(layer)


def _fill(layer: Layer) -> Work:
    """The output is written; what is read is a few numbers."""
    return build(layer, read=0)


def _select(layer: Layer) -> Work:
    """As much of the first input is read as the output has; further inputs (indices) in full.

    Of a stored table that is the rows that are looked up: an upper bound where rows repeat, never more than the table.
    """
    data = layer.inputs[0]
    selected = sum(size(tensor) for tensor in layer.outputs)
    taken = min(nbytes(data), element_bytes(data, selected))
    stored = data is not None and data.role == "weight"
    name = data.name if data else ""
    indices = sum(nbytes(tensor) for tensor in activations(layer) if tensor.name != name)
    constants = sum(nbytes(tensor) for tensor in weights(layer) if tensor.name != name)
    return build(
        layer,
        read=indices + (0 if stored else taken),
        parameter_bytes=constants + (taken if stored else 0),
    )


def _scatter(updates: int) -> WorkFunction:
    """A copy of the data with updates written over it; a reduction costs one operation an update."""

    def work(layer: Layer) -> Work:
        reduces = layer.attributes.get("reduction", "none") != "none"
        return build(layer, other=size(given(layer, updates)) if reduces else 0)

    return work


_MOVES: Final = (
    "Transpose",
    "Concat",
    "Split",
    "Pad",
    "Tile",
    "Expand",
    "Where",
    "Trilu",
    "Cast",
    "CastLike",
    "DepthToSpace",
    "SpaceToDepth",
    "ReverseSequence",
    "BitCast",
    "Col2Im",
    "NonZero",
    "Compress",
    "Unique",
    "MaxUnpool",
    "CenterCropPad",
    "MemcpyFromHost",
    "MemcpyToHost",
)
_FILLS: Final = ("EyeLike", "ConstantOfShape", "Range", "OneHot")
#: Of OpenVINO's operators, by its own names.
_OPENVINO_VIEWS: Final = ("Reshape", "Squeeze", "Unsqueeze")
_OPENVINO_MOVES: Final = (
    "Reorder",
    "Transpose",
    "Concat",
    "Concatenation",
    "Split",
    "VariadicSplit",
    "Pad",
    "Tile",
    "Broadcast",
    "Convert",
    "ShuffleChannels",
    "DepthToSpace",
    "SpaceToDepth",
)
_SELECTS: Final = ("Gather", "GatherElements", "GatherND", "Slice")

FUNCTIONS: Final[Functions] = MappingProxyType(
    {
        **{(ONNX, op): _view for op in VIEWS},
        **{(ONNX, op): _move for op in _MOVES},
        **{(ONNX, op): _fill for op in _FILLS},
        **{(ONNX, op): _select for op in _SELECTS},
        **{(OPENVINO, op): _view for op in _OPENVINO_VIEWS},
        **{(OPENVINO, op): _move for op in _OPENVINO_MOVES},
        (ONNX, "Scatter"): _scatter(2),
        (ONNX, "ScatterElements"): _scatter(2),
        (ONNX, "ScatterND"): _scatter(2),
        (ONNX, "TensorScatter"): _scatter(1),
        (MICROSOFT, "ExpandDims"): _view,
        (MICROSOFT, "Pad"): _move,
        (MICROSOFT, "Trilu"): _move,
        (MICROSOFT, "Unique"): _move,
        (MICROSOFT, "GatherND"): _select,
        (MICROSOFT, "QLinearConcat"): _move,
        (MICROSOFT, "QLinearWhere"): _move,
        (NCHWC, "ReorderInput"): _move,
        (NCHWC, "ReorderOutput"): _move,
        (NHWC, "DepthToSpace"): _move,
        (NHWC, "SpaceToDepth"): _move,
    }
)
