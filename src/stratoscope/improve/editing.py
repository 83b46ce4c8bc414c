"""Edits an ONNX model in memory: who makes and who reads a tensor, what is constant, new nodes in place of old ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

Array = NDArray[Any]

#: Operators that only change the shape of a constant: exporters leave them in front of per-channel factors.
_VIEWS: Final = frozenset({"Identity", "Unsqueeze", "Squeeze", "Reshape", "Flatten"})
#: From this operator set on, Squeeze and Unsqueeze take their axes as an input.
AXES_ARE_INPUTS: Final = 13
_DEFAULT_DOMAINS: Final = ("", "ai.onnx")


class GraphEditor:
    """The main graph of one model, which is copied first; `finish` gives the edited copy.

    A tensor that a subgraph (If, Loop, Scan) reads counts as read by the node that holds the subgraph, so that nothing
    that is still needed is taken out. Constants are never changed in place: others may share them.
    """

    def __init__(self, model: ModelProto) -> None:
        self.model = ModelProto()
        self.model.CopyFrom(model)
        graph = self.model.graph
        self.opset: int = max((one.version for one in model.opset_import if one.domain in _DEFAULT_DOMAINS), default=0)
        self.outputs = {value.name for value in graph.output}
        self.nodes: list[NodeProto] = list(graph.node)
        overridable = {value.name for value in graph.input}
        # Before IR version 4 every initializer is also an input; from 4 on such a one may be overridden by the caller.
        free = overridable if model.ir_version >= 4 else set()
        self._stored = {one.name: one for one in graph.initializer if one.name not in free}
        self._names = set(overridable) | {one.name for one in graph.initializer}
        for node in self.nodes:
            self._names.update(node.input, node.output)
        self._index()

    def _index(self) -> None:
        self._producer: dict[str, NodeProto] = {}
        self._readers: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in node.output:
                if name:
                    self._producer[name] = node
            for name in dict.fromkeys((*filter(None, node.input), *_captured(node))):
                self._readers.setdefault(name, []).append(node)

    def producer(self, tensor: str) -> NodeProto | None:
        """The node that makes a tensor; None for inputs and stored tensors."""
        return self._producer.get(tensor)

    def readers(self, tensor: str) -> Sequence[NodeProto]:
        """The nodes that read a tensor, also from a subgraph of theirs."""
        return self._readers.get(tensor, ())

    def only_reader(self, tensor: str) -> NodeProto | None:
        """The one node that reads a tensor; None where several do, none does, or it is an output of the model."""
        found = self.readers(tensor)
        return found[0] if len(found) == 1 and tensor not in self.outputs else None

    def is_operator(self, node: NodeProto | None, *ops: str) -> bool:
        """Whether a node is one of these operators of ONNX's own domain."""
        return node is not None and node.op_type in ops and node.domain in _DEFAULT_DOMAINS

    def constant(self, tensor: str) -> Array | None:
        """The value of a stored tensor, of a Constant node, or of a view of either; None for all else."""
        if tensor in self._stored:
            return np.asarray(numpy_helper.to_array(self._stored[tensor]))
        node = self.producer(tensor)
        if node is None or not (self.is_operator(node, "Constant") or self.is_operator(node, *_VIEWS)):
            return None
        inputs = {name: self.constant(name) for name in node.input if name}
        if any(value is None for value in inputs.values()):
            return None
        run = ReferenceEvaluator(node, opsets={"": self.opset}).run(None, inputs)
        return np.asarray(run[0])

    def fresh(self, stem: str) -> str:
        """A tensor name that the graph does not have yet."""
        name, number = stem, 0
        while name in self._names:
            number += 1
            name = f"{stem}_{number}"
        self._names.add(name)
        return name

    def store(self, value: Array, stem: str) -> str:
        """Adds a constant; returns its name."""
        name = self.fresh(stem)
        tensor = numpy_helper.from_array(np.ascontiguousarray(value), name)
        self._stored[name] = tensor
        self.model.graph.initializer.append(tensor)
        return name

    def replace(self, old: Sequence[NodeProto], new: Iterable[NodeProto]) -> None:
        """Puts `new` where the last of `old` was, which keeps the order topological, and takes `old` out."""
        gone = {id(node) for node in old}
        place = max(position for position, node in enumerate(self.nodes) if id(node) in gone)
        before = [node for node in self.nodes[:place] if id(node) not in gone]
        after = [node for node in self.nodes[place + 1 :] if id(node) not in gone]
        self.nodes = [*before, *new, *after]
        self._index()

    def finish(self) -> ModelProto:
        """The edited model, without the nodes and stored tensors that nothing reads any more."""
        self._drop_dead()
        graph = self.model.graph
        kept = [NodeProto.FromString(node.SerializeToString()) for node in self.nodes]
        del graph.node[:]
        graph.node.extend(kept)
        used = {name for node in kept for name in (*node.input, *_captured(node))} | self.outputs
        stale = [position for position, one in enumerate(graph.initializer) if one.name not in used]
        for position in reversed(stale):
            del graph.initializer[position]
        made = {name for node in kept for name in node.output}
        shapes = [value for value in graph.value_info if value.name in made]
        del graph.value_info[:]
        graph.value_info.extend(shapes)
        return self.model

    def _drop_dead(self) -> None:
        while True:
            live = [
                node
                for node in self.nodes
                if any(name in self.outputs or self._readers.get(name) for name in node.output if name)
            ]
            if len(live) == len(self.nodes):
                return
            self.nodes = live
            self._index()


class NewNodes:
    """Nodes that will stand in for an old one; their names begin with the name of the tensor that they end in."""

    def __init__(self, editor: GraphEditor, stem: str) -> None:
        self.nodes: list[NodeProto] = []
        self._editor, self._stem = editor, stem

    def add(self, op: str, *inputs: str, result: str | None = None, **attributes: Any) -> str:
        """Appends a node and returns the name of its output, which is new unless `result` names it."""
        name = result or self._editor.fresh(f"{self._stem}_{op.lower()}")
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=f"{name}/{op}", **attributes))
        return name

    def number(self, value: float, stem: str) -> str:
        """Stores a float32 number; returns its name."""
        return self._editor.store(np.array(value, dtype=np.float32), f"{self._stem}_{stem}")

    def axis_added(self, tensor: str, axis: int, *, removed: bool = False) -> str:
        """An Unsqueeze (or Squeeze) of one axis, in the form of the operator set."""
        op = "Squeeze" if removed else "Unsqueeze"
        if self._editor.opset < AXES_ARE_INPUTS:
            return self.add(op, tensor, axes=[axis])
        return self.add(op, tensor, self._editor.store(np.array([axis], dtype=np.int64), f"{self._stem}_axis"))


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    """The value of an attribute, or `default` where the node does not have it."""
    for one in node.attribute:
        if one.name == name:
            return helper.get_attribute_value(one)
    return default


def _captured(node: NodeProto) -> Iterator[str]:
    """Names that the subgraphs of a node read from outside or inside; names of their own do no harm."""
    for one in node.attribute:
        graphs = [one.g] if one.type == AttributeProto.GRAPH else one.graphs
        for graph in graphs:
            yield from _read_in(graph)


def _read_in(graph: GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield from filter(None, node.input)
        yield from _captured(node)
    for value in graph.output:
        yield value.name
