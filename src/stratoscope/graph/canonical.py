"""The one form of a layer's attributes: geometry explicit, axes counted from the front."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from stratoscope.graph.geometry import sliding
from stratoscope.graph.ir import Layer, Tensor

_CONVOLUTIONS: Final = frozenset({"Conv", "FusedConv", "NhwcConv", "NhwcFusedConv", "ConvInteger", "QLinearConv"})
_POOLS: Final = frozenset({"MaxPool", "AveragePool", "LpPool", "NhwcMaxPool", "QLinearAveragePool"})
_CHANNELS_LAST: Final = frozenset({"NhwcConv", "NhwcFusedConv", "NhwcMaxPool"})
_NHWC_DOMAIN: Final = "com.ms.internal.nhwc"
#: Operators whose `axis` (or `axes`) counts dimensions of the first input, where -1 is the last.
_AXIS: Final = frozenset(
    {
        "Softmax",
        "LogSoftmax",
        "Hardmax",
        "Concat",
        "Split",
        "Gather",
        "GatherElements",
        "ScatterElements",
        "Scatter",
        "ArgMax",
        "ArgMin",
        "LayerNormalization",
        "RMSNormalization",
        "SimplifiedLayerNormalization",
        "TopK",
        "LpNormalization",
        "Compress",
        "Unique",
        "QuantizeLinear",
        "DequantizeLinear",
        "Squeeze",
        *(
            f"Reduce{kind}"
            for kind in ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare")
        ),
    }
)
#: Attributes that are notes to tools, not part of what is computed.
_NOT_MEANING: Final = frozenset({"doc_string", "weight_prepacked"})


def canonical_attributes(layer: Layer) -> dict[str, Any]:
    """The attributes that decide what the layer computes, in one form; lists in place of tuples, ready for JSON."""
    values = {name: value for name, value in layer.attributes.items() if name not in _NOT_MEANING}
    if layer.op in _CONVOLUTIONS or layer.op in _POOLS:
        values.update(_explicit_geometry(layer))
        if "pads" in values:
            values.pop("auto_pad", None)
    rank = _rank(layer)
    if rank is not None and layer.op in _AXIS:
        for name in ("axis", "axes"):
            if name in values:
                values[name] = _from_front(values[name], rank)
    if rank is not None and layer.op == "Transpose":
        values.setdefault("perm", tuple(reversed(range(rank))))
    return {name: _plain(value) for name, value in sorted(values.items())}


def canonical_setting(layer: Layer, tensor: Tensor) -> list[Any] | None:
    """The numbers of a setting; reduction axes as for the attribute of older operator sets."""
    if tensor.value is None:
        return None
    rank = _rank(layer)
    if rank and layer.op in _AXIS and layer.op.startswith(("Reduce", "Squeeze")):
        return sorted(int(value) % rank for value in tensor.value)
    return [_plain(value) for value in tensor.value]


def window_geometry(layer: Layer) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]] | None:
    """Kernel, strides, dilations and pads of a convolution or pool; None for others and where shapes are not known."""
    explicit = _explicit_geometry(layer) if layer.op in _CONVOLUTIONS or layer.op in _POOLS else {}
    if not explicit:
        return None
    return explicit["kernel_shape"], explicit["strides"], explicit["dilations"], explicit["pads"]


def _explicit_geometry(layer: Layer) -> Mapping[str, tuple[int, ...]]:
    weight = 3 if layer.op == "QLinearConv" else 1
    kernel = layer.attributes.get("kernel_shape")
    if not kernel and layer.op in _CONVOLUTIONS and len(layer.inputs) > weight:
        filters = layer.inputs[weight]
        kernel = filters.shape[2:] if filters and filters.shape else None
    data = layer.inputs[0]
    if not kernel or data is None or data.shape is None:
        return {}
    last = layer.op in _CHANNELS_LAST or layer.domain == _NHWC_DOMAIN or layer.attributes.get("channels_last")
    spatial = data.shape[1:-1] if last else data.shape[2:]
    known = tuple(dim for dim in (*spatial, *kernel) if isinstance(dim, int))
    if len(known) != len(spatial) + len(kernel) or len(spatial) != len(kernel):
        return {}
    geometry = sliding(layer.attributes, known[len(spatial) :], known[: len(spatial)])
    return {
        "kernel_shape": geometry.kernel,
        "strides": geometry.strides,
        "dilations": geometry.dilations,
        "pads": geometry.pads,
    }


def _rank(layer: Layer) -> int | None:
    data = layer.inputs[0] if layer.inputs else None
    return None if data is None or data.shape is None else len(data.shape)


def _from_front(value: Any, rank: int) -> Any:
    if isinstance(value, tuple):
        return tuple(sorted(one % rank for one in value)) if rank else value
    return value % rank if rank else value


def _plain(value: Any) -> Any:
    """Lists for tuples, and words for the numbers that JSON does not have (the bound of a Clip can be infinite)."""
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return repr(value) if isinstance(value, float) and not math.isfinite(value) else value
