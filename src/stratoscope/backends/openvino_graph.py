"""What OpenVINO executes, as an ONNX graph: its runtime model's nodes under the names of the layers as authored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import onnx
from onnx import NodeProto, TensorProto, helper

from stratoscope.graph.onnx_file import load_onnx

#: The domain of executed nodes: their operators are OpenVINO's.
DOMAIN: Final = "org.openvinotoolkit"
_INPUT, _OUTPUT, _CONSTANT = "Input", "Output", "Const"
_TYPES: Final = {
    "f32": TensorProto.FLOAT,
    "f64": TensorProto.DOUBLE,
    "f16": TensorProto.FLOAT16,
    "bf16": TensorProto.BFLOAT16,
    "i64": TensorProto.INT64,
    "i32": TensorProto.INT32,
    "i16": TensorProto.INT16,
    "i8": TensorProto.INT8,
    "u8": TensorProto.UINT8,
    "u16": TensorProto.UINT16,
    "u32": TensorProto.UINT32,
    "u64": TensorProto.UINT64,
    "boolean": TensorProto.BOOL,
}
_OPSET: Final = 17
_ABSENT: Final = ""


@dataclass(frozen=True, slots=True)
class Authored:
    """The nodes of an ONNX file.

    Attributes:
        names: of the nodes in the file's order, the first output's where a node has none.
        outputs: of each node, the names of its outputs.
        places: by what OpenVINO may call a node: its name, or that of an output of it or of the graph.
    """

    names: Sequence[str]
    outputs: Sequence[tuple[str, ...]]
    places: Mapping[str, int]

    @classmethod
    def of(cls, path: Path) -> Authored:
        """From a file; raises ModelError where it cannot be read."""
        nodes = load_onnx(path).graph.node
        names = [node.name or node.output[0] for node in nodes]
        places: dict[str, int] = {}
        for place, name in enumerate(names):
            places.setdefault(name, place)
        for place, node in enumerate(nodes):
            for name in filter(None, node.output):
                places.setdefault(name, place)
        return cls(names, [tuple(node.output) for node in nodes], places)

    def last(self, called: Iterable[str]) -> int | None:
        """The place of the last of the nodes that are among those that are `called` so."""
        return max((self.places[name] for name in called if name in self.places), default=None)


@dataclass(frozen=True, slots=True)
class ExecutedName:
    """A node of the runtime model: what it is called here, and the place of the authored node that it ends in."""

    name: str
    authored: int | None


def executed_names(compiled: Any, authored: Authored) -> dict[str, ExecutedName]:
    """By OpenVINO's name of an executed node, the name under which it is told.

    A node that ends in an authored one has its name. Others, changes of layout mostly, are called after the node that
    reads them (`conv1/Reorder`): the numbers in OpenVINO's own names differ from compilation to compilation.
    """
    nodes = list(compiled.get_runtime_model().get_ordered_ops())
    found: dict[str, ExecutedName] = {}
    used: set[str] = set()
    ended: set[int] = set()
    for node in nodes:
        last = authored.last(_information(node, "originalLayersNames").split(","))
        if last is not None:
            first = last not in ended
            ended.add(last)
            found[node.get_friendly_name()] = ExecutedName(_unique(authored.names[last], used), last if first else None)
    for node in reversed(nodes):  # readers before what they read
        own = node.get_friendly_name()
        if own not in found:
            kind = _information(node, "layerType")
            reader = _reader(node, found)
            name = own if kind in (_INPUT, _OUTPUT) else f"{reader}/{kind}" if reader else kind
            found[own] = ExecutedName(_unique(name, used), None)
    return found


def write_executed(compiled: Any, model: Path, path: Path, types: Mapping[str, str]) -> None:
    """Writes the runtime model as an ONNX file: operators of `DOMAIN`, types and shapes declared, no weights.

    The output of a node that ends in an authored one has the name that it has in `model`. Constants have type and shape
    only.

    Args:
        types: the operator of an executed node by OpenVINO's name, as its counters tell it; else the runtime model's.

    Raises:
        ModelError: the authored file cannot be read.
    """
    authored = Authored.of(model)
    graph = _Graph(executed_names(compiled, authored), authored, types)
    for node in compiled.get_runtime_model().get_ordered_ops():
        graph.add(node)
    made = helper.make_graph(graph.nodes, "executed", graph.inputs, graph.outputs, graph.stored)
    made.value_info.extend(graph.declared)
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(DOMAIN, 1)]
    onnx.save(helper.make_model(made, opset_imports=opsets, ir_version=8), str(path))


class _Graph:
    """The ONNX graph while it grows."""

    def __init__(self, names: Mapping[str, ExecutedName], authored: Authored, types: Mapping[str, str]) -> None:
        self._names, self._authored, self._types = names, authored, types
        self._tensors: dict[tuple[str, int], str] = {}
        self._constants: set[str] = {_ABSENT}
        self.nodes: list[NodeProto] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self.declared: list[Any] = []
        self.stored: list[TensorProto] = []

    def add(self, node: Any) -> None:
        """A node of the runtime model; those that depend on constants only are constants themselves."""
        own, kind = node.get_friendly_name(), _information(node, "layerType")
        read = [self._read(port) for port in node.inputs()]
        if kind == _OUTPUT:
            self.outputs.append(_declared(read[0], node.input(0)))
            return
        given = self._outputs(node)
        for place, name in enumerate(given):
            self._tensors[own, place] = name
        if kind == _INPUT:
            self.inputs.append(_declared(given[0], node.output(0)))
            return
        if kind == _CONSTANT or (read and all(name in self._constants for name in read)):
            for place, port in enumerate(node.outputs()):
                self._tensors[own, place] = self._constant(given[place], port)
            return
        self.declared += [_declared(name, port) for name, port in zip(given, node.outputs(), strict=True)]
        op = self._types.get(own, kind)
        self.nodes.append(helper.make_node(op, read, given, name=self._names[own].name, domain=DOMAIN))

    def _read(self, port: Any) -> str:
        source = port.get_source_output()
        return self._tensors[source.get_node().get_friendly_name(), source.get_index()]

    def _outputs(self, node: Any) -> list[str]:
        told = self._names[node.get_friendly_name()]
        count = len(node.outputs())
        authored = self._authored.outputs[told.authored] if told.authored is not None else ()
        if len(authored) >= count and all(authored[:count]):
            return list(authored[:count])  # a mask that nothing reads may be left out
        if _information(node, "layerType") == _INPUT:
            return [told.name]
        return [f"{told.name}:{place}" for place in range(count)]

    def _constant(self, name: str, port: Any) -> str:
        """The name of a constant with the type and shape of `port`; empty for one without a type: an absent bias."""
        if _type(port) == TensorProto.UNDEFINED:
            return _ABSENT
        self._constants.add(name)
        shape = f"{name}:shape"
        dims = [int(size) for size in port.get_shape()]
        self.stored.append(helper.make_tensor(shape, TensorProto.INT64, [len(dims)], dims))
        value = helper.make_tensor("value", _type(port), [1], [0])
        self.nodes.append(helper.make_node("ConstantOfShape", [shape], [name], value=value))
        return name


def _declared(name: str, port: Any) -> Any:
    shape = port.get_partial_shape()
    sizes = None if shape.rank.is_dynamic else [None if one.is_dynamic else one.get_length() for one in shape]
    return helper.make_tensor_value_info(name, _type(port), sizes)


def _type(port: Any) -> int:
    return int(_TYPES.get(port.get_element_type().to_string(), TensorProto.UNDEFINED))


def _information(node: Any, key: str) -> str:
    told = node.get_rt_info()
    return str(told[key].value) if key in told else ""


def _reader(node: Any, found: Mapping[str, ExecutedName]) -> str | None:
    """The name of the first node that reads an output."""
    targets: Sequence[Any] = [port.get_node() for output in node.outputs() for port in output.get_target_inputs()]
    names = sorted(found[one.get_friendly_name()].name for one in targets if one.get_friendly_name() in found)
    return names[0] if names else None


def _unique(name: str, used: set[str]) -> str:
    number, candidate = 1, name
    while candidate in used:
        number += 1
        candidate = f"{name}_{number}"
    used.add(candidate)
    return candidate
