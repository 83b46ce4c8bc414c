"""What is known of a layer before it is measured: its work, its form, and how far in the caches its data lie.

A small copy or element-wise layer takes as long as its data are far away, and that is decided by the layers around it.
So the bricks of a model are walked in their order with the memory that `measure/sequence_worker.py` gives them (inputs
that were just written, outputs where the brick before had its own), and each access gets its reuse distance: bytes of
other data touched since the same data were touched last (LRU stack distance, Mattson et al., 1970), in a pass that
follows another one.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from onnx import TensorProto, ValueInfoProto, helper

from stratoscope.explain.predict.scaling import Resources
from stratoscope.graph.brick_model import parse_skeleton
from stratoscope.graph.element_types import stored_bytes, type_name
from stratoscope.measure.runnable import RunnableBrick
from stratoscope.spec.performance import Part

Role = Literal["input", "weight", "output"]
_ROLES: Final[tuple[Role, ...]] = ("input", "weight", "output")
#: Bytes that distances are sorted by, beside their logarithm: what one core's caches hold, in powers of about 8.
LEVELS: Final = (2.0**15, 2.0**20, 2.0**23, 2.0**25)
_FURTHER: Final = "further"  # the buffer that stands for the weights of other places
_FIRST_PIECE: Final = 1 << 12
_LINE: Final = 64  # bytes that a vector load or a cache line moves


@dataclass(frozen=True, slots=True)
class Access:
    """Data that a layer reads or writes; `distance` in bytes."""

    role: Role
    shape: tuple[int, ...]
    bytes: int
    distance: float


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """A one-operator brick in its model."""

    part: Part
    operator: str
    attributes: dict[str, Any]
    accesses: tuple[Access, ...]

    def of(self, role: Role) -> list[Access]:
        """The accesses of one role, in the operator's order."""
        return [one for one in self.accesses if one.role == role]

    def seconds(self, resources: Resources, call_s: float = 5e-7) -> float:
        """The larger of compute at the peak and each datum at the bandwidth of the level that it is found in."""
        flops = self.part.flops_valid or self.part.flops or 0
        memory = sum(one.bytes / resources.bandwidth(one.distance + one.bytes) for one in self.accesses)
        return max(flops / resources.flops_per_s, memory) + call_s

    def features(self) -> tuple[float, ...]:
        """Numbers for a learner: sizes and distances as logarithms, shares of bytes by level, window, runs."""
        flops = self.part.flops_valid or self.part.flops or 0
        bytes_of = [sum(one.bytes for one in self.of(role)) for role in _ROLES]
        all_bytes = sum(bytes_of)
        kernel = self.attributes.get("kernel_shape") or ()
        strides = self.attributes.get("strides") or (1,)
        out = max(self.of("output"), key=lambda one: one.bytes).shape or (1,)
        plane = math.prod(out[2:]) if len(out) == 4 else out[-1]
        run = self._run_bytes()
        operands = [one.bytes for one in self.accesses if one.role != "output"]
        return (
            *(math.log1p(value) for value in (flops, *bytes_of, run, min(operands, default=0))),
            math.log1p(flops) - math.log1p(all_bytes),
            *(float(len(self.of(role))) for role in _ROLES),
            *(max((math.log1p(one.distance + one.bytes) for one in self.of(role)), default=0.0) for role in _ROLES),
            *(self._share(role, level, all_bytes) for role in _ROLES for level in range(len(LEVELS) + 1)),
            float(math.prod(kernel)),
            float(strides[0]),
            math.log(max(1, self.attributes.get("group", 1) or 1)),
            math.log1p(plane),
            math.log1p(out[-1]),
            math.log1p(math.prod(out[:-1])),
            float(run % _LINE == 0),
            float(4 * plane % _LINE == 0),
            float(len(out)),
        )

    def _share(self, role: Role, level: int, all_bytes: int) -> float:
        """The part of all bytes that this role finds between two of LEVELS."""
        found = [
            one.bytes
            for one in self.of(role)
            if sum(one.distance + one.bytes > edge for edge in LEVELS) == level
        ]  # fmt: skip
        return sum(found) / max(1, all_bytes)

    def _run_bytes(self) -> int:
        """Bytes that stay neighbours where data are moved; all of the output where nothing is torn apart."""
        inputs, outputs = self.of("input"), self.of("output")
        name = self.operator.rpartition(".")[2]
        if name in ("Concat", "Split") and inputs:
            pieces = inputs if name == "Concat" else outputs
            axis = self.attributes.get("axis", 0) % max(1, len(pieces[0].shape))
            return min(_element_bytes(one) * math.prod(one.shape[axis:]) for one in pieces)
        if name == "Transpose" and inputs:
            shape = inputs[0].shape
            order = list(self.attributes.get("perm") or reversed(range(len(shape))))
            kept = 0
            while kept < len(order) and order[-1 - kept] == len(order) - 1 - kept:
                kept += 1
            return _element_bytes(inputs[0]) * math.prod(shape[len(shape) - kept :])
        if name.startswith("Reorder"):
            return _element_bytes(outputs[0]) * math.prod(outputs[0].shape[2:])
        return outputs[0].bytes


def _element_bytes(access: Access) -> int:
    return access.bytes // max(1, math.prod(access.shape))


def facts_of(group: Sequence[RunnableBrick]) -> list[LayerFacts | None]:
    """The facts of a model's bricks in the order in which they are measured, None for those that cannot be built.

    Raises ModelError where a skeleton is damaged.
    """
    walks = [None if brick.problem else _accesses(brick) for brick in group]
    further = sum(brick.further_bytes for brick in group)
    distances = _distances([walk[2] if walk is not None else [] for walk in walks], further)
    return [
        None
        if walk is None
        else LayerFacts(
            brick.part,
            walk[0],
            walk[1],
            tuple(Access(one.role, one.shape, one.bytes, far) for one, far in zip(walk[2], reached, strict=True)),
        )
        for brick, walk, reached in zip(group, walks, distances, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class _Touch:
    """A tensor in memory: the pieces that it covers, with their bytes. Pieces of one pool are shared by all bricks."""

    role: Role
    shape: tuple[int, ...]
    bytes: int
    pieces: tuple[tuple[Hashable, int], ...]


_Walk = list[_Touch]


def _accesses(brick: RunnableBrick) -> tuple[str, dict[str, Any], _Walk]:
    """Operator, attributes, and what is touched of which memory, shared as the worker and the runtime share it."""
    model = parse_skeleton(brick.skeleton)
    node = model.graph.node[0]
    pools = {"input": 0, "output": 0}
    walk: _Walk = []

    def add(name: str, role: Role, code: int, shape: tuple[int, ...]) -> None:
        size = stored_bytes(type_name(code), math.prod(shape)) or 0
        pieces: tuple[tuple[Hashable, int], ...] = (((brick.part.digest, name), size),)
        if role in pools and (role == "output" or code == TensorProto.FLOAT):
            pieces = _pieces((role, pools[role]), size)
            pools[role] += 1
        walk.append(_Touch(role, shape, size, pieces))

    for value in model.graph.input:
        add(value.name, "input", value.type.tensor_type.elem_type, _shape(value))
    for tensor in model.graph.initializer:
        if not tensor.raw_data:  # settings have values, weights of a skeleton none
            add(tensor.name, "weight", tensor.data_type, tuple(tensor.dims))
    for value in model.graph.output:
        add(value.name, "output", value.type.tensor_type.elem_type, _shape(value))
    attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    return brick.part.operators[0], attributes, walk


def _pieces(pool: Hashable, size: int) -> tuple[tuple[Hashable, int], ...]:
    """The first `size` bytes of a pool, in pieces that begin at 0 and at powers of two: what is common is one piece.

    The piece that a tensor ends in counts as far as the tensor reaches.
    """
    found: list[tuple[Hashable, int]] = []
    start, end = 0, _FIRST_PIECE
    while start < size:
        found.append(((pool, start), min(end, size) - start))
        start, end = end, 2 * end
    return tuple(found)


def _shape(value: ValueInfoProto) -> tuple[int, ...]:
    return tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)


def _distances(walks: Sequence[_Walk], further_bytes: int = 0) -> list[list[float]]:
    """Reuse distances of each walk's accesses in the second of two passes, between which `further_bytes` are read.

    Before a walk its inputs are written. The distance of a tensor in several pieces is their mean, by bytes.
    """
    stack: dict[Hashable, int] = {}  # piece -> bytes, least recently touched first
    found: list[list[float]] = []
    for turn in range(2):
        stack.pop(_FURTHER, None)
        stack[_FURTHER] = further_bytes
        for walk in walks:
            for touch in walk:
                if touch.role == "input":
                    _touch(stack, touch)
            reached = [_touch(stack, touch) for touch in walk]
            if turn:
                found.append(reached)
    return found


def _touch(stack: dict[Hashable, int], touch: _Touch) -> float:
    """Puts a tensor on top of the stack; tells how far down it was, its own bytes not counted."""
    own = {piece for piece, _ in touch.pieces}
    below, far = 0.0, {}
    for piece in reversed(stack):
        if piece in own:
            far[piece] = below
            if len(far) == len(own):
                break
        else:
            below += stack[piece]
    mean = sum(far.get(piece, below) * size for piece, size in touch.pieces) / max(1, touch.bytes)
    for piece, size in touch.pieces:
        stack.pop(piece, None)
        stack[piece] = size
    return mean


def as_array(layers: Sequence[LayerFacts]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Features, one row a layer."""
    return np.array([one.features() for one in layers], dtype=np.float64)
