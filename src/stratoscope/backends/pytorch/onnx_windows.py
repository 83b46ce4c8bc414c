"""ONNX operators that slide windows, as PyTorch modules: convolutions, pools, and padding that PyTorch lacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from stratoscope.backends.pytorch.onnx_node import Function, Node

_FLOAT_MAX: Final = float(np.finfo(np.float32).max)


def convolution(node: Node) -> nn.Module:
    """Conv over one to three spatial axes; uneven padding becomes a layer before it."""
    weight, bias = node.constant(1), node.constant(2)
    assert weight is not None
    rank = weight.dim() - 2
    if rank not in (1, 2, 3):
        raise node.refuse(f"{rank} spatial dimensions")
    pads, padding = _pads(node, rank)
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
    group = int(node.attributes.get("group", 1))
    conv = nn.utils.skip_init(
        kind,
        weight.shape[1] * group,
        weight.shape[0],
        tuple(weight.shape[2:]),
        stride=_sizes(node, "strides", rank),
        padding=padding,
        dilation=_sizes(node, "dilations", rank),
        groups=group,
        bias=bias is not None,
    )
    conv.weight = nn.Parameter(weight)
    if bias is not None:
        conv.bias = nn.Parameter(bias)
    return conv if pads is None else nn.Sequential(_padding(pads, 0.0), conv)


def max_pool(node: Node) -> nn.Module:
    """MaxPool, padded with the least float where PyTorch cannot pad so."""
    kernel = _kernel(node)
    rank = len(kernel)
    if node.attributes.get("storage_order", 0):
        raise node.refuse("column-major indices")
    pads, padding = _pads(node, rank)
    if any(2 * pad > size for pad, size in zip(padding, kernel, strict=True)):  # PyTorch allows half a window
        pads, padding = _onnx_pads(node, rank), [0] * rank
    kind = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)[rank - 1]
    pool = kind(
        kernel,
        stride=_sizes(node, "strides", rank),
        padding=padding,
        dilation=_sizes(node, "dilations", rank),
        ceil_mode=_ceil(node),
    )
    return pool if pads is None else nn.Sequential(_padding(pads, -_FLOAT_MAX), pool)


def average_pool(node: Node) -> nn.Module:
    """AveragePool, with or without the padding in the counts."""
    kernel = _kernel(node)
    rank = len(kernel)
    count_pad = bool(node.attributes.get("count_include_pad", 0))
    pads, padding = _pads(node, rank)
    strides = _sizes(node, "strides", rank)
    if any(size != 1 for size in _sizes(node, "dilations", rank)):
        raise node.refuse("a dilated average")
    if rank > 3:
        raise node.refuse(f"{rank} spatial dimensions")
    if pads is None and all(2 * pad <= size for pad, size in zip(padding, kernel, strict=True)):
        kind = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)[rank - 1]
        return kind(kernel, stride=strides, padding=padding, ceil_mode=_ceil(node), count_include_pad=count_pad)
    if _ceil(node):
        raise node.refuse("uneven padding with ceil_mode")
    return _UnevenAverage(kernel, strides, _onnx_pads(node, rank), count_pad)


class _UnevenAverage(nn.Module):  # type: ignore[misc]
    """An average whose padding differs from end to end, or is wide: sums over the padded input, over the counts."""

    def __init__(self, kernel: Sequence[int], strides: Sequence[int], pads: Sequence[int], count_pad: bool) -> None:
        super().__init__()
        self.kernel, self.strides, self.pads, self.count_pad = tuple(kernel), tuple(strides), pads, count_pad
        self.pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[len(kernel) - 1]

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        mean = self.pool(F.pad(value, _reversed(self.pads)), self.kernel, self.strides)
        if self.count_pad:
            return mean
        ones = torch.ones((1, 1, *value.shape[2:]), dtype=value.dtype, device=value.device)
        return mean / self.pool(F.pad(ones, _reversed(self.pads)), self.kernel, self.strides)


def pad(node: Node) -> nn.Module:
    """Pad with a constant."""
    pads = node.integers(1, "pads")
    assert pads is not None
    if node.inputs > 3:
        raise node.refuse("axes are given")
    mode = node.attributes.get("mode", "constant")
    if mode != "constant":
        raise node.refuse(f"mode {mode}")
    value = node.attributes.get("value") if "value" in node.attributes else node.number(2)
    return _padding(pads, float(value or 0.0))


def _kernel(node: Node) -> list[int]:
    kernel = [int(size) for size in node.attributes["kernel_shape"]]
    if len(kernel) > 3:
        raise node.refuse(f"{len(kernel)} spatial dimensions")
    return kernel


def _sizes(node: Node, name: str, rank: int) -> list[int]:
    return [int(size) for size in node.attributes.get(name, [1] * rank)]


def _ceil(node: Node) -> bool:
    return bool(node.attributes.get("ceil_mode", 0))


def _onnx_pads(node: Node, rank: int) -> list[int]:
    """Begins of all spatial axes, then ends."""
    automatic = node.attributes.get("auto_pad", "NOTSET")
    if automatic not in ("NOTSET", "VALID"):
        raise node.refuse(f"auto_pad {automatic}")
    return (
        [int(size) for size in node.attributes.get("pads", [0] * 2 * rank)]
        if automatic == "NOTSET"
        else [0] * (2 * rank)
    )


def _pads(node: Node, rank: int) -> tuple[list[int] | None, list[int]]:
    """(pads of a layer before, None where the layer pads evenly by itself; padding of the layer)."""
    pads = _onnx_pads(node, rank)
    if pads[:rank] == pads[rank:]:
        return None, pads[:rank]
    if _ceil(node):
        raise node.refuse("uneven padding with ceil_mode")
    return pads, [0] * rank


def _reversed(pads: Sequence[int]) -> list[int]:
    """ONNX's begins and ends in the order of torch's pad: last axis first, begin and end together."""
    rank = len(pads) // 2
    return [size for axis in reversed(range(rank)) for size in (pads[axis], pads[axis + rank])]


def _padding(pads: Sequence[int], value: float) -> nn.Module:
    order = _reversed(pads)
    return Function(lambda tensor: F.pad(tensor, order, value=value))
