"""Work of element-wise operators: the operations of their textbook formula, one for each element of the output."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from stratoscope.graph.ir import Layer, Work
from stratoscope.graph.work_functions.common import (
    MICROSOFT,
    ONNX,
    Functions,
    WorkFunction,
    build,
    given,
    size,
)

#: Operations an output element. An elementary function (exp, log, erf, tanh, sqrt, a division) counts as one.
ELEMENT_FLOPS: Final[Mapping[str, int]] = MappingProxyType(
    {
        **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Pow", "Mod", "Neg", "Abs", "Sign", "Reciprocal", "Sqrt"), 1),
        **dict.fromkeys(("Exp", "Log", "Erf", "Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Tanh"), 1),
        **dict.fromkeys(("Asinh", "Acosh", "Atanh", "Floor", "Ceil", "Round", "IsNaN", "IsInf", "Not", "And"), 1),
        **dict.fromkeys(("Or", "Xor", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"), 1),
        **dict.fromkeys(("BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitwiseNot"), 1),
        "Relu": 1,  # max(x, 0)
        "ThresholdedRelu": 1,  # compare
        "LeakyRelu": 1,  # alpha * x; the selection is free
        "PRelu": 1,
        "Clip": 2,  # min, max
        "HardSigmoid": 4,  # alpha * x + beta, min, max
        "HardSwish": 5,  # x * HardSigmoid(x)
        "Sigmoid": 4,  # 1 / (1 + exp(-x))
        "Swish": 6,  # x * Sigmoid(alpha * x)
        "QuickGelu": 6,
        "Silu": 5,  # x * Sigmoid(x)
        "Softplus": 3,  # log(exp(x) + 1)
        "Softsign": 3,  # x / (1 + |x|)
        "Elu": 3,  # alpha * (exp(x) - 1)
        "Celu": 4,  # alpha * (exp(x / alpha) - 1)
        "Selu": 4,
        "Mish": 5,  # x * tanh(Softplus(x))
        "Shrink": 2,  # compare, subtract the bias
        "Gelu": 5,  # 0.5 * x * (1 + erf(x / sqrt 2))
        "FastGelu": 9,  # 0.5 * x * (1 + tanh(c * (x + 0.044715 * x^3)))
        "ScaledTanh": 3,
        "Affine": 2,
        "ParametricSoftplus": 5,
    }
)

#: Operators over any number of inputs: n - 1 operations an output element.
_VARIADIC: Final = ("Sum", "Max", "Min")


def activation_flops(name: str | None) -> int:
    """Operations an element of an activation that is fused into another operator; zero for none."""
    return ELEMENT_FLOPS.get(name, 1) if name else 0


def elementwise(operations: int) -> WorkFunction:
    """`operations` for each element of the output."""

    def work(layer: Layer) -> Work:
        return build(layer, other=operations * size(layer.outputs[0]))

    return work


def _gelu(layer: Layer) -> Work:
    tanh = layer.attributes.get("approximate", "none") == "tanh"
    return build(layer, other=ELEMENT_FLOPS["FastGelu" if tanh else "Gelu"] * size(layer.outputs[0]))


def _with_bias(operations: int) -> WorkFunction:
    """An activation after an optional bias in the second input."""

    def work(layer: Layer) -> Work:
        return build(layer, other=(operations + (given(layer, 1) is not None)) * size(layer.outputs[0]))

    return work


def _clip(layer: Layer) -> Work:
    old = any(name in layer.attributes for name in ("min", "max"))
    bounds = 2 if old else sum(given(layer, position) is not None for position in (1, 2))
    return build(layer, other=bounds * size(layer.outputs[0]))


def _variadic(layer: Layer) -> Work:
    return build(layer, other=(len(layer.inputs) - 1) * size(layer.outputs[0]))


def _mean(layer: Layer) -> Work:
    return build(layer, other=len(layer.inputs) * size(layer.outputs[0]))


FUNCTIONS: Final[Functions] = MappingProxyType(
    {
        **{(ONNX, op): elementwise(flops) for op, flops in ELEMENT_FLOPS.items() if op not in ("QuickGelu", "Silu")},
        **{(ONNX, op): _variadic for op in _VARIADIC},
        (ONNX, "Mean"): _mean,
        (ONNX, "Gelu"): _gelu,
        (ONNX, "Clip"): _clip,
        (MICROSOFT, "Gelu"): elementwise(ELEMENT_FLOPS["Gelu"]),
        (MICROSOFT, "QuickGelu"): elementwise(ELEMENT_FLOPS["QuickGelu"]),
        (MICROSOFT, "FastGelu"): _with_bias(ELEMENT_FLOPS["FastGelu"]),
        (MICROSOFT, "BiasGelu"): _with_bias(ELEMENT_FLOPS["Gelu"]),
        (MICROSOFT, "BiasAdd"): elementwise(2),  # bias and skip
        (MICROSOFT, "BiasSplitGelu"): elementwise(ELEMENT_FLOPS["Gelu"] + 3),  # bias on both halves, product
    }
)
