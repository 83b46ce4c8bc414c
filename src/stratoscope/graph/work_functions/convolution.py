"""Work of convolutions: direct form, every tap of every filter at every position."""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import Final

from stratoscope.graph.geometry import Window, sliding
from stratoscope.graph.ir import Layer, Work
from stratoscope.graph.work_functions.common import (
    MICROSOFT,
    NCHWC,
    NHWC,
    ONNX,
    Functions,
    WorkFunction,
    build,
    dims,
    element_bytes,
    given,
    nbytes,
)
from stratoscope.graph.work_functions.elementwise import activation_flops

REQUANTIZE_FLOPS: Final = 5  # scale, round, add the zero point, clip to the type's range


def _convolution(
    *,
    weight: int = 1,
    bias: int | None = 2,
    addend: int | None = None,
    channels_last: bool = False,
    requantize: int = 0,
) -> WorkFunction:
    """A convolution with its filter [M, C/group, kernel...] and optional bias at these inputs.

    `addend`: a tensor that is added to the result. An `activation` attribute is applied at the end.
    """

    def work(layer: Layer) -> Work:
        data, filters, out = layer.inputs[0], dims(given(layer, weight)), dims(layer.outputs[0])
        last = channels_last or bool(layer.attributes.get("channels_last"))
        spatial = slice(1, -1) if last else slice(2, None)
        inputs = dims(data)[spatial]
        kernel = filters[2:]
        windows = sliding(layer.attributes, kernel, inputs).windows(inputs, out[spatial])
        channels, batch = filters[1], out[0]
        outputs = math.prod(out)
        features = out[-1] if last else out[1]
        per_output = activation_flops(layer.attributes.get("activation")) + requantize
        per_output += bias is not None and given(layer, bias) is not None
        added = given(layer, addend) if addend is not None else None
        per_output += added is not None
        touched = math.prod(window.touched() for window in windows)
        planes = math.prod(dims(data)) // max(1, math.prod(inputs))
        read = element_bytes(data, planes * touched) if data and data.role != "weight" else 0
        others = [
            tensor
            for position, tensor in enumerate(layer.inputs)
            if tensor and position and tensor.role not in ("weight", "shape-constant")
        ]
        return build(
            layer,
            macs=outputs * channels * math.prod(kernel),
            macs_valid=batch * features * channels * math.prod(window.valid_taps() for window in windows),
            other=per_output * outputs,
            read=read + sum(map(nbytes, others)),
        )

    return work


def _transposed(layer: Layer) -> Work:
    """A transposed convolution, filter [C, M/group, kernel...]: each input is spread over the taps of the kernel."""
    inputs, filters, out = dims(layer.inputs[0]), dims(given(layer, 1)), dims(layer.outputs[0])
    kernel = filters[2:]
    geometry = sliding(_transposed_pads(layer, inputs[2:], out[2:], kernel), kernel, out[2:])
    # Seen from the output, tap t of input i lies at i * stride + t * dilation - pad: a window over the outputs.
    windows = [
        Window(into, of, taps, stride, dilation, pad)
        for into, of, taps, stride, dilation, pad in zip(
            out[2:], inputs[2:], kernel, geometry.strides, geometry.dilations, geometry.pads, strict=False
        )
    ]
    planes = inputs[0] * inputs[1] * filters[1]
    bias = given(layer, 2) is not None
    return build(
        layer,
        macs=planes * math.prod(inputs[2:]) * math.prod(kernel),
        macs_valid=planes * math.prod(window.valid_taps() for window in windows),
        other=bias * math.prod(out),
    )


def _transposed_pads(
    layer: Layer, inputs: tuple[int, ...], out: tuple[int, ...], kernel: tuple[int, ...]
) -> dict[str, object]:
    """The layer's attributes with explicit pads; ONNX defines them from the output where that or SAME is given."""
    attributes = dict(layer.attributes)
    same = attributes.get("auto_pad") in ("SAME_UPPER", "SAME_LOWER")
    if not same and "output_shape" not in attributes:
        return attributes
    rank = len(kernel)
    strides = attributes.get("strides") or (1,) * rank
    dilations = attributes.get("dilations") or (1,) * rank
    extra = attributes.get("output_padding") or (0,) * rank
    begins, ends = [], []
    for axis in range(rank):
        span = strides[axis] * (inputs[axis] - 1) + extra[axis] + (kernel[axis] - 1) * dilations[axis] + 1
        total = max(span - out[axis], 0)
        small, large = total // 2, total - total // 2
        begins.append(small if attributes.get("auto_pad") == "SAME_UPPER" else large)
        ends.append(large if attributes.get("auto_pad") == "SAME_UPPER" else small)
    return {**attributes, "auto_pad": "NOTSET", "pads": (*begins, *ends)}


def _deformable(layer: Layer) -> Work:
    """A deformable convolution: bilinear samples (4 multiply-adds each) in place of taps, then the filter."""
    filters = dims(given(layer, 1))
    out = dims(layer.outputs[0])
    taps = math.prod(filters[2:])
    samples = out[0] * dims(layer.inputs[0])[1] * math.prod(out[2:]) * taps
    mask = given(layer, 4) is not None
    macs = math.prod(out) * filters[1] * taps + 4 * samples
    bias = (given(layer, 3) is not None) * math.prod(out)
    return build(layer, macs=macs, other=bias + mask * samples)


FUNCTIONS: Final[Functions] = MappingProxyType(
    {
        (ONNX, "Conv"): _convolution(),
        (ONNX, "ConvInteger"): _convolution(bias=None),
        (ONNX, "QLinearConv"): _convolution(weight=3, bias=8, requantize=REQUANTIZE_FLOPS),
        (ONNX, "ConvTranspose"): _transposed,
        (ONNX, "DeformConv"): _deformable,
        (MICROSOFT, "QLinearConv"): _convolution(weight=3, bias=8, requantize=REQUANTIZE_FLOPS),
        (MICROSOFT, "FusedConv"): _convolution(addend=3),
        (MICROSOFT, "NhwcConv"): _convolution(channels_last=True),
        (MICROSOFT, "NhwcFusedConv"): _convolution(addend=3, channels_last=True),
        (NCHWC, "Conv"): _convolution(addend=3),
        (NHWC, "Conv"): _convolution(channels_last=True),
        (NHWC, "QLinearConv"): _convolution(weight=3, bias=8, channels_last=True, requantize=REQUANTIZE_FLOPS),
    }
)
