"""Work of reductions, scans and selections: n - 1 operations to bring n elements down to one."""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import Final

from stratoscope.graph.ir import Layer, Work
from stratoscope.graph.work_functions.common import (
    MICROSOFT,
    ONNX,
    Functions,
    WorkFunction,
    build,
    dims,
    given,
    size,
)


def _reduce(*, before: int = 0, after: int = 0) -> WorkFunction:
    """A reduction with `before` operations an input element and `after` operations an output element."""

    def work(layer: Layer) -> Work:
        elements, outputs = size(layer.inputs[0]), size(layer.outputs[0])
        return build(layer, other=before * elements + max(elements - outputs, 0) + after * outputs)

    return work


def _log_sum_exp(layer: Layer) -> Work:
    """max + log(sum(exp(x - max))): a maximum and a sum of n each, a subtraction and exp an element, two a result."""
    elements, outputs = size(layer.inputs[0]), size(layer.outputs[0])
    return build(layer, other=2 * max(elements - outputs, 0) + 2 * elements + 2 * outputs)


def _arg(layer: Layer) -> Work:
    return build(layer, other=max(size(layer.inputs[0]) - size(layer.outputs[0]), 0))


def _scan(layer: Layer) -> Work:
    return build(layer, other=size(layer.inputs[0]))


def _top_k(layer: Layer) -> Work:
    """One comparison an element: the least that finding the k largest takes. What is done depends on the data."""
    return build(layer, other=size(layer.inputs[0]))


def _fourier(layer: Layer) -> Work | None:
    """5 n log2 n operations a transform of length n, the count that FFT benchmarks use; half for a one-sided one."""
    shape = dims(layer.inputs[0])
    axis = layer.attributes.get("axis")
    setting = given(layer, 2)
    if axis is None or setting is not None:
        axis = int(setting.value[0]) if setting and setting.value else -2 if setting is None else None
    if axis is None:
        return None
    length = shape[int(axis) % len(shape)]
    wanted = given(layer, 1)
    if wanted is not None:
        if not wanted.value:
            return None
        length = int(wanted.value[0])
    transforms = math.prod(shape[:-1]) // max(1, shape[int(axis) % len(shape)])
    whole = 5 * length * math.log2(length) if length > 1 else 0.0
    one_sided = bool(layer.attributes.get("onesided")) or shape[-1] == 1
    return build(layer, other=round(transforms * whole / (2 if one_sided else 1)))


FUNCTIONS: Final[Functions] = MappingProxyType(
    {
        **{(ONNX, f"Reduce{kind}"): _reduce() for kind in ("Sum", "Max", "Min", "Prod")},
        (ONNX, "ReduceMean"): _reduce(after=1),
        (ONNX, "ReduceL1"): _reduce(before=1),
        (ONNX, "ReduceL2"): _reduce(before=1, after=1),
        (ONNX, "ReduceSumSquare"): _reduce(before=1),
        (ONNX, "ReduceLogSum"): _reduce(after=1),
        (ONNX, "ReduceLogSumExp"): _log_sum_exp,
        (ONNX, "ArgMax"): _arg,
        (ONNX, "ArgMin"): _arg,
        (ONNX, "CumSum"): _scan,
        (ONNX, "CumProd"): _scan,
        (ONNX, "TopK"): _top_k,
        (ONNX, "DFT"): _fourier,
        (MICROSOFT, "ReduceSumInteger"): _reduce(),
        (MICROSOFT, "QLinearReduceMean"): _reduce(after=6),
    }
)
