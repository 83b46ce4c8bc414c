"""Types and shapes of tensors while a graph is read: from and to ONNX's messages, bound to sizes, completed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from onnx import TypeProto

from stratoscope.errors import ModelError
from stratoscope.graph.element_types import type_code, type_name
from stratoscope.graph.ir import Shape

#: A dimension of which nothing is known, not even a name.
ANY_SIZE: Final = "?"


@dataclass(frozen=True, slots=True)
class Typed:
    """What is known of a tensor before it has a role."""

    element_type: str | None
    shape: Shape | None


UNKNOWN: Final = Typed(None, None)


def elements_of(shape: Shape | None) -> int | None:
    """The number of elements, None where the shape is not known in full."""
    if shape is None:
        return None
    elements = 1
    for dim in shape:
        if isinstance(dim, str):
            return None
        elements *= dim
    return elements


def typed(proto: TypeProto) -> Typed:
    """The element type and shape of a tensor type; UNKNOWN for sequences and the like."""
    if not proto.HasField("tensor_type"):
        return UNKNOWN
    tensor = proto.tensor_type
    if not tensor.HasField("shape"):
        return Typed(type_name(tensor.elem_type), None)
    dims: list[int | str] = []
    for dim in tensor.shape.dim:
        if dim.HasField("dim_value") and dim.dim_value >= 0:
            dims.append(dim.dim_value)
        else:
            dims.append(dim.dim_param or ANY_SIZE)
    return Typed(type_name(tensor.elem_type), tuple(dims))


def type_proto(typed: Typed) -> TypeProto:
    """The message of a type."""
    proto = TypeProto()
    proto.tensor_type.elem_type = type_code(typed.element_type)
    if typed.shape is not None:
        proto.tensor_type.shape.SetInParent()
        for dim in typed.shape:
            added = proto.tensor_type.shape.dim.add()
            if isinstance(dim, int):
                added.dim_value = dim
            elif dim != ANY_SIZE:
                added.dim_param = dim
    return proto


def with_bindings(typed: Typed, bindings: Mapping[str, int]) -> Typed:
    """The type with its named dimensions replaced by their sizes."""
    if typed.shape is None or not bindings:
        return typed
    return Typed(
        typed.element_type, tuple(bindings.get(dim, dim) if isinstance(dim, str) else dim for dim in typed.shape)
    )


def with_shape(name: str, typed: Typed, asked: Iterable[int], bindings: dict[str, int]) -> Typed:
    """The type of an input with the asked-for shape; records the named dimensions in `bindings`."""
    sizes = tuple(int(size) for size in asked)
    if any(size < 1 for size in sizes):
        raise ModelError(f"input {name!r} is given the shape {list(sizes)}", hint="every dimension is at least 1")
    if typed.shape is None:
        return Typed(typed.element_type, sizes)
    declared = f"input {name!r} is declared as {list(typed.shape)}"
    if len(sizes) != len(typed.shape):
        raise ModelError(f"{declared}, not with {len(sizes)} dimensions", hint="give one size for each dimension")
    for dim, size in zip(typed.shape, sizes, strict=True):
        if isinstance(dim, int) and dim != size:
            raise ModelError(
                f"{declared}: {list(sizes)} does not fit it", hint="only dimensions that have a name can be set"
            )
        if isinstance(dim, str) and dim != ANY_SIZE and bindings.setdefault(dim, size) != size:
            raise ModelError(
                f"{declared}: its dimension {dim!r} is {size} here and {bindings[dim]} in another place",
                hint="a named dimension has one size in all inputs",
            )
    return Typed(typed.element_type, sizes)


def merged(found: Typed, declared: Typed | None) -> Typed:
    """What was inferred, completed by what the model declares."""
    if declared is None:
        return found
    element_type = found.element_type or declared.element_type
    if found.shape is None or declared.shape is None or len(found.shape) != len(declared.shape):
        return Typed(element_type, found.shape if found.shape is not None else declared.shape)
    dims = (
        mine if isinstance(mine, int) or (mine != ANY_SIZE and isinstance(other, str)) else other
        for mine, other in zip(found.shape, declared.shape, strict=True)
    )
    return Typed(element_type, tuple(dims))
