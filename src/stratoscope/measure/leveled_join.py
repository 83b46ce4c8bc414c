"""Finds for each profiled layer the layer of the executed graph, and with it the authored layers and the work."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stratoscope.backends.base import Backend, BackendOptions
from stratoscope.backends.ort_profile import stable_name
from stratoscope.errors import StratoscopeError
from stratoscope.graph.mapping import ExecutedLayer
from stratoscope.spec.model import LoadableModel

#: ONNX Runtime's operators on images whose channels are stored in blocks of 8 or 16 (NCHWc).
BLOCKED_DOMAIN: Final = "com.microsoft.nchwc"
_CHANNELS: Final = 1
_LARGEST_BLOCK: Final = 16


@dataclass(frozen=True, slots=True)
class ProfiledLayer:
    """What the trace tells of a layer: its name and operator, and type and shape of its first output."""

    name: str
    op: str
    output_type: str | None = None
    output_shape: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class ExecutedNode:
    """A node of the executed graph's file, in the file's order.

    `name` is empty where the file has none; `layer` is None where the reader of graphs folded the node away.
    """

    name: str
    op: str
    layer: ExecutedLayer | None


@dataclass(frozen=True, slots=True)
class ExecutedModel:
    """What the back end executes: nodes mapped onto the authored layers, or `why` they are not known.

    `size_bytes` is that of the graph with its weights, 0 where it is not known.
    """

    nodes: tuple[ExecutedNode, ...] = ()
    why: str | None = None
    size_bytes: int = 0


def executed_model(backend: Backend, model: LoadableModel, options: BackendOptions) -> ExecutedModel:
    """The graph that the back end executes, by way of a temporary file; never raises for a graph that cannot be had."""
    try:
        with tempfile.TemporaryDirectory(prefix="stratoscope-executed-") as folder:
            path = backend.executed_graph(model, options, Path(folder))
            if path is None:
                return ExecutedModel(why=f"back end {backend.name!r} does not tell what it executes")
            if model.path is None:
                return ExecutedModel(why="the model has no graph file")
            size = sum(file.stat().st_size for file in Path(folder).iterdir())
            return ExecutedModel(_read(path, model.path, model.bound_shapes()), size_bytes=size)
    except StratoscopeError as error:
        return ExecutedModel(why=f"the executed graph cannot be had: {error}")
    except OSError as error:
        return ExecutedModel(why=f"the executed graph cannot be written: {error.strerror}")


def _read(path: Path, model: Path, shapes: Mapping[str, tuple[int, ...]]) -> tuple[ExecutedNode, ...]:
    from stratoscope.graph.mapping import map_executed
    from stratoscope.graph.onnx_file import load_onnx
    from stratoscope.graph.onnx_reader import read_graph

    authored, executed = read_graph(model, shapes), read_graph(path, shapes)
    by_output = {output.name: one for one in map_executed(authored, executed) for output in one.layer.outputs}
    return tuple(
        ExecutedNode(node.name, node.op_type, next((by_output[one] for one in node.output if one in by_output), None))
        for node in load_onnx(path).graph.node
    )


def join(nodes: Sequence[ExecutedNode], profiled: Sequence[ProfiledLayer]) -> list[ExecutedLayer | str]:
    """For each profiled layer, in order of execution, the executed layer, or why it is not known.

    Both are in topological order; where the operators are the same one by one, and no name or output speaks against it,
    layers belong together by place. Names alone would not do: a file may have none, and those that the runtime makes up
    differ from session to session. Where the operators differ (threads that race), layers are joined by name, if it is
    unique on both sides.
    """
    if [node.op for node in nodes] == [layer.op for layer in profiled]:
        pairs = list(zip(nodes, profiled, strict=True))
        if all(_same_name(node, layer) for node, layer in pairs):
            return [_checked(node, layer) for node, layer in pairs]
    known = Counter(stable_name(node.name) for node in nodes)
    wanted = Counter(layer.name for layer in profiled)
    by_name = {stable_name(node.name): node for node in nodes if node.name}
    result: list[ExecutedLayer | str] = []
    for layer in profiled:
        unique = wanted[layer.name] == known[layer.name] == 1
        result.append(_checked(by_name.get(layer.name) if unique else None, layer))
    return result


def _checked(node: ExecutedNode | None, layer: ProfiledLayer) -> ExecutedLayer | str:
    if node is None or node.op != layer.op:
        return "no layer of the executed graph can be told to be this one"
    if node.layer is None:
        return "it computes only what follows from the shapes, and is not in the graph"
    told = node.layer.layer.outputs[0].shape if node.layer.layer.outputs else None
    blocked = node.layer.layer.domain == BLOCKED_DOMAIN
    if layer.output_shape is not None and told is not None and not _fits(told, layer.output_shape, blocked=blocked):
        return f"its output has shape {list(layer.output_shape)}, and {list(told)} in the executed graph"
    return node.layer


def _fits(told: Sequence[int | str], ran: Sequence[int], *, blocked: bool) -> bool:
    """Whether a shape that ran is the one that the graph tells; in a blocked layout channels are padded to a block."""
    if len(told) != len(ran):
        return False
    return all(
        not isinstance(a, int) or a == b or (blocked and axis == _CHANNELS and a <= b < a + _LARGEST_BLOCK)
        for axis, (a, b) in enumerate(zip(told, ran, strict=True))
    )


def _same_name(node: ExecutedNode, layer: ProfiledLayer) -> bool:
    """Whether the names allow the two to be the same; a node without a name is called by operator and number."""
    return stable_name(node.name) == layer.name if node.name else layer.name.startswith(layer.op + "_")
