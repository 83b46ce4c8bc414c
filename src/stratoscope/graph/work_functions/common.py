"""What the work functions share: sizes of tensors, traffic of a layer, and the one place where Work is built."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from stratoscope.graph.element_types import is_floating, is_quantized
from stratoscope.graph.ir import Layer, Tensor, Work

#: A work function. It raises ShapeUnknown where the layer does not say enough.
WorkFunction = Callable[[Layer], Work | None]
Functions = Mapping[tuple[str, str], WorkFunction]

ONNX: Final = ""
MICROSOFT: Final = "com.microsoft"
NCHWC: Final = "com.microsoft.nchwc"
NHWC: Final = "com.ms.internal.nhwc"
OPENVINO: Final = "org.openvinotoolkit"


class ShapeUnknown(Exception):
    """A tensor that the count needs has no known shape, type or value."""


def dims(tensor: Tensor | None) -> tuple[int, ...]:
    """The sizes of a tensor; raises ShapeUnknown where one of them is not known."""
    if tensor is None or tensor.shape is None:
        raise ShapeUnknown
    sizes = tuple(dim for dim in tensor.shape if isinstance(dim, int))
    if len(sizes) != len(tensor.shape):
        raise ShapeUnknown
    return sizes


def size(tensor: Tensor | None) -> int:
    """The number of elements of a tensor; raises ShapeUnknown."""
    return math.prod(dims(tensor))


def nbytes(tensor: Tensor | None) -> int:
    """The bytes of a tensor's data; raises ShapeUnknown."""
    if tensor is None or tensor.bytes is None:
        raise ShapeUnknown
    return tensor.bytes


def element_bytes(tensor: Tensor | None, elements: int) -> int:
    """The bytes of `elements` of this tensor's elements, rounded up; raises ShapeUnknown."""
    total = size(tensor)
    return 0 if total == 0 else -(-nbytes(tensor) * elements // total)


def given(layer: Layer, position: int) -> Tensor | None:
    """The input at `position`, None where it is omitted."""
    return layer.inputs[position] if position < len(layer.inputs) else None


def activations(layer: Layer) -> tuple[Tensor, ...]:
    """The distinct inputs that are computed at inference."""
    return _distinct(tensor for tensor in layer.inputs if tensor and tensor.role in ("input", "activation", "output"))


def weights(layer: Layer) -> tuple[Tensor, ...]:
    """The distinct inputs that are stored data (parameters and other constants; not settings)."""
    return _distinct(tensor for tensor in layer.inputs if tensor and tensor.role == "weight")


def is_parameter(tensor: Tensor, layer: Layer) -> bool:
    """Whether a tensor is a parameter of the layer: stored (not computed), at least one dimension, real or quantised.

    Numbers without a dimension are literals of the program (the 2 of x^2). The 32-bit integers of a quantised operator
    are its bias.
    """
    if tensor.role != "weight" or not tensor.sources or tensor.shape is None or not tensor.shape:
        return False
    if is_floating(tensor.element_type) or is_quantized(tensor.element_type):
        return True
    return tensor.element_type == "int32" and layer.op.startswith(("QLinear", "QGemm", "QAttention", "ConvInteger"))


def build(
    layer: Layer,
    *,
    macs: int = 0,
    macs_valid: int | None = None,
    other: int = 0,
    other_valid: int | None = None,
    read: int | None = None,
    written: int | None = None,
    parameter_bytes: int | None = None,
    parameters: int | None = None,
) -> Work:
    """The work of a layer from its multiply-adds and `other` operations; absent traffic is that of whole tensors."""
    valid = macs if macs_valid is None else macs_valid
    stored = [tensor for tensor in weights(layer) if is_parameter(tensor, layer)]
    return Work(
        flops=2 * macs + other,
        flops_valid=2 * valid + (other if other_valid is None else other_valid),
        macs=macs,
        bytes_read=sum(map(nbytes, activations(layer))) if read is None else read,
        bytes_written=sum(map(nbytes, layer.outputs)) if written is None else written,
        parameter_bytes=sum(map(nbytes, weights(layer))) if parameter_bytes is None else parameter_bytes,
        parameters=sum(map(size, stored)) if parameters is None else parameters,
    )


def _distinct(tensors: Iterable[Tensor]) -> tuple[Tensor, ...]:
    return tuple({tensor.name: tensor for tensor in tensors}.values())
