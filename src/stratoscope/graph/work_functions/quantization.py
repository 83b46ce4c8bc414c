"""Work of quantisation and of element-wise operators on quantised tensors."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from stratoscope.graph.ir import Layer, Work
from stratoscope.graph.work_functions.common import MICROSOFT, ONNX, Functions, build, size
from stratoscope.graph.work_functions.convolution import REQUANTIZE_FLOPS
from stratoscope.graph.work_functions.elementwise import ELEMENT_FLOPS, elementwise

_DEQUANTIZE_FLOPS: Final = 2  # subtract the zero point, scale


def _dynamic_quantize(layer: Layer) -> Work:
    """Minimum and maximum of the tensor, then quantisation."""
    return build(layer, other=(2 + REQUANTIZE_FLOPS) * size(layer.inputs[0]))


_quantize = elementwise(REQUANTIZE_FLOPS)
_dequantize = elementwise(_DEQUANTIZE_FLOPS)
_binary = elementwise(2 * _DEQUANTIZE_FLOPS + 1 + REQUANTIZE_FLOPS)

FUNCTIONS: Final[Functions] = MappingProxyType(
    {
        (ONNX, "QuantizeLinear"): _quantize,
        (ONNX, "DequantizeLinear"): _dequantize,
        (ONNX, "DynamicQuantizeLinear"): _dynamic_quantize,
        (MICROSOFT, "QuantizeLinear"): _quantize,
        (MICROSOFT, "DequantizeLinear"): _dequantize,
        (MICROSOFT, "QLinearAdd"): _binary,
        (MICROSOFT, "QLinearMul"): _binary,
        **{
            (MICROSOFT, f"QLinear{op}"): elementwise(_DEQUANTIZE_FLOPS + ELEMENT_FLOPS[op] + REQUANTIZE_FLOPS)
            for op in ("Sigmoid", "LeakyRelu")
        },
    }
)
