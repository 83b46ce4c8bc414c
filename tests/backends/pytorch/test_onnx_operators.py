"""ONNX operators of transformers as PyTorch modules, held against ONNX Runtime, attribute by attribute."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import NodeProto, helper
from onnx.reference import ReferenceEvaluator

from stratoscope.backends.pytorch.from_onnx import from_onnx
from stratoscope.errors import BackendError
from stratoscope.spec.model import LoadableModel

pytestmark = pytest.mark.torch

Build = Callable[..., LoadableModel]
INT = np.int64
FIRST, LAST = np.iinfo(INT).min, np.iinfo(INT).max


def floats(*shape: int, low: float = -2.0, high: float = 2.0) -> np.ndarray:
    return np.random.default_rng(7).uniform(low, high, shape).astype(np.float32)


def whole(*shape: int, low: int = -5, high: int = 6) -> np.ndarray:
    return np.random.default_rng(7).integers(low, high, shape).astype(INT)


def truth(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 2, shape).astype(bool)


def vector(*values: float) -> np.ndarray:
    return np.array(values, INT)


def graph(
    build: Build,
    nodes: Sequence[NodeProto],
    feeds: Mapping[str, np.ndarray],
    constants: Mapping[str, np.ndarray],
    outputs: Sequence[str],
    opset: int = 18,
) -> LoadableModel:
    inputs = [
        (name, helper.np_dtype_to_tensor_dtype(value.dtype), [None] * value.ndim) for name, value in feeds.items()
    ]
    model = build(nodes, inputs, [(name, 1, None) for name in outputs], dict(constants), opset=opset)
    assert model.path is not None
    stored = onnx.load(model.path)
    for output in stored.graph.output:
        output.ClearField("type")  # ONNX Runtime infers it
    onnx.save(stored, model.path)
    return model


def agree(model: LoadableModel, feeds: Mapping[str, np.ndarray], tolerance: float = 1e-5) -> list[np.ndarray]:
    """Same types, same shapes, same numbers, from ONNX Runtime and from PyTorch."""
    assert model.path is not None
    wanted = onnxruntime.InferenceSession(str(model.path)).run(None, dict(feeds))
    module = from_onnx(model.path)
    with torch.inference_mode():
        got = [value.numpy() for value in module(*(torch.from_numpy(value) for value in feeds.values()))]
    for mine, theirs in zip(got, wanted, strict=True):
        assert (mine.shape, mine.dtype) == (theirs.shape, theirs.dtype)
        np.testing.assert_allclose(mine, theirs, rtol=tolerance, atol=tolerance)
    return got


def check(
    build: Build,
    operator: str,
    inputs: Sequence[np.ndarray | None],
    attributes: Mapping[str, Any] | None = None,
    *,
    computed: Sequence[int] = (0,),
    outputs: int = 1,
    opset: int = 18,
) -> list[np.ndarray]:
    """One node whose inputs at `computed` are fed, whose other inputs are weights, and None left out."""
    names = ["" if value is None else f"i{place}" for place, value in enumerate(inputs)]
    feeds = {f"i{place}": value for place, value in enumerate(inputs) if value is not None and place in computed}
    weights = {f"i{place}": value for place, value in enumerate(inputs) if value is not None and place not in computed}
    results = [f"o{place}" for place in range(outputs)]
    node = helper.make_node(operator, names, results, name="node", **(attributes or {}))
    return agree(graph(build, [node], feeds, weights, results, opset), feeds)


@pytest.mark.parametrize("offset", [True, False])
@pytest.mark.parametrize(
    ("axis", "shape"), [(-1, (5,)), (-2, (4, 5)), (1, (3, 4, 5)), (0, (2, 3, 4, 5)), (2, (5,)), (-1, (1,))]
)
def test_layer_normalisation_from_any_axis_with_any_scale_that_broadcasts(
    build: Build, axis: int, shape: tuple[int, ...], offset: bool
) -> None:
    inputs = [floats(2, 3, 4, 5), floats(*shape), *([floats(*shape) + 1] if offset else [])]
    check(build, "LayerNormalization", inputs, {"axis": axis, "epsilon": 0.1})


def test_layer_normalisation_has_its_own_axis_and_epsilon_where_none_are_given(build: Build) -> None:
    check(build, "LayerNormalization", [floats(3, 8) * 1e-3, floats(8), floats(8)])


@pytest.mark.parametrize(
    ("operator", "low"),
    [
        *((name, -2.0) for name in ("Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "HardSwish", "Neg", "Round", "Sign")),
        *((name, -2.0) for name in ("Sin", "Softplus", "Elu", "HardSigmoid", "Reciprocal", "LogSoftmax")),
        *((name, 0.1) for name in ("Log", "Sqrt")),
    ],
)
def test_function_of_one_number(build: Build, operator: str, low: float) -> None:
    check(build, operator, [floats(3, 4, 5, low=low)])


def test_halves_are_rounded_to_even(build: Build) -> None:
    value = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5], np.float32)
    np.testing.assert_array_equal(check(build, "Round", [value])[0], [-2, -2, 0, 0, 2, 2])


@pytest.mark.parametrize("computed", [(0, 1), (0,), (1,)])
@pytest.mark.parametrize(
    "operator",
    [*("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Mean", "Sum"), "PRelu"],
)
def test_two_operands_broadcast_whichever_is_a_weight(build: Build, operator: str, computed: tuple[int, ...]) -> None:
    check(build, operator, [floats(2, 3, 4, low=0.1), floats(3, 1, low=0.1)], computed=computed)


@pytest.mark.parametrize("operator", ["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"])
def test_comparison_of_whole_numbers(build: Build, operator: str) -> None:
    check(build, operator, [whole(4, 6), whole(6)], computed=(0, 1))


@pytest.mark.parametrize("operator", ["And", "Or", "Xor"])
def test_logic_broadcasts(build: Build, operator: str) -> None:
    check(build, operator, [truth(4, 6), truth(4, 1)], computed=(0, 1))


def test_negation_of_truth_and_the_search_for_no_number(build: Build) -> None:
    check(build, "Not", [truth(4, 6)])
    check(build, "IsNaN", [np.array([0, np.nan, np.inf], np.float32)])


def test_whole_numbers_are_divided_towards_zero(build: Build) -> None:
    result = check(build, "Div", [vector(7, -7, 7, -7), vector(2, 2, -2, -2)], computed=(0, 1))
    np.testing.assert_array_equal(result[0], [3, -3, -3, 3])


@pytest.mark.parametrize(("fmod", "kind"), [(0, INT), (1, INT), (1, np.float32)])
def test_remainder_has_the_sign_that_its_attribute_says(build: Build, fmod: int, kind: Any) -> None:
    values = np.array([7, -7, 7, -7], kind), np.array([3, 3, -3, -3], kind)
    check(build, "Mod", values, {"fmod": fmod}, computed=(0, 1))


def test_power_keeps_the_type_of_its_base(build: Build) -> None:
    check(build, "Pow", [whole(5), np.array(3.0, np.float32)])
    check(build, "Pow", [floats(5, low=0.5), np.array(2, INT)])


@pytest.mark.parametrize("computed", [(0, 1, 2), (0,), (0, 2)])
def test_choice_broadcasts_all_three_operands(build: Build, computed: tuple[int, ...]) -> None:
    check(build, "Where", [truth(3, 1), floats(2, 1, 4), floats(4)], computed=computed)


def test_extremes_of_three_tensors(build: Build) -> None:
    for operator in ("Max", "Min", "Mean", "Sum"):
        check(build, operator, [floats(2, 3), floats(3)[::-1].copy(), floats(2, 1)], computed=(0, 2))


@pytest.mark.parametrize("target", [np.float64, np.int32, np.int64, np.uint8, np.bool_, np.float16])
def test_conversion_of_the_element_type(build: Build, target: Any) -> None:
    to = helper.np_dtype_to_tensor_dtype(np.dtype(target))
    check(build, "Cast", [np.array([0, 0.4, 1.9, 2.5, 7], np.float32)], {"to": to})
    check(build, "Cast", [vector(0, 1, 5)], {"to": to})


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_exact_and_approximate(build: Build, approximate: str) -> None:
    check(build, "Gelu", [floats(3, 5)], {"approximate": approximate}, opset=20)


@pytest.mark.parametrize(
    "bounds", [{}, {"start": 1}, {"end": -1}, {"start": -2, "end": 3}, {"start": 3, "end": 1}, {"start": -9, "end": 9}]
)
def test_shape_and_its_part(build: Build, bounds: dict[str, int]) -> None:
    check(build, "Shape", [floats(2, 3, 4)], bounds)
    check(build, "Size", [floats(2, 3, 4)])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_slice_takes_what_onnx_runtime_takes_for_any_bounds_and_steps(build: Build, data: st.DataObject) -> None:
    bound = st.integers(-9, 9) | st.sampled_from([FIRST, LAST])
    axes = data.draw(st.lists(st.sampled_from([0, 1, -1]), min_size=1, max_size=3, unique=True))
    starts, ends = (data.draw(st.lists(bound, min_size=len(axes), max_size=len(axes))) for _ in range(2))
    steps = data.draw(st.lists(st.integers(-3, 3).filter(bool), min_size=len(axes), max_size=len(axes)))
    # Backwards to the greatest integer is nothing by the standard, and everything to ONNX Runtime: tested apart.
    ends = [FIRST if end == LAST and step < 0 else end for end, step in zip(ends, steps, strict=True)]
    inputs = [floats(4, 5, 6), vector(*starts), vector(*ends), vector(*axes), vector(*steps)]
    computed = data.draw(st.sampled_from([(0,), (0, 1, 2, 3, 4), (0, 2)]))
    check(build, "Slice", inputs, computed=computed)


def test_slice_backwards_to_the_greatest_integer_is_empty_as_the_standard_says(build: Build) -> None:
    node = helper.make_node("Slice", ["x", "starts", "ends", "axes", "steps"], ["y"])
    constants = {"starts": vector(3), "ends": vector(LAST), "axes": vector(0), "steps": vector(-1)}
    model = graph(build, [node], {"x": floats(4)}, constants, ["y"])
    assert model.path is not None
    (standard,) = ReferenceEvaluator(onnx.load(model.path)).run(None, {"x": floats(4)})
    (got,) = from_onnx(model.path)(torch.from_numpy(floats(4)))
    assert got.shape == standard.shape == (0,)


def test_slice_without_axes_takes_the_first_ones_and_without_steps_every_element(build: Build) -> None:
    check(build, "Slice", [floats(4, 5), vector(1), vector(3)])
    check(build, "Slice", [floats(4, 5), vector(1, 4), vector(3, 0), None, vector(1, -2)])


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("computed", [(0,), (1,), (0, 1)])
@pytest.mark.parametrize(
    "indices", [np.array(-1, INT), np.array(2, INT), vector(0, -3, 2), whole(2, 2, low=-3, high=3)]
)
def test_gather_along_any_axis_by_indices_from_either_end(
    build: Build, axis: int, computed: tuple[int, ...], indices: np.ndarray
) -> None:
    check(build, "Gather", [floats(3, 3, 4), indices], {"axis": axis}, computed=computed)


def test_gather_by_indices_of_32_bits(build: Build) -> None:
    for operator in ("Gather", "GatherElements"):
        indices = whole(3, 2, low=-3, high=3).astype(np.int32)
        check(build, operator, [floats(3, 4), indices], {"axis": 0}, computed=(0, 1))


@pytest.mark.parametrize("axis", [0, -1])
def test_gather_elements(build: Build, axis: int) -> None:
    check(build, "GatherElements", [floats(3, 4), whole(3, 4, low=-3, high=3)], {"axis": axis}, computed=(0, 1))


@pytest.mark.parametrize(
    ("batch", "indices"), [(0, (5, 2)), (0, (2, 2, 3)), (0, (4, 1)), (1, (2, 5, 1)), (1, (2, 2)), (2, (2, 2, 1))]
)
def test_gather_nd_with_batch_dimensions(build: Build, batch: int, indices: tuple[int, ...]) -> None:
    places = whole(*indices, low=-2, high=2)
    check(build, "GatherND", [floats(2, 2, 3), places], {"batch_dims": batch}, computed=(0, 1))


@pytest.mark.parametrize("computed", [(0,), (1,), (0, 1)])
@pytest.mark.parametrize("target", [(2, 3, 4), (4,), (5, 1, 3, 1), (1, 1)])
def test_expand_broadcasts_both_ways(build: Build, target: tuple[int, ...], computed: tuple[int, ...]) -> None:
    check(build, "Expand", [floats(3, 1) if target != (4,) else floats(3, 4), vector(*target)], computed=computed)


@pytest.mark.parametrize(("value", "allow"), [((0, -1), 0), ((3, 2, -1), 0), ((12,), 1), ((-1, 4), 1)])
def test_reshape_to_a_shape_that_is_computed(build: Build, value: tuple[int, ...], allow: int) -> None:
    check(build, "Reshape", [floats(3, 4), vector(*value)], {"allowzero": allow}, computed=(0, 1))


@pytest.mark.parametrize(
    "bounds", [(0, 7, 2), (5, -4, -3), (3, 3, 1), (4, 1, 1), (np.float32(0.5), np.float32(3), np.float32(0.7))]
)
def test_range_from_either_end_in_either_type(build: Build, bounds: tuple[Any, ...]) -> None:
    check(build, "Range", [np.asarray(value) for value in bounds], computed=(1,))


def test_tensor_of_one_value_in_a_computed_shape(build: Build) -> None:
    check(build, "ConstantOfShape", [vector(2, 3)])
    check(build, "ConstantOfShape", [vector(2, 0, 3)], {"value": helper.make_tensor("v", 7, [1], [-4])})


@pytest.mark.parametrize(
    ("inputs", "attributes", "parts"),
    [
        ([floats(6, 4)], {"num_outputs": 3}, 3),
        ([floats(7, 4)], {"num_outputs": 3}, 3),
        ([floats(6, 5), vector(1, 4)], {"axis": -1}, 2),
        ([floats(6, 5), vector(3, 0, 3)], {}, 3),
    ],
)
def test_split_into_parts_even_and_uneven(
    build: Build, inputs: list[np.ndarray], attributes: dict[str, int], parts: int
) -> None:
    check(build, "Split", inputs, attributes, outputs=parts)
    check(build, "Split", inputs, attributes, outputs=parts, computed=(0, 1))


def test_split_of_older_operator_sets_is_in_equal_parts(build: Build) -> None:
    check(build, "Split", [floats(6, 4)], {"axis": 1}, outputs=2, opset=13)


def test_parts_of_a_split_are_told_apart_by_the_layers_after_it(build: Build) -> None:
    nodes = [
        helper.make_node("Split", ["x"], ["a", "b", "c"], num_outputs=3),
        helper.make_node("Sub", ["c", "a"], ["y"]),
    ]
    feeds = {"x": floats(6, 2)}
    agree(graph(build, nodes, feeds, {}, ["y"]), feeds)


@pytest.mark.parametrize(("upper", "diagonal"), [(1, None), (0, None), (1, 1), (0, -2), (1, -1)])
def test_triangle(build: Build, upper: int, diagonal: int | None) -> None:
    inputs = [floats(2, 4, 5), *([] if diagonal is None else [np.array(diagonal, INT)])]
    check(build, "Trilu", inputs, {"upper": upper})


def test_tile_by_weights_and_by_computed_counts(build: Build) -> None:
    for computed in ((0,), (0, 1)):
        check(build, "Tile", [floats(2, 3), vector(3, 2)], computed=computed)


REDUCTIONS = ("L1", "L2", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")


@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("axes", [None, (1,), (-1, 0)])
@pytest.mark.parametrize("kind", REDUCTIONS)
def test_reduction_over_some_or_all_axes(build: Build, kind: str, axes: tuple[int, ...] | None, keep: int) -> None:
    inputs = [floats(3, 4, 5), *([] if axes is None else [vector(*axes)])]
    check(build, f"Reduce{kind}", inputs, {"keepdims": keep})


@pytest.mark.parametrize("kind", ["Max", "Mean", "Min", "Prod", "Sum"])
def test_reduction_over_no_axes_leaves_its_input_where_it_says_so(build: Build, kind: str) -> None:
    check(build, f"Reduce{kind}", [floats(3, 4)], {"noop_with_empty_axes": 1})


def test_axes_of_older_operator_sets_are_attributes(build: Build) -> None:
    check(build, "ReduceMean", [floats(3, 4, 5)], {"axes": [1, -1], "keepdims": 0}, opset=13)


def test_axes_of_a_reduction_are_computed(build: Build) -> None:
    check(build, "ReduceSum", [floats(3, 4, 5), vector(-1)], computed=(0, 1))


@pytest.mark.parametrize(("exclusive", "reverse"), [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_running_sum_in_either_direction(build: Build, exclusive: int, reverse: int) -> None:
    attributes = {"exclusive": exclusive, "reverse": reverse}
    check(build, "CumSum", [floats(3, 5), np.array(-1, INT)], attributes)
    check(build, "CumSum", [whole(3, 5), np.array(0, INT)], attributes)


@pytest.mark.parametrize("operator", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("attributes", [{}, {"axis": -1, "keepdims": 0}])
def test_place_of_the_extreme(build: Build, operator: str, attributes: dict[str, int]) -> None:
    check(build, operator, [floats(3, 5)], attributes)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_softmax_along_any_axis(build: Build, axis: int) -> None:
    check(build, "Softmax", [floats(3, 4, 5)], {"axis": axis})
    check(build, "LogSoftmax", [floats(3, 4, 5)], {"axis": axis})


def test_bound_that_is_left_out_is_none(build: Build) -> None:
    check(build, "Clip", [floats(9), None, np.array(0.5, np.float32)])


@pytest.mark.parametrize(
    "attributes", [{"value_int": 3}, {"value_ints": [3, 4]}, {"value_float": 0.5}, {"value_floats": [0.5, 2.0]}]
)
def test_constant_given_as_plain_numbers(build: Build, attributes: dict[str, Any]) -> None:
    kind = np.float32 if "float" in next(iter(attributes)) else INT
    feeds = {"x": np.array([[1], [2]], kind)}
    nodes = [helper.make_node("Constant", [], ["c"], **attributes), helper.make_node("Mul", ["x", "c"], ["y"])]
    agree(graph(build, nodes, feeds, {}, ["y"]), feeds)


def test_parts_of_a_weight_are_split_when_the_module_is_made(build: Build) -> None:
    nodes = [
        helper.make_node("Split", ["w"], ["a", "b"], axis=0, num_outputs=2),
        helper.make_node("Add", ["x", "b"], ["y"], name="add"),
    ]
    feeds = {"x": floats(2, 3)}
    model = graph(build, nodes, feeds, {"w": floats(4, 3)}, ["y"])
    agree(model, feeds)
    assert model.path is not None
    assert [name for name, _ in from_onnx(model.path).named_children()] == ["add"]


def test_mask_over_a_computed_length_goes_through_shape_range_expand_and_where(build: Build) -> None:
    """A causal mask as exporters write it: nothing of it is known before the length is."""
    nodes = [
        helper.make_node("Shape", ["x"], ["length"], start=1, end=2),
        helper.make_node("Squeeze", ["length"], ["n"]),
        helper.make_node("Range", ["zero", "n", "one"], ["places"]),
        helper.make_node("Unsqueeze", ["places", "last"], ["rows"]),
        helper.make_node("LessOrEqual", ["places", "rows"], ["seen"]),
        helper.make_node("Concat", ["length", "length"], ["square"], axis=0),
        helper.make_node("Expand", ["seen", "square"], ["mask"]),
        helper.make_node("Where", ["mask", "nothing", "least"], ["bias"]),
        helper.make_node("Add", ["x", "bias"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["y"], axis=-1),
    ]
    constants = {
        "zero": np.array(0, INT),
        "one": np.array(1, INT),
        "last": vector(-1),
        "nothing": np.array(0, np.float32),
        "least": np.array(np.finfo(np.float32).min, np.float32),
    }
    for length in (1, 6):
        feeds = {"x": floats(2, length, length)}
        (result,) = agree(graph(build, nodes, feeds, constants, ["y"]), feeds)
        assert not np.triu(result, 1).any()


@pytest.mark.parametrize(
    ("node", "why"),
    [
        (helper.make_node("Cast", ["x"], ["y"], name="odd", to=8), "element type STRING"),
        (helper.make_node("ArgMax", ["x"], ["y"], name="odd", select_last_index=1), "select_last_index"),
        (helper.make_node("LayerNormalization", ["x", "w"], ["y"], name="odd", stash_type=11), "stash_type"),
        (helper.make_node("LayerNormalization", ["x", "x"], ["y"], name="odd"), "input 1 is computed"),
        (helper.make_node("LayerNormalization", ["x", "w"], ["z", "y"], name="odd"), "more than its first output"),
        (helper.make_node("ReduceL2", ["x"], ["y"], name="odd", noop_with_empty_axes=1), "noop_with_empty_axes"),
    ],
)
def test_case_that_pytorch_has_not_is_refused_by_node_and_reason(build: Build, node: NodeProto, why: str) -> None:
    model = graph(build, [node], {"x": floats(2, 3)}, {"w": floats(3)}, ["y"])
    assert model.path is not None
    with pytest.raises(BackendError, match="'odd'") as refused:
        from_onnx(model.path)
    assert why in str(refused.value)


def test_split_into_equal_parts_that_do_not_come_out_is_refused(build: Build) -> None:
    node = helper.make_node("Split", ["x"], ["a", "b"], name="odd")
    model = graph(build, [node], {"x": floats(5)}, {}, ["a", "b"], opset=13)
    assert model.path is not None
    with pytest.raises(BackendError, match="5 elements into 2 equal parts"):
        from_onnx(model.path)(torch.zeros(5))
