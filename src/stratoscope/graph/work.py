"""What a layer has to do: floating-point operations and compulsory bytes, from one registry keyed by operator.

Conventions (docs/work-model.md compares them with those of another tool):

- A multiply-add (MAC) is two floating-point operations (FLOPs), and `flops` = 2 * `macs` + all other operations.
- An operation is counted whatever its type: quantised products and integer sums count as real ones do.
- Nominal `flops` count every tap of a window, padding included. `flops_valid` counts taps on real data only, and of a
  causal attention only the pairs that the mask leaves: this is what has to be done, and what bounds are made from.
- Element-wise operators count the operations of their textbook formula for each output element. An addition,
  product, comparison or division is one; so is an elementary function (exp, log, erf, tanh, sin, square root), though
  it costs several instructions. Selections (Where) and conversions (Cast) are none.
- Factors that are known before inference (the scale of a batch normalisation, alpha = 1) cost nothing.
- Bytes are compulsory traffic: each activation is read once and each output written once, in its stored type. Windows
  that leave elements out do not read them; a lookup reads the rows that it returns. `bytes_read` is of activations and
  `parameter_bytes` of stored data; settings (shapes, axes, pads) are not counted.
- Views (Reshape, Flatten, Squeeze, Unsqueeze, Identity, Dropout at inference) do and move nothing, by an explicit list.
- `parameters` counts stored real or quantised numbers with at least one dimension; running statistics of a batch
  normalisation are among them, since inference reads them.
- An operator that is not in the registry has no known work: None, never zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from stratoscope.graph.ir import Layer, Work
from stratoscope.graph.work_functions import (
    attention,
    convolution,
    elementwise,
    matmul,
    movement,
    normalization,
    pooling,
    quantization,
    recurrent,
    reduction,
    resampling,
)
from stratoscope.graph.work_functions.common import ShapeUnknown, WorkFunction

_FAMILIES = (
    attention,
    convolution,
    elementwise,
    matmul,
    movement,
    normalization,
    pooling,
    quantization,
    recurrent,
    reduction,
    resampling,
)


@cache
def work_functions() -> Mapping[tuple[str, str], WorkFunction]:
    """The registry: (domain, operator) -> work function. No operator has two."""
    registry: dict[tuple[str, str], WorkFunction] = {}
    for family in _FAMILIES:
        twice = registry.keys() & family.FUNCTIONS.keys()
        if twice:
            raise AssertionError(f"{family.__name__} defines the work of {sorted(twice)} once more")
        registry.update(family.FUNCTIONS)
    return MappingProxyType(registry)


def work_of(layer: Layer) -> Work | None:
    """The work of one execution of a layer; None where its operator is not known or its shapes do not tell."""
    function = work_functions().get((layer.domain, layer.op))
    if function is None:
        return None
    try:
        return function(layer)
    except ShapeUnknown:
        return None


def why_unknown(layer: Layer) -> str:
    """Why `work_of` gives None for a layer, in a few words."""
    if (layer.domain, layer.op) not in work_functions():
        return "no work function"
    if any(tensor.bytes is None for tensor in (*layer.outputs, *filter(None, layer.inputs))):
        return "unknown shape"
    return "depends on the data"


def total(works: list[Work]) -> Work:
    """The sum of works; parameters that layers share are counted once for each of them."""
    return Work(
        flops=sum(work.flops for work in works),
        flops_valid=sum(work.flops_valid for work in works),
        macs=sum(work.macs for work in works),
        bytes_read=sum(work.bytes_read for work in works),
        bytes_written=sum(work.bytes_written for work in works),
        parameter_bytes=sum(work.parameter_bytes for work in works),
        parameters=sum(work.parameters for work in works),
    )
