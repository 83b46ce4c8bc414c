"""Attributes of nodes as plain values, with the defaults of their operator set."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper

from stratoscope.graph.element_types import type_name
from stratoscope.graph.microsoft_defaults import MICROSOFT_DEFAULTS

_MAX_TENSOR_ELEMENTS: Final = 1024


@lru_cache(maxsize=1024)
def schema_of(domain: str, op: str, version: int) -> onnx.defs.OpSchema | None:
    """The definition of an operator in a version of its operator set; None where onnx does not know it."""
    try:
        return onnx.defs.get_schema(op, version, domain)
    except onnx.defs.SchemaError:
        return None


@lru_cache(maxsize=1024)
def _defaults(domain: str, op: str, version: int) -> Mapping[str, Any]:
    schema = schema_of(domain, op, version)
    if schema is None:
        return MICROSOFT_DEFAULTS.get(op, {}) if domain == "com.microsoft" else {}
    return {
        name: plain_value(attribute.default_value)
        for name, attribute in schema.attributes.items()
        if attribute.default_value.type != AttributeProto.UNDEFINED
    }


def attributes_of(node: NodeProto, version: int) -> dict[str, Any]:
    """All attributes that are in effect, sorted by name: the node's own, then the defaults."""
    values = dict(_defaults(node.domain, node.op_type, version))
    values.update((attribute.name, plain_value(attribute)) for attribute in node.attribute)
    return dict(sorted(values.items()))


def plain_value(attribute: AttributeProto) -> Any:
    """Numbers, strings and tuples of them; a tensor as (type, shape, values); a graph as its digest."""
    if attribute.type == AttributeProto.TENSOR:
        return _plain_tensor(attribute.t)
    if attribute.type == AttributeProto.TENSORS:
        return tuple(_plain_tensor(tensor) for tensor in attribute.tensors)
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, (int, str)):
        return value
    if isinstance(value, float):
        return _shortest(value)
    if hasattr(value, "SerializeToString"):
        return _digest(value)
    return tuple(_item(item) for item in value)


def _item(item: Any) -> Any:
    if isinstance(item, bytes):
        return item.decode("utf-8", "replace")
    if isinstance(item, float):
        return _shortest(item)
    return _digest(item) if hasattr(item, "SerializeToString") else item


def _shortest(value: float) -> float:
    """ONNX stores attributes in single precision: the shortest decimal that means the same (1e-05, not 9.99...e-06)."""
    return float(str(np.float32(value)))


def _digest(message: Any) -> str:
    return "sha256:" + hashlib.sha256(message.SerializeToString(deterministic=True)).hexdigest()


def _plain_tensor(tensor: TensorProto) -> tuple[Any, ...]:
    shape = tuple(tensor.dims)
    elements = 1
    for dim in shape:
        elements *= dim
    if elements > _MAX_TENSOR_ELEMENTS or tensor.data_location == TensorProto.EXTERNAL:
        return (type_name(tensor.data_type), shape, None)
    if tensor.data_type == TensorProto.STRING:
        return ("string", shape, tuple(item.decode("utf-8", "replace") for item in tensor.string_data))
    values = numpy_helper.to_array(tensor).astype("float64" if tensor.data_type != TensorProto.INT64 else "int64")
    return (type_name(tensor.data_type), shape, tuple(values.ravel().tolist()))
