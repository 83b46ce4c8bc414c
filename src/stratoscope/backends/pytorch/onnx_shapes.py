"""ONNX operators that select, arrange and make elements without computing on them, as PyTorch modules."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import nn

from stratoscope.backends.pytorch.onnx_node import Factory, Function, Node, calling, with_integers
from stratoscope.errors import BackendError

_Integers = Sequence[int]


def _shape(node: Node) -> nn.Module:
    start, end = node.attributes.get("start", 0), node.attributes.get("end")

    def shape(value: torch.Tensor) -> torch.Tensor:
        return torch.tensor(value.shape[start:end], dtype=torch.int64, device="cpu" if value.is_meta else value.device)

    return Function(shape)


def _size(value: torch.Tensor) -> torch.Tensor:
    return torch.tensor(value.numel(), dtype=torch.int64, device="cpu" if value.is_meta else value.device)


def _reshape(node: Node) -> nn.Module:
    copies = not node.attributes.get("allowzero", 0)

    def reshape(value: torch.Tensor, target: _Integers) -> torch.Tensor:
        return value.reshape([value.shape[i] if size == 0 and copies else size for i, size in enumerate(target)])

    return with_integers(node, reshape, [1])


def _flatten(node: Node) -> nn.Module:
    axis = int(node.attributes.get("axis", 1))
    return Function(lambda value: value.reshape(math.prod(value.shape[:axis]), -1))


def _transpose(node: Node) -> nn.Module:
    order = node.attributes.get("perm")
    return Function(lambda value: value.permute(*(order if order is not None else reversed(range(value.dim())))))


def _concat(node: Node) -> nn.Module:
    axis = int(node.attributes["axis"])
    return calling(node, lambda *values: torch.cat(values, axis))


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


def _expand(value: torch.Tensor, target: _Integers) -> torch.Tensor:
    return value.expand(torch.broadcast_shapes(value.shape, tuple(target)))


def _tile(value: torch.Tensor, repeats: _Integers) -> torch.Tensor:
    return value.repeat(*repeats) if repeats else value


def _slice(
    value: torch.Tensor, starts: _Integers, ends: _Integers, axes: _Integers | None, steps: _Integers | None
) -> torch.Tensor:
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        first, last = _bounds(start, end, step, value.shape[axis])
        if step > 0:
            place = axis % value.dim()
            value = value[(slice(None),) * place + (slice(first, max(first, last), step),)]
        else:  # PyTorch has no negative steps
            chosen = torch.tensor(range(first, last, step), dtype=torch.int64, device=value.device)
            value = value.index_select(axis, chosen)
    return value


def _bounds(start: int, end: int, step: int, size: int) -> tuple[int, int]:
    """The bounds of a slice in an axis of `size`, clamped as ONNX has it: unlike Python, a start is never before 0."""
    start, end = (place + size if place < 0 else place for place in (start, end))
    if step > 0:
        return min(max(start, 0), size), min(max(end, 0), size)
    return min(max(start, 0), size - 1), min(max(end, -1), size - 1)


def _split(node: Node) -> nn.Module:
    axis = int(node.attributes.get("axis", 0))
    parts = int(node.attributes.get("num_outputs", node.outputs))

    def split(value: torch.Tensor, sizes: _Integers | None) -> tuple[torch.Tensor, ...]:
        if sizes is not None:
            return value.split(list(sizes), axis)  # type: ignore[no-any-return]
        length = value.shape[axis]
        if "num_outputs" not in node.attributes and length % parts:
            raise BackendError(f"node {node.name!r} (Split) cannot part {length} elements into {parts} equal parts")
        return value.split(math.ceil(length / parts), axis)  # type: ignore[no-any-return]

    return with_integers(node, split, [1])


def _gather(node: Node) -> nn.Module:
    axis = int(node.attributes.get("axis", 0))
    indices = node.constants.get(1)
    if indices is not None and indices.dim() == 0:
        place = int(indices)
        return calling(node, lambda value: value.select(axis, place), without=(1,))

    def gather(value: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        at = axis % value.dim()
        indices = torch.where(indices < 0, indices + value.shape[at], indices)
        chosen = value.index_select(at, indices.flatten())
        return chosen.reshape(*value.shape[:at], *indices.shape, *value.shape[at + 1 :])

    return calling(node, gather)


def _gather_elements(node: Node) -> nn.Module:
    axis = int(node.attributes.get("axis", 0))

    def gather(value: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        return value.gather(axis, torch.where(indices < 0, indices + value.shape[axis], indices).long())

    return calling(node, gather)


def _gather_nd(node: Node) -> nn.Module:
    batch = int(node.attributes.get("batch_dims", 0))

    def gather(value: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        rank = indices.dim() - 1
        grid = [
            torch.arange(value.shape[axis], device=value.device).reshape([-1 if i == axis else 1 for i in range(rank)])
            for axis in range(batch)
        ]
        return value[(*grid, *indices.unbind(-1))]

    return calling(node, gather)


def _range(start: torch.Tensor, limit: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    bounds = start.item(), limit.item(), delta.item()
    count = max(0, math.ceil((bounds[1] - bounds[0]) / bounds[2]))
    device = next((value.device for value in (start, limit, delta) if value.device.type != "cpu"), start.device)
    steps = torch.arange(count, device=device, dtype=start.dtype)
    return steps * delta.to(device) + start.to(device)


def _constant_of_shape(node: Node) -> nn.Module:
    value = node.attributes.get("value", torch.zeros(1))

    def fill(shape: torch.Tensor) -> torch.Tensor:
        return torch.full(shape.tolist(), value.item(), dtype=value.dtype, device=shape.device)

    return Function(fill)


def _triangle(node: Node) -> nn.Module:
    half = torch.triu if node.attributes.get("upper", 1) else torch.tril

    def triangle(value: torch.Tensor, diagonal: _Integers | None) -> torch.Tensor:
        return half(value, diagonal[0] if diagonal is not None else 0)

    return with_integers(node, triangle, [1])


SHAPES: Final[Mapping[str, Factory]] = {
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Expand": lambda node: with_integers(node, _expand, [1]),
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Identity": lambda node: nn.Identity(),
    "Range": lambda node: calling(node, _range),
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": lambda node: Function(_size),
    "Slice": lambda node: with_integers(node, _slice, [1, 2, 3, 4]),
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": lambda node: with_integers(node, _tile, [1]),
    "Transpose": _transpose,
    "Trilu": _triangle,
    "Unsqueeze": _unsqueeze,
}
