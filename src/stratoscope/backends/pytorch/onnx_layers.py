"""ONNX operators as PyTorch modules: one factory an operator, exact or a clear refusal, never an approximation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import nn

from stratoscope.backends.pytorch.onnx_elementwise import ELEMENTWISE
from stratoscope.backends.pytorch.onnx_node import Factory, Function, Node, calling
from stratoscope.backends.pytorch.onnx_reductions import REDUCTIONS
from stratoscope.backends.pytorch.onnx_shapes import SHAPES
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


def _clip(node: Node) -> nn.Module:
    low, high = (
        float(node.attributes[name]) if name in node.attributes else node.number(place)
        for place, name in ((1, "min"), (2, "max"))
    )
    if low == 0.0 and high == 6.0:
        return nn.ReLU6()
    return Function(lambda value: value.clamp(low, high))


def _leaky(node: Node) -> nn.Module:
    return nn.LeakyReLU(float(node.attributes.get("alpha", 0.01)))


def _dropout(node: Node) -> nn.Module:
    return nn.Dropout(float(node.attributes.get("ratio", 0.5)))


_FACTORIES: Final[Mapping[str, Factory]] = {
    **ELEMENTWISE,
    **REDUCTIONS,
    **SHAPES,
    "AveragePool": average_pool,
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Conv": convolution,
    "Dropout": _dropout,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda node: Function(lambda x: x.mean(tuple(range(2, x.dim())), keepdim=True)),
    "LRN": _local_response_norm,
    "LeakyRelu": _leaky,
    "MatMul": lambda node: calling(node, torch.matmul),
    "MaxPool": max_pool,
    "Pad": pad,
}
