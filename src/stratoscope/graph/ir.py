"""The graph of a model as layers over named tensors; pure data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["input", "weight", "shape-constant", "activation", "output"]
Shape = tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Tensor:
    """A named value. `shape` is None where it could not be inferred; `element_type` is a NumPy name (float32), or None.

    `value` holds the numbers of a small shape constant (the target of a Reshape, axes, pads, the bounds of a Clip),
    which are part of a layer's meaning. `bytes` is the size of the data, None where type or shape is not known.
    `sources` names the stored tensors that a constant was made from (itself, if it is stored): a source that several
    constants have is one parameter, shared. It is empty for constants that were computed (a mask, positions).
    """

    name: str
    element_type: str | None
    shape: Shape | None
    role: Role
    value: tuple[int | float, ...] | None = None
    bytes: int | None = None
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Layer:
    """An operator with its attributes and tensors. `inputs` keeps empty names of omitted optional inputs as None.

    `attributes` has the defaults of the operator set filled in; `since` is the version of the operator set that
    defines this operator, None where its definition is not known. `named` is false where the graph gives no name and
    `name` was made up from operator and position: such names tell nothing across graphs.
    """

    index: int
    name: str
    op: str
    domain: str
    attributes: Mapping[str, Any]
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    since: int | None = None
    named: bool = True


@dataclass(frozen=True, slots=True)
class Work:
    """What a layer has to do, once: floating-point operations (a multiply-add is two), compulsory bytes, parameters.

    `flops` counts nominal operations (padding taps included) as other tools do; `flops_valid` only those on real
    data, for bounds. `bytes_read` is of activations, `parameter_bytes` of the parameters that have to be read (of an
    embedding: the rows that are looked up), `parameters` the number of stored ones. graph/work.py states the
    conventions.
    """

    flops: int
    flops_valid: int
    macs: int
    bytes_read: int
    bytes_written: int
    parameter_bytes: int
    parameters: int


@dataclass(frozen=True, slots=True)
class Graph:
    """A model's layers in topological order, constants folded out."""

    name: str
    opset: Mapping[str, int]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    layers: tuple[Layer, ...]
    constants: int = 0  # nodes that only computed constants, folded out
    notes: tuple[str, ...] = field(default=())
    stored: tuple[Tensor, ...] = ()  # the tensors that the constants of the layers were made from
