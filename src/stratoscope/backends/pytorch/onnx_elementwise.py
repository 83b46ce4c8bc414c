"""ONNX operators that compute element by element, with NumPy's broadcasting, as PyTorch modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Final

import onnx
import torch
from torch import nn
from torch.nn import functional as F

from stratoscope.backends.pytorch.onnx_node import Factory, Function, Node, calling

_Call = Callable[..., torch.Tensor]

_TYPES: Final[Mapping[int, torch.dtype]] = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.DOUBLE: torch.float64,
    onnx.TensorProto.FLOAT16: torch.float16,
    onnx.TensorProto.BFLOAT16: torch.bfloat16,
    onnx.TensorProto.INT8: torch.int8,
    onnx.TensorProto.INT16: torch.int16,
    onnx.TensorProto.INT32: torch.int32,
    onnx.TensorProto.INT64: torch.int64,
    onnx.TensorProto.UINT8: torch.uint8,
    onnx.TensorProto.BOOL: torch.bool,
}


def _divide(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    if first.is_floating_point():
        return torch.div(first, second)
    return torch.div(first, second, rounding_mode="trunc")  # as C++ divides integers


def _power(base: torch.Tensor, exponent: torch.Tensor) -> torch.Tensor:
    return torch.pow(base, exponent).to(base.dtype)  # ONNX keeps the type of the base


def _remainder(node: Node) -> nn.Module:
    truncated = bool(node.attributes.get("fmod", 0))

    def remainder(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return torch.fmod(first, second) if truncated else torch.remainder(first, second)

    return calling(node, remainder)


def _mean(*values: torch.Tensor) -> torch.Tensor:
    return reduce(torch.add, values) / len(values)


def _prelu(value: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    return torch.where(value < 0, value * slope, value)


def _cast(node: Node) -> nn.Module:
    wanted = int(node.attributes["to"])
    if wanted not in _TYPES:
        raise node.refuse(f"element type {onnx.TensorProto.DataType.Name(wanted)} is not supported")
    return Function(lambda value: value.to(_TYPES[wanted]))


def _gelu(node: Node) -> nn.Module:
    approximate = node.attributes.get("approximate", "none")
    if approximate not in ("none", "tanh"):
        raise node.refuse(f"its approximation is {approximate!r}")
    return nn.GELU(approximate)


def _elu(node: Node) -> nn.Module:
    return nn.ELU(float(node.attributes.get("alpha", 1.0)))


def _hard_sigmoid(node: Node) -> nn.Module:
    alpha, beta = float(node.attributes.get("alpha", 0.2)), float(node.attributes.get("beta", 0.5))
    return Function(lambda value: (value * alpha + beta).clamp(0, 1))


def _pairwise(call: _Call) -> Factory:
    return lambda node: calling(node, call)


def _variadic(call: _Call) -> Factory:
    return lambda node: calling(node, lambda *values: reduce(call, values))


def _unary(call: _Call) -> Factory:
    return lambda node: Function(call)


ELEMENTWISE: Final[Mapping[str, Factory]] = {
    "Abs": _unary(torch.abs),
    "Add": _pairwise(torch.add),
    "And": _pairwise(torch.logical_and),
    "Cast": _cast,
    "Ceil": _unary(torch.ceil),
    "Cos": _unary(torch.cos),
    "Div": _pairwise(_divide),
    "Elu": _elu,
    "Equal": _pairwise(torch.eq),
    "Erf": _unary(torch.erf),
    "Exp": _unary(torch.exp),
    "Floor": _unary(torch.floor),
    "Gelu": _gelu,
    "Greater": _pairwise(torch.gt),
    "GreaterOrEqual": _pairwise(torch.ge),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda node: nn.Hardswish(),
    "IsNaN": _unary(torch.isnan),
    "Less": _pairwise(torch.lt),
    "LessOrEqual": _pairwise(torch.le),
    "Log": _unary(torch.log),
    "Max": _variadic(torch.maximum),
    "Mean": _pairwise(_mean),
    "Min": _variadic(torch.minimum),
    "Mod": _remainder,
    "Mul": _pairwise(torch.mul),
    "Neg": _unary(torch.neg),
    "Not": _unary(torch.logical_not),
    "Or": _pairwise(torch.logical_or),
    "PRelu": _pairwise(_prelu),
    "Pow": _pairwise(_power),
    "Reciprocal": _unary(torch.reciprocal),
    "Relu": lambda node: nn.ReLU(),
    "Round": _unary(torch.round),
    "Sigmoid": lambda node: nn.Sigmoid(),
    "Sign": _unary(torch.sign),
    "Sin": _unary(torch.sin),
    "Softplus": _unary(F.softplus),
    "Sqrt": _unary(torch.sqrt),
    "Sub": _pairwise(torch.sub),
    "Sum": _variadic(torch.add),
    "Tanh": lambda node: nn.Tanh(),
    "Where": _pairwise(torch.where),
    "Xor": _pairwise(torch.logical_xor),
}
