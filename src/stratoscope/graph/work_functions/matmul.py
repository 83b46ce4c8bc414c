"""Work of matrix products: M * N * K multiply-adds, whatever the algorithm."""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import Final

from stratoscope.graph.ir import Layer, Work
from stratoscope.graph.work_functions.common import (
    MICROSOFT,
    ONNX,
    Functions,
    ShapeUnknown,
    WorkFunction,
    build,
    dims,
    given,
    is_parameter,
    size,
    weights,
)
from stratoscope.graph.work_functions.convolution import REQUANTIZE_FLOPS
from stratoscope.graph.work_functions.elementwise import activation_flops


def _matmul(*, bias: int | None = None, per_output: int = 0, scaled: bool = False) -> WorkFunction:
    """A batched product of input 0 by a matrix; its output has one element for each dot product of length K."""

    def work(layer: Layer) -> Work:
        left = dims(layer.inputs[0])
        if not left:
            raise ShapeUnknown
        inner = left[-2] if layer.attributes.get("transA") and len(left) > 1 else left[-1]
        outputs = size(layer.outputs[0])
        each = per_output + activation_flops(layer.attributes.get("activation"))
        each += scaled and layer.attributes.get("alpha", 1.0) != 1.0
        each += bias is not None and given(layer, bias) is not None
        return build(layer, macs=outputs * inner, other=each * outputs)

    return work


def _gemm(layer: Layer) -> Work:
    """alpha * A' * B' + beta * C; factors of one cost nothing."""
    left, outputs = dims(layer.inputs[0]), size(layer.outputs[0])
    inner = left[0] if layer.attributes.get("transA") else left[1]
    each = int(layer.attributes.get("alpha", 1.0) != 1.0)
    if given(layer, 2) is not None:
        each += 1 + (layer.attributes.get("beta", 1.0) != 1.0)
    each += activation_flops(layer.attributes.get("activation"))
    return build(layer, macs=outputs * inner, other=each * outputs)


def _quantized_gemm(layer: Layer) -> Work:
    left, outputs = dims(layer.inputs[0]), size(layer.outputs[0])
    inner = left[0] if layer.attributes.get("transA") else left[1]
    each = (given(layer, 6) is not None) + (REQUANTIZE_FLOPS if given(layer, 8) is not None else 1)
    return build(layer, macs=outputs * inner, other=each * outputs)


def _dynamic_quantized(layer: Layer) -> Work:
    """Quantises its first input (min, max, then 5 operations an element), multiplies, scales the result."""
    data, outputs = dims(layer.inputs[0]), size(layer.outputs[0])
    quantize = (2 + REQUANTIZE_FLOPS) * math.prod(data)
    each = 1 + (given(layer, 4) is not None)
    return build(layer, macs=outputs * data[-1], other=quantize + each * outputs)


def _block_quantized(layer: Layer) -> Work:
    """MatMulNBits: the parameters are the K * N weights that are multiplied, not the packed bytes.

    Unpacking them inside the kernel is how, not what: it is not counted.
    """
    outputs = size(layer.outputs[0])
    inner, columns = int(layer.attributes["K"]), int(layer.attributes["N"])
    bias = given(layer, 5)
    packed = given(layer, 1)
    others = sum(size(one) for one in weights(layer) if is_parameter(one, layer) and one is not packed)
    stored = inner * columns if packed is not None and packed.role == "weight" else 0
    return build(layer, macs=outputs * inner, other=(bias is not None) * outputs, parameters=stored + others)


def _einsum(layer: Layer) -> Work | None:
    """One operand: the sum over the labels that vanish. Two: a product over all labels. More: no work is claimed,

    because the count depends on the order of contraction.
    """
    equation = str(layer.attributes["equation"]).replace(" ", "")
    terms = equation.split("->")[0].split(",")
    sizes: dict[str, int] = {}
    for term, tensor in zip(terms, layer.inputs, strict=True):
        for label, length in zip(_labels(term, len(dims(tensor))), dims(tensor), strict=True):
            sizes[label] = max(sizes.get(label, 1), length)
    points, outputs = math.prod(sizes.values()), size(layer.outputs[0])
    if len(terms) == 1:
        return build(layer, other=points - outputs)
    if len(terms) > 2:
        return None
    return build(layer, other=points) if points == outputs else build(layer, macs=points)


def _labels(term: str, rank: int) -> list[str]:
    """One label an axis; those of an ellipsis are numbered from the right, so that they broadcast."""
    if "..." not in term:
        return list(term)
    before, after = term.split("...")
    hidden = rank - len(before) - len(after)
    return [*before, *(f".{hidden - position}" for position in range(hidden)), *after]


FUNCTIONS: Final[Functions] = MappingProxyType(
    {
        (ONNX, "MatMul"): _matmul(),
        (ONNX, "MatMulInteger"): _matmul(),
        (ONNX, "QLinearMatMul"): _matmul(per_output=REQUANTIZE_FLOPS),
        (ONNX, "Gemm"): _gemm,
        (ONNX, "Einsum"): _einsum,
        (MICROSOFT, "FusedMatMul"): _matmul(scaled=True),
        (MICROSOFT, "TransposeMatMul"): _matmul(scaled=True),
        (MICROSOFT, "FusedMatMulActivation"): _matmul(scaled=True),
        (MICROSOFT, "FusedGemm"): _gemm,
        (MICROSOFT, "QGemm"): _quantized_gemm,
        (MICROSOFT, "DynamicQuantizeMatMul"): _dynamic_quantized,
        (MICROSOFT, "MatMulIntegerToFloat"): _matmul(bias=6, per_output=1),
        (MICROSOFT, "MatMulNBits"): _block_quantized,
        (MICROSOFT, "MatMulBnb4"): _block_quantized,
    }
)
