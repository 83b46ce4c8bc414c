"""Inputs of a graph and the binding of their free dimensions."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from stratoscope.errors import ModelError
from stratoscope.models.signature import batch_symbols, bind, read_signature
from stratoscope.spec.model import ModelManifest, TensorSpec


def manifest(**inputs: tuple[int | str, ...]) -> ModelManifest:
    specs = tuple(TensorSpec(name=name, element_type="float32", shape=shape) for name, shape in inputs.items())
    return ModelManifest(id="m", inputs=specs)


def shapes(bound: ModelManifest) -> dict[str, tuple[int | str, ...]]:
    return {spec.name: spec.shape for spec in bound.inputs}


def graph(*values: Any, initializers: tuple[Any, ...] = ()) -> Any:
    nodes = [helper.make_node("Identity", [values[0].name], ["y"])]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT16, ["N", None])
    return helper.make_model(helper.make_graph(nodes, "g", list(values), [output], list(initializers)))


def test_free_dimensions_keep_their_names_and_nameless_ones_get_the_name_of_their_place() -> None:
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, None, 224])
    weight = helper.make_tensor_value_info("w", TensorProto.FLOAT, [2])
    held = helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0])
    inputs, outputs = read_signature(graph(image, weight, initializers=(held,)))
    assert inputs == (TensorSpec(name="x", element_type="float32", shape=("N", 3, "x.2", 224)),)
    assert outputs == (TensorSpec(name="y", element_type="float16", shape=("N", "y.1")),)


def test_an_input_that_is_no_tensor_is_refused() -> None:
    sequence = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)
    with pytest.raises(ModelError, match=r"input 's' is a sequence_type"):
        read_signature(graph(sequence))


def test_an_input_of_unknown_rank_is_refused() -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, None)
    with pytest.raises(ModelError, match=r"input 'x' has no declared rank"):
        read_signature(graph(value))


@pytest.mark.parametrize(
    ("inputs", "symbols"),
    [
        ({"x": ("N", 3)}, {"N"}),
        ({"ids": ("batch", 128), "mask": ("batch", 128)}, {"batch"}),
        ({"a": ("a.0", 3), "b": ("b.0", 3)}, {"a.0", "b.0"}),
        ({"x": (1, 3)}, set()),
        ({"x": ("N", 3), "threshold": ()}, set()),
        ({"x": ("N", 3), "anchors": (9, 4)}, set()),
        ({"x": ("rows", 3), "y": ("columns", 3)}, set()),
        ({}, set()),
    ],
)
def test_the_batch_is_dimension_0_where_all_inputs_leave_it_free(
    inputs: dict[str, tuple[int | str, ...]], symbols: set[str]
) -> None:
    assert batch_symbols(manifest(**inputs).inputs) == symbols


def test_nobody_binds_the_batch_and_it_is_one() -> None:
    bound, axis = bind(manifest(x=("N", 3, 224, 224)))
    assert shapes(bound) == {"x": (1, 3, 224, 224)}
    assert axis == 0


@given(st.integers(1, 10_000))
def test_the_batch_size_binds_every_input(batch: int) -> None:
    bound, _ = bind(manifest(a=("a.0", 3), b=("b.0", 5)), batch_size=batch)
    assert shapes(bound) == {"a": (batch, 3), "b": (batch, 5)}


def test_a_shape_of_one_input_binds_the_dimensions_that_others_share() -> None:
    bound, _ = bind(manifest(ids=("N", "length"), mask=("N", "length")), shapes={"ids": (2, 64)})
    assert shapes(bound) == {"ids": (2, 64), "mask": (2, 64)}


def test_a_shape_has_precedence_over_defaults_and_these_over_one() -> None:
    bound, _ = bind(manifest(x=("N", "h", "w")), shapes={"x": (2, 7, 8)}, defaults={"N": 4, "h": 5, "w": 6})
    assert shapes(bound) == {"x": (2, 7, 8)}
    bound, _ = bind(manifest(x=("N", "h", "w")), batch_size=3, defaults={"N": 4, "h": 5, "w": 6})
    assert shapes(bound) == {"x": (3, 5, 6)}


def test_a_graph_with_a_fixed_batch_takes_that_batch_and_no_other() -> None:
    bound, axis = bind(manifest(x=(8, 3)), batch_size=8)
    assert (shapes(bound), axis) == ({"x": (8, 3)}, None)
    with pytest.raises(ModelError, match=r"no free batch dimension.*its inputs are x=\[8,3\]"):
        bind(manifest(x=(8, 3)), batch_size=4)


@pytest.mark.parametrize(
    ("given_shapes", "batch_size", "message"),
    [
        ({"image": (1, 3, 8)}, None, r"no input 'image'; its inputs are x=\[N,3,h\]"),
        ({"x": (1, 3)}, None, r"\[1,3\] for input 'x' of 'm' has 2 dimensions, not 3"),
        ({"x": (1, 4, 8)}, None, r"size 4 for a dimension fixed at 3 of input 'x'"),
        ({"x": (0, 3, 8)}, None, r"size 0 for input 'x' of 'm' is not positive"),
        ({"x": (1, 3, -8)}, None, r"size -8 for input 'x' of 'm' is not positive"),
        ({"x": (2, 3, 8)}, 4, r"size 4 for dimension 'N', already 2, of input 'x'"),
        ({}, 0, r"batch size 0 for model 'm' is not positive"),
        ({}, None, r"free dimensions without a value: h; its inputs are x=\[N,3,h\] .*--shape x=1,3,1"),
    ],
)
def test_a_shape_that_does_not_fit_is_explained(
    given_shapes: dict[str, tuple[int, ...]], batch_size: int | None, message: str
) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        bind(manifest(x=("N", 3, "h")), shapes=given_shapes, batch_size=batch_size)
    assert "\n" not in str(caught.value)


def test_the_free_length_of_a_vector_is_not_taken_for_a_batch() -> None:
    with pytest.raises(ModelError, match="without a value: length"):
        bind(manifest(x=("N", 3), lengths=("length",)))
