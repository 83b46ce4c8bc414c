"""Work of interpolation: the weighted sum of the neighbours of each output element."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from stratoscope.graph.ir import Layer, Work
from stratoscope.graph.work_functions.common import (
    MICROSOFT,
    NCHWC,
    NHWC,
    ONNX,
    Functions,
    build,
    dims,
    given,
    size,
)

_NEIGHBOURS: Final = MappingProxyType({"nearest": 1, "linear": 2, "bilinear": 2, "cubic": 4, "bicubic": 4})


def _weighted_sum(neighbours: int) -> int:
    """A product with each weight and the additions; picking one neighbour is no arithmetic."""
    return 2 * neighbours - 1 if neighbours > 1 else 0


def _resize(layer: Layer) -> Work:
    """Interpolation over the axes whose size changes; the weights, one set an axis, are not counted."""
    shape, out = dims(layer.inputs[0]), dims(layer.outputs[0])
    mode = str(layer.attributes.get("mode", "nearest"))
    axes = sum(before != after for before, after in zip(shape, out, strict=True))
    neighbours = int(_NEIGHBOURS.get(mode, 1)) ** axes
    return build(layer, other=_weighted_sum(neighbours) * size(layer.outputs[0]))


def _grid_sample(layer: Layer) -> Work:
    """Samples at given places: the weights of a place (about 6 operations an axis) serve all channels."""
    out = dims(layer.outputs[0])
    axes = len(out) - 2
    neighbours = int(_NEIGHBOURS.get(str(layer.attributes.get("mode", "linear")), 2)) ** axes
    places = size(layer.outputs[0]) // max(1, out[1])
    return build(layer, other=_weighted_sum(neighbours) * size(layer.outputs[0]) + 6 * axes * places)


def _roi_align(layer: Layer) -> Work | None:
    """Bilinear samples, then their mean or maximum; with sampling_ratio 0 their number depends on the data."""
    ratio = int(layer.attributes.get("sampling_ratio", 0))
    if ratio == 0 or given(layer, 1) is None:
        return None
    return build(layer, other=size(layer.outputs[0]) * ratio * ratio * (_weighted_sum(4) + 1))


FUNCTIONS: Final[Functions] = MappingProxyType(
    {
        (ONNX, "Resize"): _resize,
        (NHWC, "Resize"): _resize,
        (ONNX, "Upsample"): _resize,
        (NCHWC, "Upsample"): _resize,
        (ONNX, "GridSample"): _grid_sample,
        (MICROSOFT, "GridSample"): _grid_sample,
        (ONNX, "RoiAlign"): _roi_align,
    }
)
