"""Chains of products and sums behind a normalisation or convolution are folded only where that changes nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from stratoscope.improve.catalogue import rewrite_graph

C, SHAPE = 4, (2, 4, 3, 5)
_RNG = np.random.default_rng(0)
STORED = {
    "scale": _RNG.uniform(0.5, 2, C),
    "bias": _RNG.standard_normal(C),
    "mean": _RNG.standard_normal(C),
    "var": _RNG.uniform(0.5, 2, C),
    "m": _RNG.uniform(0.5, 2, C),
    "a": _RNG.standard_normal(C),
    "m3": _RNG.uniform(0.5, 2, (C, 1, 1)),
    "a4": _RNG.standard_normal((1, C, 1, 1)),
    "one": np.array(3.0),
    "row": _RNG.standard_normal(5),
    "batch": _RNG.standard_normal((2, 1, 1, 1)),
    "rank5": _RNG.standard_normal((1, 1, C, 1, 1)),
    "weights": _RNG.standard_normal((C, C, 1, 1)),
    "zero": np.zeros(1),
}
BN = helper.make_node("BatchNormalization", ["x", "scale", "bias", "mean", "var"], ["n"], name="bn")
AXES = numpy_helper.from_array(np.array([1, 2], np.int64), "axes")


def model_of(
    nodes: Sequence[NodeProto], outputs: Sequence[str] = ("y",), extra_inputs: Sequence[str] = ()
) -> ModelProto:
    stored = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in STORED.items()]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)]
    inputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, STORED[name].shape) for name in extra_inputs]
    outs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(list(nodes), "g", inputs, outs, [*stored, AXES])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def run(model: ModelProto) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
    return [np.asarray(one) for one in session.run(None, {"x": x})]


def assert_same(model: ModelProto, other: ModelProto) -> None:
    for expected, found in zip(run(model), run(other), strict=True):
        assert np.abs(found - expected).max() <= 2e-6 * max(1.0, np.abs(expected).max())


def step(op: str, a: str, b: str, out: str) -> NodeProto:
    return helper.make_node(op, [a, b], [out], name=f"{op}_{out}")


@pytest.mark.parametrize(
    ("steps", "folded"),
    [
        ([("Mul", "n", "m3"), ("Add", "", "a4")], 2),
        ([("Add", "a4", "n"), ("Mul", "m3", "")], 2),  # the stored operand first
        ([("Div", "n", "m3"), ("Sub", "", "one")], 2),
        ([("Mul", "n", "one")], 1),
        ([("Mul", "n", "row")], 0),  # varies along the width
        ([("Add", "n", "batch")], 0),  # varies along the batch
        ([("Mul", "n", "rank5")], 0),  # makes the result five-dimensional
        ([("Div", "m3", "n")], 0),  # stored / x is not affine
        ([("Sub", "m3", "n")], 0),
        ([("Div", "n", "zero")], 0),  # not finite
        ([("Mul", "n", "n")], 0),  # a square
        ([("Mul", "n", "m3"), ("Mul", "", "row"), ("Add", "", "a4")], 1),  # up to what cannot be folded
    ],
)
def test_affine_steps_are_folded_exactly_where_they_act_by_channel(
    steps: list[tuple[str, str, str]], folded: int
) -> None:
    nodes, previous = [BN], "n"
    for number, (op, a, b) in enumerate(steps):
        out = "y" if number == len(steps) - 1 else f"t{number}"
        a, b = (previous if one in ("", "n") else one for one in (a, b))
        nodes.append(step(op, a, b, out))
        previous = out
    model = model_of(nodes)
    rewritten = rewrite_graph(model)
    assert len(rewritten.changed.get("fold-affine", ())) == folded
    assert len(rewritten.model.graph.node) == len(nodes) - folded
    if "zero" not in {name for entry in steps for name in entry}:
        assert_same(model, rewritten.model)


def test_caffe_batch_norm_with_unsqueezed_factors_becomes_one_node() -> None:
    nodes = [
        BN,
        helper.make_node("Unsqueeze", ["m", "axes"], ["mu"]),
        step("Mul", "n", "mu", "t"),
        helper.make_node("Unsqueeze", ["a", "axes"], ["au"]),
        step("Add", "t", "au", "y"),
    ]
    model = model_of(nodes)
    rewritten = rewrite_graph(model).model
    assert [node.op_type for node in rewritten.graph.node] == ["BatchNormalization"]
    assert_same(model, rewritten)


def test_a_result_with_a_second_reader_or_that_is_an_output_is_not_folded_over() -> None:
    two_readers = model_of(
        [BN, step("Mul", "n", "m3", "t"), helper.make_node("Relu", ["n"], ["r"]), step("Add", "t", "r", "y")]
    )
    assert not rewrite_graph(two_readers).changed
    an_output = model_of([BN, step("Mul", "n", "m3", "y")], outputs=("n", "y"))
    assert not rewrite_graph(an_output).changed
    part = model_of([BN, step("Mul", "n", "m3", "t"), step("Add", "t", "a4", "y")], outputs=("t", "y"))
    assert rewrite_graph(part).changed == {"fold-affine": ("Mul_t",)}
    assert_same(part, rewrite_graph(part).model)


def test_a_reader_in_a_subgraph_counts() -> None:
    inner = helper.make_graph(
        [helper.make_node("Relu", ["n"], ["inner"])], "then", [], [helper.make_tensor_value_info("inner", 1, SHAPE)]
    )
    condition = numpy_helper.from_array(np.array(True), "condition")
    nodes = [
        BN,
        step("Mul", "n", "m3", "t"),
        helper.make_node("If", ["condition"], ["i"], then_branch=inner, else_branch=inner),
        step("Add", "t", "i", "y"),
    ]
    model = model_of(nodes)
    model.graph.initializer.append(condition)
    assert not rewrite_graph(model).changed


def test_shared_parameters_of_another_normalisation_are_left_as_they_are() -> None:
    second = helper.make_node("BatchNormalization", ["t", "scale", "bias", "mean", "var"], ["y"], name="bn2")
    model = model_of([BN, step("Mul", "n", "m3", "t"), second])
    rewritten = rewrite_graph(model)
    assert rewritten.changed == {"fold-affine": ("Mul_t",)}
    assert_same(model, rewritten.model)


def test_a_parameter_that_the_caller_may_override_is_not_a_constant() -> None:
    model = model_of([BN, step("Mul", "n", "m3", "y")], extra_inputs=("m3",))
    assert not rewrite_graph(model).changed


@pytest.mark.parametrize("bias", [True, False, None])
def test_convolution_takes_in_product_and_sum_with_and_without_bias(bias: bool | None) -> None:
    inputs = ["x", "weights", *(["bias"] if bias else [""] if bias is None else [])]
    model = model_of(
        [helper.make_node("Conv", inputs, ["n"]), step("Mul", "n", "m3", "t"), step("Add", "t", "a4", "y")]
    )
    rewritten = rewrite_graph(model).model
    assert [node.op_type for node in rewritten.graph.node] == ["Conv"]
    assert_same(model, rewritten)


def test_training_mode_is_left_alone() -> None:
    training = helper.make_node(
        "BatchNormalization", ["x", "scale", "bias", "mean", "var"], ["n", "m2", "v2"], training_mode=1
    )
    assert not rewrite_graph(model_of([training, step("Mul", "n", "m3", "y")])).changed


def test_stored_tensors_that_nothing_reads_any_more_are_gone_and_the_original_is_untouched() -> None:
    model = model_of([BN, step("Mul", "n", "m3", "y")])
    before = model.SerializeToString()
    rewritten = rewrite_graph(model).model
    assert model.SerializeToString() == before
    names = {one.name for one in rewritten.graph.initializer}
    assert "m3" not in names
    assert {"mean", "var"} <= names
    assert len(names) == 4
