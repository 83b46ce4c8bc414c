"""ONNX operators as PyTorch modules: one factory an operator, exact or a clear refusal, never an approximation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import torch
from torch import nn

from stratoscope.backends.pytorch.onnx_node import Function, Node, WithConstants
from stratoscope.backends.pytorch.onnx_windows import average_pool, convolution, max_pool, pad


def build_layer(node: Node) -> nn.Module:
    """The module that computes `node` from its inputs that are not constants, in their order.

    Raises:
        BackendError: the operator, or a case of it, is not supported.
    """
    factory = _FACTORIES.get(node.op)
    if factory is None:
        raise node.refuse(f"operator {node.op} is not supported; supported are {', '.join(sorted(_FACTORIES))}")
    return factory(node)


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
        float(node.attributes[name]) if name in node.attributes else node.number(place)
        for place, name in ((1, "min"), (2, "max"))
    )
    if low == 0.0 and high == 6.0:
        return nn.ReLU6()
    return Function(lambda value: value.clamp(low, high))


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


def _plain(kind: Callable[[], nn.Module]) -> Callable[[Node], nn.Module]:
    return lambda node: kind()


def _pairwise(call: Callable[..., torch.Tensor]) -> Callable[[Node], nn.Module]:
    return lambda node: _calling(node, call)


_FACTORIES: Final[Mapping[str, Callable[[Node], nn.Module]]] = {
    "Add": _pairwise(torch.add),
    "AveragePool": average_pool,
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": convolution,
    "Div": _pairwise(torch.div),
    "Dropout": _dropout,
    "Flatten": _flatten,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda node: Function(lambda x: x.mean(tuple(range(2, x.dim())), keepdim=True)),
    "Identity": _plain(nn.Identity),
    "LRN": _local_response_norm,
    "LeakyRelu": _leaky,
    "MatMul": _pairwise(torch.matmul),
    "MaxPool": max_pool,
    "Mul": _pairwise(torch.mul),
    "Pad": pad,
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
