"""Layers as one-node models: what is an input, what a weight, what keeps its value, and what is the same layer."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from stratoscope.graph.brick_model import with_weights
from stratoscope.graph.onnx_reader import read_graph
from stratoscope.measure.parts import RunnablePart, layer_parts
from stratoscope.measure.parts.feeds import feeds_for

TINY = float(np.finfo(np.float32).tiny)


def run(part: RunnablePart) -> list[np.ndarray]:
    content = with_weights(part.model, part.feeds_seed)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    outputs: list[np.ndarray] = session.run(None, feeds_for(onnx.load_model_from_string(content), part.feeds_seed))
    return outputs


def only(parts: list[RunnablePart]) -> RunnablePart:
    assert len(parts) == 1
    assert parts[0].problem is None
    return parts[0]


def test_equal_layers_are_one_part_whatever_their_names_and_weights(small: ModuleType) -> None:
    weights = [small.weight("a", small.random(4, 4)), small.weight("b", 2 * small.random(4, 4))]
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"], name="first"),
        helper.make_node("MatMul", ["h", "b"], ["y"], name="second"),
    ]
    model = small.model_of(nodes, [small.value("x", (2, 4))], [small.value("y", (2, 4))], weights)
    assert only(small.parts_of(model)).part.operators == ("MatMul",)


@pytest.mark.parametrize("pads", [[1, 0, 1, 0], [0, 1, 1, 0], [0, 0, 2, 2], [0, 0, 0, 0]])
def test_every_side_of_a_padding_is_kept(small: ModuleType, pads: list[int]) -> None:
    part = only(small.parts_of(small.one("Conv", (1, 2, 5, 5), small.random(3, 2, 3, 3), pads=pads)))
    (out,) = run(part)
    assert out.shape == (1, 3, 3 + pads[0] + pads[2], 3 + pads[1] + pads[3])


def test_paddings_of_different_sides_are_different_parts(small: ModuleType) -> None:
    sides = ([1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 0, 0], [0, 0, 1, 0])
    keys = {
        only(small.parts_of(small.one("Conv", (1, 2, 5, 5), small.random(3, 2, 3, 3), pads=pads))).part.digest
        for pads in sides
    }
    assert len(keys) == 4


def test_activations_are_inputs_and_weights_are_initialisers_without_the_users_numbers(small: ModuleType) -> None:
    secret = np.full((16, 8), 0.1234567, np.float32)
    part = only(small.parts_of(small.one("MatMul", (2, 16), secret)))
    graph = onnx.load_model_from_string(part.model).graph
    assert [one.name for one in graph.input] == ["input_0"]
    assert [list(one.dims) for one in graph.initializer] == [[16, 8]]
    assert np.float32(0.1234567).tobytes() not in part.model


def test_settings_keep_their_values_and_omitted_inputs_stay_omitted(small: ModuleType) -> None:
    node = helper.make_node("Clip", ["x", "", "high"], ["y"])
    model = small.model_of(
        [node], [small.value("x", (64,))], [small.value("y", (64,))], [small.weight("high", np.float32(0.5))]
    )
    part = only(small.parts_of(model))
    built = onnx.load_model_from_string(part.model).graph.node[0]
    assert list(built.input)[1] == ""
    (out,) = run(part)
    assert float(out.max()) == 0.5
    assert float(out.min()) < -1.0


def test_a_reshape_keeps_its_target(small: ModuleType) -> None:
    part = only(small.parts_of(small.one("Reshape", (2, 6), np.array([3, -1], np.int64))))
    assert run(part)[0].shape == (3, 4)


def test_a_node_of_constants_only_gets_inputs_so_that_nothing_is_folded(small: ModuleType) -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["w"]),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    weights = [
        small.weight("q", np.arange(16, dtype=np.uint8).reshape(4, 4)),
        small.weight("scale", np.float32(0.1)),
        small.weight("zero", np.uint8(3)),
    ]
    model = small.model_of(nodes, [small.value("x", (2, 4))], [small.value("y", (2, 4))], weights)
    part = next(one for one in small.parts_of(model) if one.part.operators == ("DequantizeLinear",))
    assert len(onnx.load_model_from_string(part.model).graph.input) == 3
    assert run(part)[0].shape == (4, 4)


def test_an_output_that_nothing_reads_is_not_asked_for(small: ModuleType) -> None:
    node = helper.make_node("Dropout", ["x"], ["y", "mask"])
    model = small.model_of([node], [small.value("x", (2, 4))], [small.value("y", (2, 4))])
    assert len(run(only(small.parts_of(model)))) == 1


def test_a_layer_of_unknown_shape_is_a_part_that_says_why_it_cannot_be_built(small: ModuleType) -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    model = small.model_of([node], [small.value("x", (2, "n"))], [small.value("y", (2, "n"))])
    (part,) = layer_parts(read_graph(model))
    assert part.problem is not None
    assert part.model == b""


def test_work_of_a_part_counts_taps_on_data_apart(small: ModuleType) -> None:
    model = small.one("Conv", (1, 1, 3, 3), small.random(1, 1, 3, 3), pads=[1, 1, 1, 1])
    part = only(small.parts_of(model)).part
    assert part.flops == 2 * 81
    assert part.flops_valid == 2 * 49  # corners see 4 taps, edges 6, the middle 9
    assert part.bytes == 4 * (9 + 9 + 9)


@pytest.mark.parametrize("op", ["Relu", "Sqrt", "Log", "Sigmoid", "Exp"])
def test_inputs_are_normal_numbers_never_zero_and_valid_for_the_operator(small: ModuleType, op: str) -> None:
    part = only(small.parts_of(small.one(op, (100, 1000))))
    (feed,) = feeds_for(onnx.load_model_from_string(part.model), 0).values()
    assert float(np.abs(feed).min()) >= 1e-3
    (out,) = run(part)
    assert np.isfinite(out).all()
    assert not ((np.abs(out) < TINY) & (out != 0)).any()


def test_weights_hold_no_denormal_numbers(small: ModuleType) -> None:
    part = only(small.parts_of(small.one("Conv", (1, 64, 8, 8), small.random(256, 64, 3, 3))))
    (tensor,) = onnx.load_model_from_string(with_weights(part.model, 0)).graph.initializer
    values = onnx.numpy_helper.to_array(tensor)
    assert not ((np.abs(values) < TINY) & (values != 0)).any()
    assert np.unique(values).size > 1000


def test_inputs_reach_beyond_six_so_that_clipping_there_is_seen(small: ModuleType) -> None:
    part = only(small.parts_of(small.one("Relu", (1000,))))
    (feed,) = feeds_for(onnx.load_model_from_string(part.model), 0).values()
    assert 0.01 < float((feed > 6).mean()) < 0.05


def test_indices_stay_within_the_table(small: ModuleType) -> None:
    node = helper.make_node("Gather", ["table", "ids"], ["y"])
    model = small.model_of(
        [node],
        [small.value("ids", (50,), TensorProto.INT64)],
        [small.value("y", (50, 4))],
        [small.weight("table", small.random(7, 4))],
    )
    part = only(small.parts_of(model))
    (feed,) = feeds_for(onnx.load_model_from_string(part.model), 0).values()
    assert set(np.unique(feed)) <= set(range(7))
    assert np.unique(feed).size > 3


def test_inputs_and_weights_depend_on_the_seed_only(small: ModuleType) -> None:
    part = only(small.parts_of(small.one("MatMul", (2, 16), small.random(16, 8))))
    assert np.array_equal(run(part)[0], run(part)[0])
    other = RunnablePart(part.part, part.model, feeds_seed=1)
    assert not np.array_equal(run(part)[0], run(other)[0])
