"""What is benchmarked of a model: its unique layers, or the unique nodes that ONNX Runtime executes, each runnable."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from stratoscope.errors import ModelError
from stratoscope.graph.brick_model import skeleton
from stratoscope.graph.bricks import make_brick
from stratoscope.graph.ir import Graph, Layer, Tensor
from stratoscope.graph.onnx_reader import read_graph
from stratoscope.graph.signature import signature, slug
from stratoscope.graph.work import work_of
from stratoscope.spec.model import LoadableModel
from stratoscope.spec.options import BackendOptions
from stratoscope.spec.performance import Part, PartKind

Level = Literal["off", "basic", "extended", "all"]
#: FLOP a byte at which compute and memory take equally long on a common server core (float32, memory bandwidth). Only
#: shares are made with it, which say how much of a model's work is measured; no time is.
RIDGE_FLOP_PER_BYTE: Final = 10.0


@dataclass(frozen=True, slots=True)
class RunnablePart:
    """A part with the ONNX model that computes it.

    Attributes:
        part: what it is.
        model: an ONNX model. Initialisers without data are filled where it runs, from `feeds_seed`: no user's weights
            are in it, and it is small. Activations are inputs of the graph.
        feeds_seed: of weights and inputs.
        problem: why it cannot be built (then `model` is empty); it is recorded as unsupported.
    """

    part: Part
    model: bytes
    feeds_seed: int = 0
    problem: str | None = None


def layer_parts(graph: Graph, model: LoadableModel | None = None) -> list[RunnablePart]:
    """The unique layers of an authored graph, in the order of first use, as one-node models.

    Activations are inputs of the graph, weights are initialisers (so that libraries may pack them ahead), settings
    keep their values. A layer that has constant inputs only gets them as inputs: its runtime would fold it otherwise.
    `model` names the model in messages.
    """
    return _unique(graph, "layer", model.name if model is not None else graph.name)


def executed_parts(model: LoadableModel, level: Level = "extended") -> list[RunnablePart]:
    """The unique nodes that ONNX Runtime executes at graph level `level`, as one-node models.

    They hold the runtime's own operators (fused ones; at level all NCHWc ones and changes of layout), which are run as
    they are, without further optimisation.

    Raises:
        BackendError: the runtime cannot load the model.
    """
    from stratoscope.backends.onnxruntime import OnnxRuntimeBackend

    with tempfile.TemporaryDirectory(prefix="stratoscope-executed-") as folder:
        options = BackendOptions(threads=1, graph_optimization=level)
        path = OnnxRuntimeBackend().executed_graph(model, options, Path(folder))
        if path is None:
            raise ModelError(f"ONNX Runtime wrote no executed graph of {model.name!r}", hint="choose another level")
        return _unique(read_graph(path, model.bound_shapes()), "executed", model.name)


def _unique(graph: Graph, kind: PartKind, name: str) -> list[RunnablePart]:
    read = {tensor.name for layer in graph.layers for tensor in layer.inputs if tensor is not None}
    read |= {tensor.name for tensor in graph.outputs}
    found: dict[str, RunnablePart] = {}
    for layer in graph.layers:
        digest = signature(layer)
        if digest not in found:
            found[digest] = _runnable(layer, digest, kind, graph, read, name)
    return list(found.values())


def _runnable(layer: Layer, digest: str, kind: PartKind, graph: Graph, read: set[str], name: str) -> RunnablePart:
    part = part_of(layer, kind, digest)
    try:
        model = skeleton(make_brick([_with_inputs(layer)], _needed(layer, read), graph.opset))
    except (ModelError, ValueError, TypeError) as error:
        return RunnablePart(part, b"", problem=f"layer {layer.name!r} of {name} cannot be built alone: {error}")
    return RunnablePart(part, model)


def part_of(layer: Layer, kind: PartKind, digest: str | None = None) -> Part:
    """The description of a layer as a part; its digest is the layer's signature."""
    work = work_of(layer)
    return Part(
        digest=digest or signature(layer),
        kind=kind,
        slug=slug(layer),
        operators=(f"{layer.domain}.{layer.op}" if layer.domain else layer.op,),
        flops=work.flops if work else None,
        flops_valid=work.flops_valid if work else None,
        bytes=work.bytes_read + work.bytes_written + work.parameter_bytes if work else None,
        parameter_bytes=work.parameter_bytes if work else None,
        element_type=layer.outputs[0].element_type if layer.outputs else None,
    )


def _with_inputs(layer: Layer) -> Layer:
    """The layer itself, or where no input of it is an activation, with its weights as activations."""
    given = [tensor for tensor in layer.inputs if tensor is not None]
    if not given or any(tensor.role not in ("weight", "shape-constant") for tensor in given):
        return layer
    return dataclasses.replace(layer, inputs=tuple(_as_activation(tensor) for tensor in layer.inputs))


def _as_activation(tensor: Tensor | None) -> Tensor | None:
    if tensor is None or tensor.role != "weight":
        return tensor
    return dataclasses.replace(tensor, role="activation")


def _needed(layer: Layer, read: Iterable[str]) -> list[Tensor]:
    """The outputs that something reads (a mask of Dropout often is not), at least the first."""
    names = set(read)
    return [tensor for place, tensor in enumerate(layer.outputs) if place == 0 or tensor.name in names]


def roofline_work(part: Part, ridge: float = RIDGE_FLOP_PER_BYTE) -> float | None:
    """A part's least time in units of bytes over bandwidth; None where its work is not known."""
    flops = part.flops_valid if part.flops_valid is not None else part.flops
    if flops is None or part.bytes is None:
        return None
    return max(float(part.bytes), flops / ridge)
