"""ONNX operators along axes, as PyTorch modules: reductions, running sums, places of extremes, normalisation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import torch
from torch import nn
from torch.nn import functional as F

from stratoscope.backends.pytorch.onnx_node import Factory, Function, Node, with_integers

_Reduce = Callable[[torch.Tensor, tuple[int, ...], bool], torch.Tensor]


class LayerNorm(nn.LayerNorm):  # type: ignore[misc]
    """Layer normalisation from an axis on, with a scale and an offset of any shape that broadcasts to the input's."""

    def __init__(self, axis: int, eps: float, scale: torch.Tensor, offset: torch.Tensor | None) -> None:
        super().__init__(tuple(scale.shape), eps=eps, elementwise_affine=False)
        self.axis = axis
        self.weight = nn.Parameter(scale)
        self.bias = None if offset is None else nn.Parameter(offset)

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        shape = value.shape[self.axis :]
        if self.weight.shape == shape and (self.bias is None or self.bias.shape == shape):
            return F.layer_norm(value, shape, self.weight, self.bias, self.eps)
        scaled = F.layer_norm(value, shape, None, None, self.eps) * self.weight
        return scaled if self.bias is None else scaled + self.bias


def _layer_norm(node: Node) -> nn.Module:
    scale, offset = node.constant(1), node.constant(2)
    assert scale is not None
    if int(node.attributes.get("stash_type", 1)) != 1:
        raise node.refuse("its statistics are not in float32 (stash_type)")
    return LayerNorm(int(node.attributes.get("axis", -1)), float(node.attributes.get("epsilon", 1e-5)), scale, offset)


def _reduction(reduce: _Reduce, *, plain: bool = False) -> Factory:
    """A factory of reductions; those of `plain` leave each element as it is where there are no axes to reduce."""

    def factory(node: Node) -> nn.Module:
        keep = bool(node.attributes.get("keepdims", 1))
        idle = bool(node.attributes.get("noop_with_empty_axes", 0))
        if idle and not plain:
            raise node.refuse("noop_with_empty_axes is set")

        def run(value: torch.Tensor, axes: Sequence[int] | None) -> torch.Tensor:
            if not axes and idle:
                return value
            return reduce(value, tuple(axes or range(value.dim())), keep) if value.dim() else reduce(value, (), keep)

        if "axes" in node.attributes:
            axes = node.integers(1, "axes")
            return Function(lambda value: run(value, axes))
        return with_integers(node, run, [1])

    return factory


def _product(value: torch.Tensor, axes: tuple[int, ...], keep: bool) -> torch.Tensor:
    rank, dtype = value.dim(), value.dtype
    for axis in sorted((axis % rank for axis in axes), reverse=True):
        value = value.prod(axis, keepdim=keep, dtype=dtype)
    return value


def _extreme(find: Callable[..., torch.Tensor]) -> Factory:
    def factory(node: Node) -> nn.Module:
        axis, keep = int(node.attributes.get("axis", 0)), bool(node.attributes.get("keepdims", 1))
        if node.attributes.get("select_last_index", 0):
            raise node.refuse("it takes the last of equal elements (select_last_index)")
        return Function(lambda value: find(value, axis, keepdim=keep))

    return factory


def _running_sum(node: Node) -> nn.Module:
    exclusive, reverse = (bool(node.attributes.get(name, 0)) for name in ("exclusive", "reverse"))

    def run(value: torch.Tensor, axes: Sequence[int]) -> torch.Tensor:
        axis = axes[0]
        turned = value.flip(axis) if reverse else value
        total = turned.cumsum(axis, dtype=value.dtype)
        if exclusive:  # shifted, not subtracted: a difference would round
            first = torch.zeros_like(total.narrow(axis, 0, 1))
            total = torch.cat([first, total.narrow(axis, 0, total.shape[axis] - 1)], axis)
        return total.flip(axis) if reverse else total

    return with_integers(node, run, [1])


def _softmax(node: Node) -> nn.Module:
    return nn.Softmax(int(node.attributes.get("axis", -1)))


def _log_softmax(node: Node) -> nn.Module:
    return nn.LogSoftmax(int(node.attributes.get("axis", -1)))


REDUCTIONS: Final[Mapping[str, Factory]] = {
    "ArgMax": _extreme(torch.argmax),
    "ArgMin": _extreme(torch.argmin),
    "CumSum": _running_sum,
    "LayerNormalization": _layer_norm,
    "LogSoftmax": _log_softmax,
    "ReduceL1": _reduction(lambda value, axes, keep: value.abs().sum(axes, keep, dtype=value.dtype)),
    "ReduceL2": _reduction(lambda value, axes, keep: value.square().sum(axes, keep).sqrt()),
    "ReduceLogSumExp": _reduction(lambda value, axes, keep: value.logsumexp(axes, keep)),
    "ReduceMax": _reduction(lambda value, axes, keep: value.amax(axes, keep), plain=True),
    "ReduceMean": _reduction(lambda value, axes, keep: value.mean(axes, keep), plain=True),
    "ReduceMin": _reduction(lambda value, axes, keep: value.amin(axes, keep), plain=True),
    "ReduceProd": _reduction(_product, plain=True),
    "ReduceSum": _reduction(lambda value, axes, keep: value.sum(axes, keep, dtype=value.dtype), plain=True),
    "ReduceSumSquare": _reduction(lambda value, axes, keep: value.square().sum(axes, keep, dtype=value.dtype)),
    "Softmax": _softmax,
}
