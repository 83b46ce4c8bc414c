"""Seeded inputs for the model of a part: values that make its operators do what they do in a model."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from onnx import ModelProto, NodeProto, helper

from stratoscope.graph.brick_model import index_ranges
from stratoscope.graph.element_types import is_floating, type_name

#: Deviation of real inputs. One in twenty is beyond six, so that an activation that clips there is not taken for one
#: that does not; nothing is so large that softmax or exp leave the range of normal numbers.
SPREAD: Final = 3.0
_POSITIVE: Final = frozenset({"Sqrt", "Log", "Pow", "Reciprocal", "Div"})
#: Random numbers that are drawn; larger tensors repeat them. A prime: no row repeats the row before it.
_BLOCK: Final = 1_000_003
_SMALLEST: Final = 1e-3  # in magnitude: no zeros, and products of several stay far from denormal numbers


def feeds_for(model: ModelProto, seed: int) -> dict[str, np.ndarray[Any, Any]]:
    """Input name -> array, the same for the same seed; raises ValueError where an input has no fixed shape or type."""
    generator = np.random.Generator(np.random.PCG64([seed, 1]))
    readers = {name: node for node in reversed(model.graph.node) for name in node.input}
    ranges = index_ranges(model)
    held = {tensor.name for tensor in model.graph.initializer}
    feeds: dict[str, np.ndarray[Any, Any]] = {}
    for value in model.graph.input:
        if value.name in held:
            continue
        tensor = value.type.tensor_type
        dims = [dim.dim_value for dim in tensor.shape.dim]
        if any(not dim.HasField("dim_value") for dim in tensor.shape.dim):
            raise ValueError(f"input {value.name!r} has a free dimension")
        feeds[value.name] = _draw(
            type_name(tensor.elem_type),
            helper.tensor_dtype_to_np_dtype(tensor.elem_type),
            dims,
            readers.get(value.name),
            ranges.get(value.name, 2),
            generator,
        )
    return feeds


def _draw(
    name: str | None, dtype: Any, dims: list[int], reader: NodeProto | None, rows: int, generator: np.random.Generator
) -> np.ndarray[Any, Any]:
    count = math.prod(dims)
    if is_floating(name):
        drawn = generator.standard_normal(min(count, _BLOCK), dtype=np.float32) * np.float32(SPREAD)
        drawn = np.where(np.abs(drawn) < _SMALLEST, np.float32(_SMALLEST), drawn)
        if reader is not None and reader.op_type in _POSITIVE:
            drawn = np.abs(drawn) + np.float32(0.1)
        return np.resize(drawn, count).reshape(dims).astype(dtype)
    if name == "bool":
        return generator.integers(0, 2, dims).astype(bool)
    if name in ("int8", "uint8"):
        return generator.integers(0, 256, dims, dtype=np.uint8).view(dtype)
    if name is None or not name.startswith(("int", "uint")):
        raise ValueError(f"no inputs can be drawn of type {name}")
    return generator.integers(0, max(rows, 1), dims).astype(dtype)
