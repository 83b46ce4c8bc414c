"""ONNX operators as PyTorch modules: one factory an operator, exact or a clear refusal, never an approximation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from stratoscope.errors import BackendError

_FLOAT_MAX: Final = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class Node:
    """One ONNX node: its attributes, and which of its inputs are constants (by place)."""

    op: str
    name: str
    attributes: Mapping[str, Any]
    constants: Mapping[int, torch.Tensor]
    inputs: int

    def constant(self, place: int) -> torch.Tensor | None:
        """The constant at an input, None where the input is absent; raises BackendError where it is computed."""
        if place in self.constants:
            return self.constants[place]
        if place < self.inputs:
            raise self.refuse(f"input {place} is computed, not a constant")
        return None

    def integers(self, place: int, attribute: str) -> list[int] | None:
        """A list of integers: an attribute in old operator sets, a constant input in new ones."""
        if attribute in self.attributes:
            return [int(value) for value in self.attributes[attribute]]
        found = self.constant(place)
        return None if found is None else [int(value) for value in found.flatten().tolist()]

    def refuse(self, why: str) -> BackendError:
        """The error that says which node cannot be had in PyTorch, and why."""
        return BackendError(
            f"PyTorch back end: node {self.name!r} ({self.op}) cannot be converted: {why}",
            hint="use --backend onnxruntime, or give the torch.nn.Module itself",
        )


class Function(nn.Module):  # type: ignore[misc]  # torch is optional, so untyped here
    """A layer without weights that is one call."""

    def __init__(self, call: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.call = call

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        return self.call(*values)


class WithConstants(nn.Module):  # type: ignore[misc]
    """A call some of whose arguments are constants of the model; `places` are those of the constants."""

    def __init__(self, call: Callable[..., torch.Tensor], constants: Mapping[int, torch.Tensor]) -> None:
        super().__init__()
        self.call = call
        self.places = sorted(constants)
        for place in self.places:
            value = constants[place]
            if value.is_floating_point():
                self.register_parameter(f"input_{place}", nn.Parameter(value))
            else:
                self.register_buffer(f"input_{place}", value)

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        arguments = list(values)
        for place in self.places:
            arguments.insert(place, getattr(self, f"input_{place}"))
        return self.call(*arguments)


def build_layer(node: Node) -> nn.Module:
    """The module that computes `node` from its inputs that are not constants, in their order.

    Raises:
        BackendError: the operator, or a case of it, is not supported.
    """
    factory = _FACTORIES.get(node.op)
    if factory is None:
        raise node.refuse(f"operator {node.op} is not supported; supported are {', '.join(sorted(_FACTORIES))}")
    return factory(node)


def _conv(node: Node) -> nn.Module:
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


def _batch_norm(node: Node) -> nn.Module:
    scale, offset, mean, variance = (node.constant(place) for place in (1, 2, 3, 4))
    assert scale is not None
    assert offset is not None
    if node.attributes.get("training_mode", 0):
        raise node.refuse("it is in training mode")
    norm = _BatchNorm(
        scale.numel(),
        eps=float(node.attributes.get("epsilon", 1e-5)),
        momentum=1 - float(node.attributes.get("momentum", 0.9)),
    )
    norm.weight, norm.bias = nn.Parameter(scale), nn.Parameter(offset)
    norm.running_mean, norm.running_var = mean, variance
    return norm


class _BatchNorm(nn.modules.batchnorm._BatchNorm):  # type: ignore[misc]
    """Batch normalisation of any rank, as ONNX has it."""

    def _check_input_dim(self, input: torch.Tensor) -> None:
        """Any rank from two on."""


def _gemm(node: Node) -> nn.Module:
    weight, bias = node.constant(1), node.constant(2)
    assert weight is not None
    alpha, beta = float(node.attributes.get("alpha", 1.0)), float(node.attributes.get("beta", 1.0))
    if node.attributes.get("transA", 0):
        raise node.refuse("its first matrix is transposed")
    rows = weight if node.attributes.get("transB", 0) else weight.t().contiguous()
    if bias is not None and bias.numel() not in (1, rows.shape[0]):
        raise node.refuse(f"its third input has shape {list(bias.shape)}")
    linear = nn.utils.skip_init(nn.Linear, rows.shape[1], rows.shape[0], bias=bias is not None)
    linear.weight = nn.Parameter(rows if alpha == 1.0 else rows * alpha)
    if bias is not None:
        linear.bias = nn.Parameter((bias.flatten() * beta).expand(rows.shape[0]).contiguous())
    return linear


def _max_pool(node: Node) -> nn.Module:
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


def _average_pool(node: Node) -> nn.Module:
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


def _local_response_norm(node: Node) -> nn.Module:
    size = int(node.attributes["size"])
    if size % 2 == 0:
        raise node.refuse("an even size, which PyTorch centres otherwise")
    alpha, beta = float(node.attributes.get("alpha", 1e-4)), float(node.attributes.get("beta", 0.75))
    return nn.LocalResponseNorm(size, alpha=alpha, beta=beta, k=float(node.attributes.get("bias", 1.0)))


def _reshape(node: Node) -> nn.Module:
    target = node.integers(1, "shape")
    assert target is not None
    copies = not node.attributes.get("allowzero", 0)

    def reshape(value: torch.Tensor) -> torch.Tensor:
        return value.reshape([value.shape[i] if size == 0 and copies else size for i, size in enumerate(target)])

    return Function(reshape)


def _flatten(node: Node) -> nn.Module:
    axis = int(node.attributes.get("axis", 1))
    return Function(lambda value: value.reshape(int(np.prod(value.shape[:axis])), -1))


def _transpose(node: Node) -> nn.Module:
    order = node.attributes.get("perm")
    return Function(lambda value: value.permute(*(order if order is not None else reversed(range(value.dim())))))


def _concat(node: Node) -> nn.Module:
    axis = int(node.attributes["axis"])
    return _calling(node, lambda *values: torch.cat(values, axis))


def _softmax(node: Node) -> nn.Module:
    return nn.Softmax(int(node.attributes.get("axis", -1)))


def _clip(node: Node) -> nn.Module:
    low, high = (
        float(node.attributes[name]) if name in node.attributes else _scalar(node.constant(place))
        for place, name in ((1, "min"), (2, "max"))
    )
    if low == 0.0 and high == 6.0:
        return nn.ReLU6()
    return Function(lambda value: value.clamp(low, high))


def _pad(node: Node) -> nn.Module:
    pads = node.integers(1, "pads")
    assert pads is not None
    if node.inputs > 3:
        raise node.refuse("axes are given")
    mode = node.attributes.get("mode", "constant")
    if mode != "constant":
        raise node.refuse(f"mode {mode}")
    value = node.attributes.get("value") if "value" in node.attributes else _scalar(node.constant(2))
    return _padding(pads, float(value or 0.0))


def _unsqueeze(node: Node) -> nn.Module:
    axes = node.integers(1, "axes")
    assert axes is not None

    def unsqueeze(value: torch.Tensor) -> torch.Tensor:
        rank = value.dim() + len(axes)
        for axis in sorted(axis % rank for axis in axes):
            value = value.unsqueeze(axis)
        return value

    return Function(unsqueeze)


def _squeeze(node: Node) -> nn.Module:
    axes = node.integers(1, "axes")
    return Function(lambda value: value.squeeze() if axes is None else value.squeeze(tuple(axes)))


def _reduce_mean(node: Node) -> nn.Module:
    axes = node.integers(1, "axes")
    keep = bool(node.attributes.get("keepdims", 1))
    if not axes:
        raise node.refuse("no axes are given")
    return Function(lambda value: value.mean(tuple(axes), keepdim=keep))


def _leaky(node: Node) -> nn.Module:
    return nn.LeakyReLU(float(node.attributes.get("alpha", 0.01)))


def _dropout(node: Node) -> nn.Module:
    return nn.Dropout(float(node.attributes.get("ratio", 0.5)))


def _calling(node: Node, call: Callable[..., torch.Tensor]) -> nn.Module:
    return WithConstants(call, node.constants) if node.constants else Function(call)


def _summing(node: Node) -> nn.Module:
    def add(first: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        for other in others:
            first = first + other
        return first

    return _calling(node, add)


def _scalar(value: torch.Tensor | None) -> float | None:
    return None if value is None else float(value)


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


def _plain(kind: Callable[[], nn.Module]) -> Callable[[Node], nn.Module]:
    return lambda node: kind()


def _pairwise(call: Callable[..., torch.Tensor]) -> Callable[[Node], nn.Module]:
    return lambda node: _calling(node, call)


_FACTORIES: Final[Mapping[str, Callable[[Node], nn.Module]]] = {
    "Add": _pairwise(torch.add),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "Div": _pairwise(torch.div),
    "Dropout": _dropout,
    "Flatten": _flatten,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda node: Function(lambda x: x.mean(tuple(range(2, x.dim())), keepdim=True)),
    "Identity": _plain(nn.Identity),
    "LRN": _local_response_norm,
    "LeakyRelu": _leaky,
    "MatMul": _pairwise(torch.matmul),
    "MaxPool": _max_pool,
    "Mul": _pairwise(torch.mul),
    "Pad": _pad,
    "ReduceMean": _reduce_mean,
    "Relu": _plain(nn.ReLU),
    "Reshape": _reshape,
    "Sigmoid": _plain(nn.Sigmoid),
    "Softmax": _softmax,
    "Squeeze": _squeeze,
    "Sub": _pairwise(torch.sub),
    "Sum": _summing,
    "Tanh": _plain(nn.Tanh),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
