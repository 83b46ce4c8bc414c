"""An ONNX node as the factories of PyTorch layers see it, and the modules for layers that are one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from stratoscope.errors import BackendError


@dataclass(frozen=True, slots=True)
class Node:
    """One ONNX node: its attributes, and which of its inputs are constants or left out (by place)."""

    op: str
    name: str
    attributes: Mapping[str, Any]
    constants: Mapping[int, torch.Tensor]
    inputs: int
    absent: frozenset[int] = frozenset()
    outputs: int = 1

    def constant(self, place: int) -> torch.Tensor | None:
        """The constant at an input, None where the input is absent; raises BackendError where it is computed."""
        if place in self.constants:
            return self.constants[place]
        if place < self.inputs and place not in self.absent:
            raise self.refuse(f"input {place} is computed, not a constant")
        return None

    def number(self, place: int) -> float | None:
        """The constant at an input as one number, None where the input is absent."""
        found = self.constant(place)
        return None if found is None else float(found)

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


Factory = Callable[[Node], nn.Module]


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


def calling(node: Node, call: Callable[..., Any], without: Sequence[int] = ()) -> nn.Module:
    """`call` on the inputs of `node` in their order, less those at the places `without`, which are constants."""
    if node.absent:
        raise node.refuse(f"its input {min(node.absent)} is left out")
    places = [place for place in range(node.inputs) if place not in without]
    constants = {places.index(place): value for place, value in node.constants.items() if place in places}
    return WithConstants(call, constants) if constants else Function(call)


def with_integers(node: Node, call: Callable[..., Any], places: Sequence[int]) -> nn.Module:
    """`call` on the inputs of `node` by place, those at `places` as lists of integers, None where one is left out.

    Integers that are constants are read here, once; computed ones are read at every run.
    """
    known = {place: node.constants[place].flatten().tolist() for place in places if place in node.constants}
    width = max(node.inputs, *(place + 1 for place in places))
    given = [place for place in range(node.inputs) if place not in known and place not in node.absent]

    def run(*values: torch.Tensor) -> Any:
        arguments: list[Any] = [known.get(place) for place in range(width)]
        for place, value in zip(given, values, strict=True):
            arguments[place] = value.flatten().tolist() if place in places else value
        return call(*arguments)

    constants = {given.index(place): value for place, value in node.constants.items() if place in given}
    return WithConstants(run, constants) if constants else Function(run)
