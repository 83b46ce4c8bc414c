"""Layers never measured: reuse distances computed by hand, physics that is found again, calibration networks."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnxruntime
import pytest

from stratoscope.errors import MeasurementError
from stratoscope.explain.predict.calibration import SIZES, calibration_model
from stratoscope.explain.predict.learned import LEAST_ROWS, LearnedLayers
from stratoscope.explain.predict.placement import Access, LayerFacts, facts_of
from stratoscope.explain.predict.scaling import Resources
from stratoscope.graph.brick_model import skeleton
from stratoscope.graph.bricks import bricks_of
from stratoscope.graph.onnx_reader import read_graph
from stratoscope.measure.runnable import RunnableBrick
from stratoscope.spec.performance import Part

HERE = Resources(100e9, ((2.0**15, 400e9), (2.0**20, 100e9), (math.inf, 20e9)), "here")
KIB = 1024


def runnable(model: onnx.ModelProto, further_bytes: int = 0) -> list[RunnableBrick]:
    bricks = bricks_of(read_graph(model), "node").unique().values()
    found = [
        RunnableBrick(
            Part(
                digest=one.key, kind="brick", slug=one.slug, operators=one.operators, flops_valid=one.work.flops_valid
            ),
            skeleton(one),
        )
        for one in bricks
    ]
    return [RunnableBrick(found[0].part, found[0].skeleton, further_bytes=further_bytes), *found[1:]]


def chain() -> onnx.ModelProto:
    """Relu, a product with 4 KiB of weights, Tanh; all activations are 1 KiB, [8, 32]."""
    weight = onnx.numpy_helper.from_array(np.ones((32, 32), np.float32), "w")
    nodes = [
        onnx.helper.make_node("Relu", ["x"], ["a"]),
        onnx.helper.make_node("MatMul", ["a", "w"], ["b"]),
        onnx.helper.make_node("Tanh", ["b"], ["y"]),
    ]
    info = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [8, 32]) for name in ("x", "y")]
    graph = onnx.helper.make_graph(nodes, "chain", info[:1], info[1:], [weight])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)


def test_reuse_distances_are_those_of_the_shared_buffers() -> None:
    relu, product, tanh = facts_of(runnable(chain(), further_bytes=16 * KIB))
    assert relu is not None
    assert product is not None
    assert tanh is not None
    # All three share the memory of inputs, written just before, and that of outputs. First, 16 KiB of others are read.
    assert [(one.role, one.bytes, one.distance) for one in relu.accesses] == [
        ("input", KIB, 0),
        ("output", KIB, KIB + 16 * KIB),  # the last layer's own; since then others, and the input
    ]
    assert [(one.role, one.bytes, one.distance) for one in product.accesses] == [
        ("input", KIB, 0),
        ("weight", 4 * KIB, 18 * KIB),  # a whole pass ago: input, output and what others read
        ("output", KIB, 5 * KIB),  # the weights and the input
    ]
    assert [one.distance for one in tanh.accesses] == [0, KIB]


def test_an_output_larger_than_the_one_before_lies_in_part_where_none_has_been_for_long() -> None:
    info = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [rows, 1024])
        for name, rows in (("x", 1), ("y", 3))
    ]
    nodes = [
        onnx.helper.make_node("Mul", ["x", "w"], ["a"]),
        onnx.helper.make_node("Concat", ["a"] * 3, ["y"], axis=0),
    ]
    weight = onnx.numpy_helper.from_array(np.ones((1, 1024), np.float32), "w")
    model = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "widening", info[:1], info[1:], [weight]),
        opset_imports=[onnx.helper.make_opsetid("", 18)],
        ir_version=8,
    )
    product, concat = facts_of(runnable(model))
    assert product is not None
    assert concat is not None
    # Two thirds of the larger output, the input and the weights were touched since.
    assert [one.distance for one in product.of("output")] == [16 * KIB]
    # A third of the output where the product has just written: the input since. The rest a pass ago: the weights, too.
    assert [one.distance for one in concat.of("output")] == pytest.approx([4 * KIB / 3 + 8 * KIB * 2 / 3])


def test_a_brick_that_cannot_be_built_has_no_facts_and_leaves_the_others() -> None:
    bricks = runnable(chain())
    broken = [RunnableBrick(bricks[0].part, b"", problem="a loop"), *bricks[1:]]
    assert [one is None for one in facts_of(broken)] == [True, False, False]


def layer(operator: str, size: int, distance: float, flops: int = 0) -> LayerFacts:
    part = Part(
        digest=f"{operator}{size}", kind="brick", slug="s", operators=(operator,), flops_valid=flops, bytes=size
    )
    accesses = (Access("input", (size // 4,), size, distance), Access("output", (size // 4,), size, distance))
    return LayerFacts(part, operator, {}, accesses)


def test_data_take_the_bandwidth_of_the_level_that_they_are_found_in() -> None:
    near, far = layer("Relu", 2**12, 0.0), layer("Relu", 2**12, 2.0**21)
    assert near.seconds(HERE, 0.0) == pytest.approx(2 * 2**12 / 400e9)
    assert far.seconds(HERE, 0.0) == pytest.approx(2 * 2**12 / 20e9)
    assert layer("Conv", 2**12, 0.0, flops=10**9).seconds(HERE, 1e-6) == pytest.approx(0.01 + 1e-6)


def test_a_constant_factor_over_the_physics_is_found_for_each_operator() -> None:
    sizes = [2**power for power in range(12, 24)]
    rows = [(layer("Relu", size, 0.0), 2 * layer("Relu", size, 0.0).seconds(HERE)) for size in sizes]
    rows += [(layer("LRN", size, 0.0), 30 * layer("LRN", size, 0.0).seconds(HERE)) for size in sizes]
    learned = LearnedLayers(rows, HERE)
    unseen = [layer("Relu", 3 * 2**17, 0.0), layer("LRN", 3 * 2**17, 0.0)]
    relu, lrn = (seconds / facts.seconds(HERE) for seconds, facts in zip(learned.predict(unseen), unseen, strict=True))
    assert 1.9 < relu < 4  # some trees ask for the size before the operator, and mix the two
    assert 15 < lrn < 31
    own = [facts for facts, _ in rows]
    assert learned.predict(own) == pytest.approx(
        [seconds for _, seconds in rows], rel=0.05
    )  # what was measured is kept
    assert learned.predict([]).shape == (0,)
    assert np.array_equal(learned.predict(unseen), LearnedLayers(rows, HERE).predict(unseen))  # no chance in it


def test_few_layers_teach_nothing() -> None:
    rows = [(layer("Relu", 4096, 0.0), 1e-5)] * (LEAST_ROWS - 1)
    with pytest.raises(MeasurementError, match="at least 20"):
        LearnedLayers(rows, HERE)


@pytest.mark.parametrize("moved", ["Concat", "Split", "Transpose", "Relu"])
def test_runs_of_neighbouring_bytes(moved: str) -> None:
    data = Access("input", (1, 6, 4, 4), 384, 0.0)
    part = Part(digest="d", kind="brick", slug="s", operators=(moved,), bytes=1)
    half = Access("output", (1, 3, 4, 4), 192, 0.0)
    whole = Access("output", (1, 6, 4, 4), 384, 0.0)
    accesses, attributes, expected = {
        "Concat": ((half, half, whole), {"axis": 1}, 192),
        "Split": ((data, half, half), {"axis": 1}, 192),
        "Transpose": ((data, whole), {"perm": [0, 2, 1, 3]}, 16),
        "Relu": ((data, whole), {}, 384),
    }[moved]
    if moved == "Concat":
        accesses = tuple(Access("input" if one is half else "output", one.shape, one.bytes, 0.0) for one in accesses)
    facts = LayerFacts(part, moved, attributes, accesses)  # type: ignore[arg-type]
    assert facts.features()[4] == pytest.approx(math.log1p(expected))


def test_calibration_networks_are_valid_and_run() -> None:
    for channels, edge in (SIZES[0], SIZES[1], (6, 5)):
        model = calibration_model(channels, edge)
        onnx.checker.check_model(model, full_check=True)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        (out,) = session.run(None, {"x": np.ones((1, channels, edge, edge), np.float32)})
        assert out.shape == (1, channels)
        assert np.isfinite(out).all()
