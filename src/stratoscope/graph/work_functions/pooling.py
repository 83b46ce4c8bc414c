"""Work of pools: comparisons or additions within each window."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import MappingProxyType
from typing import Final

from stratoscope.graph.geometry import sliding
from stratoscope.graph.ir import Layer, Work
from stratoscope.graph.work_functions.common import (
    MICROSOFT,
    NCHWC,
    NHWC,
    ONNX,
    Functions,
    WorkFunction,
    activations,
    build,
    dims,
    element_bytes,
    nbytes,
    size,
)
from stratoscope.graph.work_functions.convolution import REQUANTIZE_FLOPS

#: Operations of a pool over `taps` elements that gives `outputs`.
Count = Callable[[int, int], int]


def _max(taps: int, outputs: int) -> int:
    return max(taps - outputs, 0)  # a window of k elements needs k - 1 comparisons


def _average(taps: int, outputs: int) -> int:
    return taps  # k - 1 additions and a division


def _power(taps: int, outputs: int) -> int:
    return 2 * taps  # k powers, k - 1 additions, a root


def _quantized_average(taps: int, outputs: int) -> int:
    return taps + REQUANTIZE_FLOPS * outputs


def _window_pool(count: Count, *, channels_last: bool = False) -> WorkFunction:
    def work(layer: Layer) -> Work:
        data = layer.inputs[0]
        last = channels_last or bool(layer.attributes.get("channels_last"))
        spatial = slice(1, -1) if last else slice(2, None)
        inputs, out = dims(data), dims(layer.outputs[0])
        windows = sliding(layer.attributes, layer.attributes["kernel_shape"], inputs[spatial]).windows(
            inputs[spatial], out[spatial]
        )
        outputs = math.prod(out)
        planes = math.prod(inputs) // max(1, math.prod(inputs[spatial]))
        valid = planes * math.prod(window.valid_taps() for window in windows)
        touched = element_bytes(data, planes * math.prod(window.touched() for window in windows))
        rest = sum(nbytes(tensor) for tensor in activations(layer) if data is None or tensor.name != data.name)
        return build(
            layer,
            other=count(outputs * math.prod(window.taps for window in windows), outputs),
            other_valid=count(valid, outputs),
            read=touched + rest,
        )

    return work


def _global_pool(count: Count) -> WorkFunction:
    def work(layer: Layer) -> Work:
        return build(layer, other=count(size(layer.inputs[0]), size(layer.outputs[0])))

    return work


FUNCTIONS: Final[Functions] = MappingProxyType(
    {
        (ONNX, "MaxPool"): _window_pool(_max),
        (ONNX, "AveragePool"): _window_pool(_average),
        (ONNX, "LpPool"): _window_pool(_power),
        (ONNX, "GlobalMaxPool"): _global_pool(_max),
        (ONNX, "GlobalAveragePool"): _global_pool(_average),
        (ONNX, "GlobalLpPool"): _global_pool(_power),
        (MICROSOFT, "NhwcMaxPool"): _window_pool(_max, channels_last=True),
        (MICROSOFT, "QLinearAveragePool"): _window_pool(_quantized_average),
        (MICROSOFT, "QLinearGlobalAveragePool"): _global_pool(_quantized_average),
        (NCHWC, "MaxPool"): _window_pool(_max),
        (NCHWC, "AveragePool"): _window_pool(_average),
        (NCHWC, "GlobalMaxPool"): _global_pool(_max),
        (NCHWC, "GlobalAveragePool"): _global_pool(_average),
        (NHWC, "MaxPool"): _window_pool(_max, channels_last=True),
        (NHWC, "AveragePool"): _window_pool(_average, channels_last=True),
        (NHWC, "GlobalAveragePool"): _global_pool(_average),
        (NHWC, "GlobalMaxPool"): _global_pool(_max),
    }
)
