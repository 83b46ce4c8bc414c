"""An ONNX graph as a PyTorch module: one submodule a node, named after it, so that layers keep their names."""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import fx, nn

from stratoscope.backends.pytorch.onnx_layers import build_layer
from stratoscope.backends.pytorch.onnx_node import Node
from stratoscope.errors import BackendError
from stratoscope.graph.onnx_file import load_onnx, take_in_data, tensors_of

#: The attribute under which a submodule carries the name and the operator of its ONNX node.
ORIGIN: Final = "stratoscope_origin"
#: Softmax of older operator sets flattens; ours read it along one axis.
OLDEST_OPSET: Final = 13
#: Elements up to which a tensor is read even where weights are not wanted: shapes, axes, bounds.
LARGEST_READ: Final = 1024
_FLOATS: Final = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16)
#: The attributes in which a Constant has its value, and the element types of those that are plain numbers.
_CONSTANTS: Final = {
    "value": None,
    "value_float": torch.float32,
    "value_floats": torch.float32,
    "value_int": torch.int64,
    "value_ints": torch.int64,
}


def from_onnx(path: Path, *, weights: bool = True) -> nn.Module:
    """The graph in `path` as an `fx.GraphModule` in evaluation mode, whose forward takes the graph's inputs in order.

    Nodes whose inputs are all constant are computed here, once. A submodule has the name of its node (dots become
    underscores), and as attribute `ORIGIN` the pair (node name, operator). Without `weights` large tensors of floats
    are not read: they are on the meta device, and what is computed from them is too.

    Raises:
        ModelError: the file cannot be read.
        BackendError: the graph has an operator, or a case of one, that is not supported.
    """
    model = load_onnx(path, weights=weights)
    for tensor in () if weights else tensors_of(model):
        if math.prod(tensor.dims) <= LARGEST_READ or tensor.data_type not in _FLOATS:
            take_in_data(tensor, path.parent)
    _check_opset(model, path)
    builder = _Builder(model.graph)
    for node in model.graph.node:
        builder.add(node)
    return builder.finish()


class _Builder:
    """The module while it grows: values by name, either constants or nodes of the fx graph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._source = graph
        self._graph = fx.Graph()
        self._root = nn.Module()
        self._names: Counter[str] = Counter()
        self._constants = {tensor.name: _tensor(tensor) for tensor in graph.initializer}
        self._values: dict[str, fx.Node] = {}
        for place, value in enumerate(graph.input):
            if value.name not in self._constants:
                self._values[value.name] = self._graph.placeholder(f"input_{place}")

    def add(self, node: onnx.NodeProto) -> None:
        name = node.name or node.output[0]
        attributes = {a.name: _attribute(a) for a in node.attribute}
        if node.op_type == "Constant" and attributes.keys() <= _CONSTANTS.keys():
            self._constants[node.output[0]] = _constant(next(iter(attributes.items())))
            return
        inputs = list(node.input)
        while inputs and not inputs[-1]:
            inputs.pop()
        constants = {place: self._constants[key] for place, key in enumerate(inputs) if key in self._constants}
        computed = [key for key in inputs if key and key not in self._constants]
        absent = frozenset(place for place, key in enumerate(inputs) if not key)
        described = Node(node.op_type, name, attributes, constants, len(inputs), absent, len(node.output))
        if node.domain not in ("", "ai.onnx"):
            raise described.refuse(f"its domain is {node.domain}")
        if node.op_type != "Split" and self._used(node.output[1:]):
            raise described.refuse("more than its first output is used")
        unknown = [key for key in computed if key not in self._values]
        if unknown:
            raise described.refuse(f"input {unknown[0]!r} is produced by nothing before it")
        if not computed and constants:
            self._fold(described, node.output)
            return
        layer = build_layer(described)
        setattr(layer, ORIGIN, (name, node.op_type))
        target = self._register(name, layer)
        result = self._graph.call_module(target, tuple(self._values[key] for key in computed))
        if node.op_type != "Split":
            self._values[node.output[0]] = result
            return
        for place, output in enumerate(node.output):
            self._values[output] = self._graph.call_function(operator.getitem, (result, place))

    def finish(self) -> nn.Module:
        outputs = []
        for value in self._source.output:
            if value.name not in self._values:
                raise BackendError(
                    f"PyTorch back end: output {value.name!r} of the graph is a constant or produced by no node",
                    hint="use --backend onnxruntime",
                )
            outputs.append(self._values[value.name])
        self._graph.output(tuple(outputs))
        module = fx.GraphModule(self._root, self._graph, self._source.name or "OnnxGraph")
        return module.eval().requires_grad_(False)

    def _fold(self, node: Node, outputs: Sequence[str]) -> None:
        constants = {place: value for place, value in node.constants.items() if place}
        with torch.no_grad():
            result = build_layer(replace(node, constants=constants))(node.constants[0])
        for output, value in zip(outputs, result if isinstance(result, tuple) else (result,), strict=False):
            self._constants[output] = value.detach()

    def _register(self, name: str, layer: nn.Module) -> str:
        base = name.replace(".", "_") or "node"
        if hasattr(self._root, base):
            self._names[base] += 1
            base = f"{base}_{self._names[base]}"
        self._root.add_module(base, layer)
        return base

    def _used(self, names: Any) -> bool:
        wanted = {name for name in names if name}
        read = {key for node in self._source.node for key in node.input} | {o.name for o in self._source.output}
        return bool(wanted & read)


def _check_opset(model: onnx.ModelProto, path: Path) -> None:
    version = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if version < OLDEST_OPSET:
        raise BackendError(
            f"PyTorch back end: {path.name} has ONNX operator set {version}, at least {OLDEST_OPSET} is needed",
            hint="convert it with onnx.version_converter, or use --backend onnxruntime",
        )


def _tensor(tensor: onnx.TensorProto) -> torch.Tensor:
    if tensor.data_location == onnx.TensorProto.EXTERNAL:  # left in its file
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        return torch.from_numpy(np.empty(0, dtype)).new_empty(tuple(tensor.dims), device="meta")
    return torch.from_numpy(np.array(numpy_helper.to_array(tensor)))  # a copy: torch wants writable memory


def _constant(entry: tuple[str, Any]) -> torch.Tensor:
    name, value = entry
    return value if isinstance(value, torch.Tensor) else torch.tensor(value, dtype=_CONSTANTS[name])


def _attribute(attribute: onnx.AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, onnx.TensorProto):
        return _tensor(value)
    return value.decode() if isinstance(value, bytes) else value
