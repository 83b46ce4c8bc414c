"""A brick as an ONNX model: a skeleton without names or weights to keep and hand on, and the model with seeded ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from stratoscope.errors import ModelError
from stratoscope.graph.attributes import schema_of
from stratoscope.graph.bricks import Brick, make_brick
from stratoscope.graph.constant_folding import MAX_VALUE_ELEMENTS
from stratoscope.graph.element_types import is_floating, is_quantized, stored_bytes, type_code, type_name
from stratoscope.graph.ir import Layer, Tensor
from stratoscope.graph.onnx_reader import read_graph

#: Of the models that are made; the newest that the runtimes of the last years read, and needed for 4-bit types.
IR_VERSION: Final = 10
#: Nothing larger is given weights: a suite is foreign data until it has been checked.
MAX_WEIGHT_BYTES: Final = 1 << 34
MAX_SKELETON_BYTES: Final = 1 << 24
_BLOCK: Final = 1 << 20  # random numbers that are drawn; larger weights repeat them
#: Operators whose one-dimensional or scalar weights sit near 1: scales, variances, divisors, exponents.
_NEAR_ONE: Final = frozenset({"Mul", "Div", "Pow", "PRelu", "Sqrt", "QuantizeLinear", "DequantizeLinear", "Max"})
_LOOKUPS: Final = frozenset({"Gather", "GatherElements", "Embedding"})


def skeleton(brick: Brick) -> bytes:
    """The brick's ONNX message with neutral names and weights that have type and shape but no data.

    It depends on what the key digests only: nothing of the model's names, texts or numbers is in it, except the values
    of settings (shapes, axes, pads). Raises ModelError where the brick has a `problem`.
    """
    if brick.problem:
        raise ModelError(f"brick {brick.slug} cannot be built: {brick.problem}", hint="choose another cutting rule")
    names: dict[str, str] = {tensor.name: f"input_{number}" for number, tensor in enumerate(brick.inputs)}
    names |= {tensor.name: f"output_{number}" for number, tensor in enumerate(brick.outputs)}
    graph = onnx.GraphProto(name="brick")
    for number, layer in enumerate(brick.layers):
        inputs = [_input_name(graph, names, layer, number, place) for place in range(len(layer.inputs))]
        outputs = [names.setdefault(one.name, f"layer_{number}_{place}") for place, one in enumerate(layer.outputs)]
        graph.node.append(_node(layer, inputs, outputs))
    for tensor in brick.inputs:
        graph.input.append(_value_info(names[tensor.name], tensor))
    for tensor in brick.outputs:
        graph.output.append(_value_info(names[tensor.name], tensor))
    opsets = [helper.make_opsetid(domain, version) for domain, version in sorted(brick.opset.items())]
    model = ModelProto(ir_version=IR_VERSION, producer_name="stratoscope", graph=graph)
    model.opset_import.extend(opsets)
    return bytes(model.SerializeToString(deterministic=True))


def _input_name(graph: onnx.GraphProto, names: dict[str, str], layer: Layer, number: int, place: int) -> str:
    """The new name of an input; adds the tensor to the graph where it is a constant that is not there yet."""
    tensor = layer.inputs[place]
    if tensor is None:
        return ""
    if tensor.role == "weight":
        if tensor.name not in names:
            names[tensor.name] = f"weight_{number}_{place}"
            graph.initializer.add(name=names[tensor.name], data_type=_code(tensor), dims=_dims(tensor))
        return names[tensor.name]
    if tensor.role == "shape-constant":
        first = next(at for at, one in enumerate(layer.inputs) if one is not None and one.name == tensor.name)
        name = f"setting_{number}_{first}"
        if first < place:  # one tensor in two places stays one: that is in the key
            return name
        values = np.array(tensor.value, dtype=helper.tensor_dtype_to_np_dtype(_code(tensor)))
        graph.initializer.append(numpy_helper.from_array(values.reshape(_dims(tensor)), name))
        return name
    return names[tensor.name]


def _node(layer: Layer, inputs: Sequence[str], outputs: Sequence[str]) -> NodeProto:
    node = NodeProto(op_type=layer.op, domain=layer.domain, input=inputs, output=outputs)
    schema = schema_of(layer.domain, layer.op, layer.since or 1) if layer.since else None
    for name, value in layer.attributes.items():
        kind = int(schema.attributes[name].type.value) if schema and name in schema.attributes else None
        if value is None or name == "doc_string" or (kind is None and value == ()):
            continue
        node.attribute.append(_attribute(name, value, kind))
    return node


def _attribute(name: str, value: Any, kind: int | None) -> AttributeProto:
    if kind == AttributeProto.TENSOR:
        element_type, shape, values = value
        if values is None or element_type == "string":
            raise ModelError(f"attribute {name!r} holds a tensor that is not kept", hint="choose another cutting rule")
        array = np.array(values, dtype=helper.tensor_dtype_to_np_dtype(type_code(element_type))).reshape(shape)
        return helper.make_attribute(name, numpy_helper.from_array(array))
    return helper.make_attribute(name, list(value) if isinstance(value, tuple) else value, attr_type=kind)


def _value_info(name: str, tensor: Tensor) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, _code(tensor), _dims(tensor))


def _code(tensor: Tensor) -> int:
    return type_code(tensor.element_type)


def _dims(tensor: Tensor) -> list[int]:
    return [int(dim) for dim in tensor.shape or ()]


def parse_skeleton(content: bytes) -> ModelProto:
    """The message of a skeleton, checked: its size, its operators' form, and how much its weights would take.

    Raises ModelError where it is not such a message.
    """
    if len(content) > MAX_SKELETON_BYTES:
        raise ModelError(f"a brick of {len(content)} bytes is too large: at most {MAX_SKELETON_BYTES}")
    model = ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise ModelError("a brick's bytes are not an ONNX message", hint="the suite is damaged") from error
    if not model.graph.node or not model.graph.output:
        raise ModelError("a brick holds no network", hint="the suite is damaged")
    weights = 0
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            raise ModelError("a brick refers to a file outside the suite", hint="take suites from whom you trust")
        if any(dim < 0 for dim in tensor.dims) or type_name(tensor.data_type) is None:
            raise ModelError("a brick's weight has no valid type and shape", hint="the suite is damaged")
        weights += stored_bytes(type_name(tensor.data_type), math.prod(tensor.dims)) or 0
    if weights > MAX_WEIGHT_BYTES:
        raise ModelError(f"a brick's weights would take {weights >> 30} GiB: at most {MAX_WEIGHT_BYTES >> 30}")
    return model


def key_of(content: bytes) -> str:
    """The key of the brick that a skeleton is, computed anew: it says whether a skeleton is what its key claims.

    Raises ModelError as `parse_skeleton` and `read_graph` do.
    """
    model = parse_skeleton(content)
    for tensor in model.graph.initializer:
        if tensor.name.startswith("weight_"):  # its numbers are not in the key: they need not be drawn
            size = stored_bytes(type_name(tensor.data_type), math.prod(tensor.dims)) or 0
            if math.prod(tensor.dims) <= MAX_VALUE_ELEMENTS:
                tensor.raw_data = bytes(size)
    graph = read_graph(model)
    return make_brick(graph.layers, graph.outputs, graph.opset).key


def with_weights(content: bytes, seed: int = 0) -> bytes:
    """The complete ONNX model of a skeleton: its weights drawn from `seed`, of trained magnitude.

    Matrices are normal with variance 2 / fan-in, scales and variances near 1, biases near 0, indices inside the table
    that they look up. Weights of more than a million elements repeat a block of them. Raises ModelError as
    `parse_skeleton` does.
    """
    model = parse_skeleton(content)
    generator = np.random.Generator(np.random.PCG64(seed))
    block = generator.standard_normal(_BLOCK, dtype=np.float32)
    shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in model.graph.input}
    shapes |= {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    reader = {name: (node, place) for node in reversed(model.graph.node) for place, name in enumerate(node.input)}
    for tensor in model.graph.initializer:
        if tensor.raw_data or not tensor.name.startswith("weight_"):
            continue
        node, place = reader[tensor.name]
        values = _values(tensor, node, place, shapes, generator, block)
        tensor.raw_data = values.tobytes()
    return bytes(model.SerializeToString())


def _values(
    tensor: TensorProto,
    node: NodeProto,
    place: int,
    shapes: dict[str, list[int]],
    generator: np.random.Generator,
    block: np.ndarray[Any, Any],
) -> np.ndarray[Any, Any]:
    dims = tuple(tensor.dims)
    name = type_name(tensor.data_type)
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    count = math.prod(dims)
    if is_floating(name):
        near_one = node.op_type in _NEAR_ONE or ("Normalization" in node.op_type and place in (1, 4))
        offset, spread = (1.0, 0.05) if near_one and len(dims) <= 1 else (0.0, 0.05)
        if len(dims) > 1:
            fan_in = math.prod(dims[1:]) if "Conv" in node.op_type else dims[-2]
            spread = math.sqrt(2 / max(fan_in, 1))
        values = np.resize(block, count).reshape(dims)
        return np.asarray(values * np.float32(spread) + np.float32(offset)).astype(dtype)
    if name in ("int4", "uint4", "int2", "uint2", "float4_e2m1fn"):
        return generator.integers(0, 256, stored_bytes(name, count), dtype=np.uint8)
    if is_quantized(name):
        return generator.integers(0, 256, dims, dtype=np.uint8).view(dtype) if len(dims) > 1 else np.zeros(dims, dtype)
    if node.op_type in _LOOKUPS and place == 1:
        axis = next((one.i for one in node.attribute if one.name == "axis"), 0)
        table = shapes.get(node.input[0])
        rows = table[axis] if table and -len(table) <= axis < len(table) else 1
        return generator.integers(0, max(rows, 1), dims).astype(dtype)
    ones = name == "bool" or node.op_type in ("Div", "Mod", "Mul", "Pow")
    return np.ones(dims, dtype) if ones else np.zeros(dims, dtype)


def index_ranges(model: ModelProto) -> dict[str, int]:
    """Of each integer input of a model the number of valid values, 0 to n - 1, as its look-ups and conditions tell.

    An input that is looked up with has the rows of its smallest table; others have 2, which is right for masks and
    segment ids.
    """
    shapes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    shapes |= {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.value_info)
    }
    integers = {
        value.name
        for value in model.graph.input
        if (type_name(value.type.tensor_type.elem_type) or "").startswith(("int", "uint"))
    }
    ranges: dict[str, int] = {}
    origin = {name: name for name in integers}
    for node in model.graph.node:
        if node.op_type in ("Cast", "Reshape", "Unsqueeze", "Squeeze", "Identity", "Flatten") and node.input:
            if node.input[0] in origin:
                origin[node.output[0]] = origin[node.input[0]]
        elif node.op_type in _LOOKUPS and len(node.input) > 1 and node.input[1] in origin:
            axis = next((one.i for one in node.attribute if one.name == "axis"), 0)
            table = shapes.get(node.input[0])
            if table:
                source = origin[node.input[1]]
                ranges[source] = min(ranges.get(source, table[axis]), table[axis])
    return {name: ranges.get(name, 2) for name in sorted(integers)}
