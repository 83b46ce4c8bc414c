"""Work of normalisations and softmax: the operations of the two-pass formulas, per element and per group."""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import Final

from stratoscope.graph.geometry import Window
from stratoscope.graph.ir import Layer, Work
from stratoscope.graph.work_functions.common import (
    MICROSOFT,
    NHWC,
    ONNX,
    Functions,
    ShapeUnknown,
    WorkFunction,
    build,
    dims,
    element_bytes,
    given,
    nbytes,
    size,
    weights,
)

_CENTERED: Final = 5  # an element: sum, subtract the mean, square, sum, multiply by 1/sigma
_CENTERED_GROUP: Final = 5  # a group: mean, variance, add epsilon, root, reciprocal
_ROOT_MEAN_SQUARE: Final = 3  # an element: square, sum, multiply by 1/rms
_ROOT_MEAN_SQUARE_GROUP: Final = 4  # a group: mean, add epsilon, root, reciprocal


def _batch_normalization(layer: Layer) -> Work:
    """Inference: one multiply-add an element, its two factors a channel ready. Training statistics: as a LayerNorm."""
    elements = size(layer.outputs[0])
    if layer.attributes.get("training_mode"):
        channels = dims(layer.inputs[0])[1]
        return build(layer, other=(_CENTERED + 2) * elements + _CENTERED_GROUP * channels)
    return build(layer, other=2 * elements)


def _groups(layer: Layer) -> int:
    """The number of groups that are normalised together, from `axis` to the last dimension."""
    shape = dims(layer.inputs[0])
    axis = int(layer.attributes.get("axis", -1))
    return math.prod(shape[: axis % len(shape) if shape else 0])


def _layer_normalization(layer: Layer) -> Work:
    each = _CENTERED + (given(layer, 1) is not None) + (given(layer, 2) is not None)
    return build(layer, other=each * size(layer.inputs[0]) + _CENTERED_GROUP * _groups(layer))


def _rms_normalization(layer: Layer) -> Work:
    each = _ROOT_MEAN_SQUARE + (given(layer, 1) is not None)
    return build(layer, other=each * size(layer.inputs[0]) + _ROOT_MEAN_SQUARE_GROUP * _groups(layer))


def _skip(*, centered: bool) -> WorkFunction:
    """(input + skip + bias), normalised over the last dimension, times gamma, plus beta."""

    def work(layer: Layer) -> Work:
        elements = size(layer.inputs[0])
        rows = elements // max(1, dims(layer.inputs[0])[-1])
        bias = given(layer, 4 if centered else 3) is not None
        each = 1 + bias + (_CENTERED + 1 if centered else _ROOT_MEAN_SQUARE + 1)
        each += centered and given(layer, 3) is not None
        group = _CENTERED_GROUP if centered else _ROOT_MEAN_SQUARE_GROUP
        return build(layer, other=each * elements + group * rows)

    return work


def _embedding_normalization(layer: Layer) -> Work:
    """The sum of two or three looked-up rows, normalised. Of the tables only these rows are read."""
    elements = size(layer.outputs[0])
    hidden = dims(layer.outputs[0])[-1]
    tables = [given(layer, position) for position in (2, 3, 4)]
    segments = tables[2] is not None
    other = (1 + segments + _CENTERED + 2) * elements + _CENTERED_GROUP * (elements // max(1, hidden))
    rows = sum(min(nbytes(table), element_bytes(table, elements)) for table in tables if table)
    rest = sum(
        nbytes(one) for one in weights(layer) if all(table is None or one.name != table.name for table in tables)
    )
    return build(layer, other=other, parameter_bytes=rows + rest)


def _instance_normalization(layer: Layer) -> Work:
    shape = dims(layer.inputs[0])
    return build(layer, other=(_CENTERED + 2) * math.prod(shape) + _CENTERED_GROUP * shape[0] * shape[1])


def _group_normalization(layer: Layer) -> Work:
    groups = int(layer.attributes.get("num_groups", layer.attributes.get("groups", 1)))
    shape = dims(layer.inputs[0])
    each = _CENTERED + 2 + (5 if layer.attributes.get("activation") else 0)  # activation 1: x * Sigmoid(x)
    return build(layer, other=each * math.prod(shape) + _CENTERED_GROUP * shape[0] * groups)


def _local_response(layer: Layer) -> Work:
    """x / (bias + alpha / n * sum of squares over n channels) ^ beta: n + 4 operations an element.

    Squares (1) are shared by the windows, n - 1 additions, scale, add, power, division. At the first and last channels
    the window is cut.
    """
    shape = dims(layer.inputs[0])
    width = int(layer.attributes["size"])
    if len(shape) < 2:
        raise ShapeUnknown
    channels, elements = shape[1], math.prod(shape)
    window = Window(channels, channels, width, pad_begin=(width - 1) // 2)
    plane = elements // max(1, channels)
    return build(layer, other=(width + 4) * elements, other_valid=plane * window.valid_taps() + 4 * elements)


def _lp_normalization(layer: Layer) -> Work:
    return build(layer, other=3 * size(layer.inputs[0]))


def _mean_variance(layer: Layer) -> Work:
    return build(layer, other=_CENTERED * size(layer.inputs[0]))


def _softmax(each: int = 5) -> WorkFunction:
    """exp(x - max) / sum: a comparison, a subtraction, exp, an addition, a division an element."""

    def work(layer: Layer) -> Work:
        return build(layer, other=each * size(layer.inputs[0]))

    return work


FUNCTIONS: Final[Functions] = MappingProxyType(
    {
        (ONNX, "BatchNormalization"): _batch_normalization,
        (NHWC, "BatchNormalization"): _batch_normalization,
        (ONNX, "LayerNormalization"): _layer_normalization,
        (ONNX, "RMSNormalization"): _rms_normalization,
        (ONNX, "SimplifiedLayerNormalization"): _rms_normalization,
        (ONNX, "InstanceNormalization"): _instance_normalization,
        (ONNX, "GroupNormalization"): _group_normalization,
        (ONNX, "LRN"): _local_response,
        (ONNX, "LpNormalization"): _lp_normalization,
        (ONNX, "MeanVarianceNormalization"): _mean_variance,
        (ONNX, "Softmax"): _softmax(),
        (ONNX, "LogSoftmax"): _softmax(),
        (ONNX, "Hardmax"): _softmax(1),
        (MICROSOFT, "BiasSoftmax"): _softmax(6),
        (MICROSOFT, "QLinearSoftmax"): _softmax(2 + 5 + 5),
        (MICROSOFT, "SkipLayerNormalization"): _skip(centered=True),
        (MICROSOFT, "SkipSimplifiedLayerNormalization"): _skip(centered=False),
        (MICROSOFT, "EmbedLayerNormalization"): _embedding_normalization,
        (MICROSOFT, "GroupNorm"): _group_normalization,
    }
)
