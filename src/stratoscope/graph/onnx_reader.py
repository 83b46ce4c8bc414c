"""Reads an ONNX model as a graph of layers: dimensions bound, shapes inferred, constants folded out."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto, numpy_helper
from onnx.inliner import inline_local_functions
from onnx.shape_inference import InferenceError, infer_node_outputs

from stratoscope.errors import ModelError
from stratoscope.graph.attributes import attributes_of, schema_of
from stratoscope.graph.constant_folding import (
    MAX_SETTING_ELEMENTS,
    MAX_VALUE_ELEMENTS,
    Constant,
    compute,
    is_foldable,
    is_index_like,
    is_setting,
    sources_of,
)
from stratoscope.graph.element_types import stored_bytes, type_name
from stratoscope.graph.ir import Graph, Layer, Role, Shape, Tensor
from stratoscope.graph.onnx_file import load_onnx, take_in_data
from stratoscope.graph.onnx_types import (
    UNKNOWN,
    Typed,
    elements_of,
    merged,
    type_proto,
    typed,
    with_bindings,
    with_shape,
)
from stratoscope.graph.shape_rules import infer

#: A constant that claims more is refused: a few bytes of ConstantOfShape could ask the runtime for any amount.
MAX_CONSTANT_BYTES: Final = 1 << 36
_SUBGRAPH_OPS: Final = frozenset({"If", "Loop", "Scan", "SequenceMap"})


def read_graph(source: Path | str | ModelProto, input_shapes: Mapping[str, Sequence[int]] | None = None) -> Graph:
    """The graph of a model as authored: its layers in topological order, without the nodes that compute constants.

    Args:
        source: an ONNX file, or a loaded model (which is not changed; its weights are neither read nor copied).
        input_shapes: shapes for inputs with free dimensions. A named dimension is bound in all inputs that have it.

    Shapes come from onnx's own rules, node by node, with the values of small constants known to them; where these do
    not tell, from rules for ONNX Runtime's operators, then from what the model declares. What stays unknown is None or
    symbolic, with a note. Raises ModelError where the file cannot be read, a shape is asked for that the model does
    not allow, or a constant claims more than 64 GiB.
    """
    folder: Path | None = None
    if isinstance(source, ModelProto):
        model = _without_weights(source)
    else:
        folder = Path(source).parent
        model = load_onnx(source)
    if model.functions:
        model = inline_local_functions(model)
    reader = _Reader(model, folder, dict(input_shapes or {}))
    return reader.read()


def _without_weights(model: ModelProto) -> ModelProto:
    """A copy of the model in which large initializers have type and shape but no data."""
    light = ModelProto(ir_version=model.ir_version)
    light.opset_import.extend(model.opset_import)
    light.functions.extend(model.functions)
    graph = light.graph
    graph.name = model.graph.name
    for part in ("node", "input", "output", "value_info", "sparse_initializer"):
        getattr(graph, part).extend(getattr(model.graph, part))
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= MAX_VALUE_ELEMENTS and tensor.data_location != TensorProto.EXTERNAL:
            graph.initializer.add().CopyFrom(tensor)
        else:
            graph.initializer.add(
                name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, data_location=TensorProto.EXTERNAL
            )
    return light


@dataclass(slots=True)
class _Reader:
    """One reading of one model: what is known of each tensor so far."""

    model: ModelProto
    folder: Path | None
    input_shapes: Mapping[str, Sequence[int]]
    types: dict[str, Typed] = field(default_factory=dict)
    protos: dict[str, TypeProto] = field(default_factory=dict)
    constants: dict[str, Constant] = field(default_factory=dict)
    declared: dict[str, Typed] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    versions: dict[str, int] = field(default_factory=dict)
    folded: int = 0
    inputs: set[str] = field(default_factory=set)

    def read(self) -> Graph:
        graph = self.model.graph
        for opset in self.model.opset_import:
            self.versions[_domain(opset.domain)] = opset.version
        self._take_initializers()
        inputs = [value for value in graph.input if value.name not in self.constants]
        bindings = self._bind(inputs)
        self.inputs = {value.name for value in inputs}
        for value in (*graph.value_info, *graph.output):
            self.declared[value.name] = with_bindings(typed(value.type), bindings)
        kept = [(position, node) for position, node in enumerate(graph.node) if not self._visit(node)]
        layers = self._layers(kept)
        self._note_what_is_free(layers)
        outputs = tuple(self._tensor(value.name, "output") for value in graph.output)
        return Graph(
            name=graph.name,
            opset=dict(self.versions),
            inputs=tuple(self._tensor(value.name, "input") for value in inputs),
            outputs=outputs,
            layers=layers,
            constants=self.folded,
            notes=tuple(self.notes),
            stored=tuple(self._tensor(name, "weight") for name in sorted(_sources(layers))),
        )

    def _take_initializers(self) -> None:
        graph = self.model.graph
        names = {value.name for value in graph.input}
        overridable = 0
        for tensor in graph.initializer:
            self._constant(tensor.name, Typed(type_name(tensor.data_type), tuple(tensor.dims)), self._value(tensor))
            overridable += tensor.name in names
        for sparse in graph.sparse_initializer:
            name = sparse.values.name
            self._constant(name, Typed(type_name(sparse.values.data_type), tuple(sparse.dims)), None)
        if overridable and self.model.ir_version >= 4:
            self.notes.append(f"{overridable} initializers are inputs too; their defaults are taken as constants")

    def _value(self, tensor: TensorProto) -> np.ndarray[Any, Any] | None:
        """The data of a small tensor; None where it is large or kept apart."""
        if math.prod(tensor.dims) > MAX_VALUE_ELEMENTS:
            return None
        if tensor.data_location == TensorProto.EXTERNAL:
            small = math.prod(tensor.dims) <= MAX_SETTING_ELEMENTS
            if not small or self.folder is None or not tensor.external_data:
                return None
            take_in_data(tensor, self.folder)
        return np.asarray(numpy_helper.to_array(tensor))

    def _constant(
        self, name: str, kind: Typed, value: np.ndarray[Any, Any] | None, sources: tuple[str, ...] | None = None
    ) -> None:
        """Records a constant; without `sources` it is stored itself."""
        size = elements_of(kind.shape)
        if size is not None and (stored_bytes(kind.element_type, size) or 0) > MAX_CONSTANT_BYTES:
            raise ModelError(
                f"constant {name!r} of shape {list(kind.shape or ())} is larger than {MAX_CONSTANT_BYTES >> 30} GiB",
                hint="the model is damaged or not meant for this machine",
            )
        self.types[name] = kind
        self.constants[name] = Constant(value, (name,) if sources is None else sources)

    def _bind(self, inputs: Sequence[ValueInfoProto]) -> dict[str, int]:
        """Types the inputs, with `input_shapes` applied; returns the size of each named dimension that got one."""
        unknown = sorted(set(self.input_shapes) - {value.name for value in inputs})
        if unknown:
            names = [value.name for value in inputs]
            near = difflib.get_close_matches(unknown[0], names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"its inputs are {', '.join(names) or 'none'}"
            raise ModelError(f"the model has no input {unknown[0]!r}", hint=hint)
        bindings: dict[str, int] = {}
        for value in inputs:
            declared = typed(value.type)
            if not value.type.HasField("tensor_type"):
                self.protos[value.name] = value.type
            asked = self.input_shapes.get(value.name)
            self.types[value.name] = declared if asked is None else with_shape(value.name, declared, asked, bindings)
        for value in inputs:
            self.types[value.name] = with_bindings(self.types[value.name], bindings)
        return bindings

    def _visit(self, node: NodeProto) -> bool:
        """Types the outputs of a node; returns whether it only computes constants and is folded."""
        domain = _domain(node.domain)
        for name in node.input:
            if name and name not in self.types:
                self.types[name] = self.declared.get(name, UNKNOWN)
        foldable = is_foldable(node, self.constants)
        shape_of = self.types[node.input[0]].shape if node.op_type in ("Shape", "Size") and domain == "" else None
        if shape_of is not None and all(isinstance(dim, int) for dim in shape_of):
            self._fold_shape(node, shape_of)
            return True
        outcomes = self._infer(node, domain)
        if not foldable:
            for name, outcome in zip(node.output, outcomes, strict=True):
                if name:
                    self.types[name] = outcome
            return False
        self._fold(node, outcomes)
        return True

    def _fold_shape(self, node: NodeProto, shape: Shape) -> None:
        sizes = np.array(shape, dtype=np.int64)
        if node.op_type == "Size":
            value = np.array(math.prod(int(size) for size in sizes), dtype=np.int64)
        else:
            attributes = {attribute.name: attribute.i for attribute in node.attribute}
            value = sizes[attributes.get("start", 0) : attributes.get("end", len(sizes))]
        self._constant(node.output[0], Typed("int64", value.shape), value, ())
        self.folded += 1

    def _fold(self, node: NodeProto, outcomes: Sequence[Typed]) -> None:
        self.folded += 1
        sizes = [elements_of(one.shape) for one in outcomes]
        bounded = all(size is not None and size <= MAX_VALUE_ELEMENTS for size in sizes)
        values = compute(node, self.constants, self.versions) if bounded else None
        sources = sources_of(node, self.constants)
        for position, name in enumerate(node.output):
            if not name:
                continue
            value = values[position] if values and position < len(values) else None
            self._constant(name, outcomes[position], value, sources)

    def _infer(self, node: NodeProto, domain: str) -> list[Typed]:
        """The types of all outputs, from the best source for each."""
        by_schema = self._infer_by_schema(node, domain)
        found = [by_schema.get(name, UNKNOWN) for name in node.output]
        if any(one.shape is None for one, name in zip(found, node.output, strict=True) if name):
            inputs = [self.types[name] if name else None for name in node.input]
            by_rule = infer(domain, node.op_type, inputs, attributes_of(node, self.versions.get(domain, 1)))
            found = [merged(one, other) for one, other in zip_longest(found, by_rule[: len(found)], fillvalue=UNKNOWN)]
        return [merged(one, self.declared.get(name)) for one, name in zip(found, node.output, strict=True)]

    def _infer_by_schema(self, node: NodeProto, domain: str) -> dict[str, Typed]:
        version = self.versions.get(domain)
        schema = schema_of(domain, node.op_type, version) if version else None
        if schema is None or not schema.has_type_and_shape_inference_function or node.op_type in _SUBGRAPH_OPS:
            return {}
        known = {name: self._proto(name) for name in node.input if name}
        values = {
            name: numpy_helper.from_array(constant.value, name)
            for name in known
            if (constant := self.constants.get(name)) is not None
            and constant.value is not None
            and constant.value.size <= MAX_SETTING_ELEMENTS
        }
        opsets = [onnx.OperatorSetIdProto(domain=key, version=number) for key, number in self.versions.items()]
        try:
            found = infer_node_outputs(schema, node, known, values, opset_imports=opsets)
        except (InferenceError, RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
            self.notes.append(f"shape of {node.op_type} {node.output[0]!r} not inferred: {reason}")
            return {}
        self.protos.update((name, proto) for name, proto in found.items() if not proto.HasField("tensor_type"))
        return {name: typed(proto) for name, proto in found.items()}

    def _proto(self, name: str) -> TypeProto:
        proto = self.protos.get(name)
        if proto is None:
            proto = self.protos[name] = type_proto(self.types[name])
        return proto

    def _layers(self, kept: Sequence[tuple[int, NodeProto]]) -> tuple[Layer, ...]:
        names: set[str] = set()
        layers: list[Layer] = []
        outputs = {value.name for value in self.model.graph.output}
        for index, (position, node) in enumerate(kept):
            domain = _domain(node.domain)
            name = node.name or f"{node.op_type}_{position}"
            if name in names:
                name = f"{name}_{position}"
            names.add(name)
            if node.op_type in _SUBGRAPH_OPS:
                self.notes.append(f"{node.op_type} {name!r} has subgraphs: its work depends on the data")
            version = self.versions.get(domain, 1)
            schema = schema_of(domain, node.op_type, version)
            layers.append(
                Layer(
                    index=index,
                    name=name,
                    op=node.op_type,
                    domain=domain,
                    attributes=attributes_of(node, version),
                    inputs=tuple(self._input(node.op_type, at, one) for at, one in enumerate(node.input)),
                    outputs=tuple(
                        self._tensor(one, "output" if one in outputs else "activation") for one in node.output if one
                    ),
                    since=schema.since_version if schema else None,
                    named=bool(node.name),
                )
            )
        return tuple(layers)

    def _input(self, op: str, position: int, name: str) -> Tensor | None:
        if not name:
            return None
        kind = self.types[name]
        constant = self.constants.get(name)
        if constant is None:
            return self._tensor(name, "input" if name in self.inputs else "activation")
        if is_setting(op, position) or is_index_like(kind.element_type, kind.shape):
            return self._tensor(name, "shape-constant")
        return self._tensor(name, "weight")

    def _tensor(self, name: str, role: Role) -> Tensor:
        kind = self.types.get(name) or self.declared.get(name, UNKNOWN)
        size = elements_of(kind.shape)
        constant = self.constants.get(name)
        numbers = constant.value if constant and role == "shape-constant" else None
        shown = numbers is not None and numbers.size <= MAX_SETTING_ELEMENTS and numbers.dtype.kind in "biuf"
        return Tensor(
            name=name,
            element_type=kind.element_type,
            shape=kind.shape,
            role=role,
            value=tuple(numbers.ravel().tolist()) if numbers is not None and shown else None,
            bytes=None if size is None else stored_bytes(kind.element_type, size),
            sources=constant.sources if constant else (),
        )

    def _note_what_is_free(self, layers: Sequence[Layer]) -> None:
        free = sorted({dim for name in self.inputs for dim in self.types[name].shape or () if isinstance(dim, str)})
        if free:
            self.notes.append(f"free dimensions: {', '.join(free)}; give the shapes of the inputs to bind them")
        unknown = sum(any(elements_of(tensor.shape) is None for tensor in layer.outputs) for layer in layers)
        if unknown:
            self.notes.append(f"{unknown} layers have outputs of unknown shape")


def _sources(layers: Sequence[Layer]) -> set[str]:
    inputs = (tensor for layer in layers for tensor in layer.inputs if tensor and tensor.role == "weight")
    return {source for tensor in inputs for source in tensor.sources}


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain
