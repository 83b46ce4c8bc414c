"""An LRN replaced by fast operators computes the same, whatever its attributes and shape."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper

from stratoscope.improve.catalogue import rewrite_graph

TOLERANCE = 2e-6


def lrn_model(
    shape: list[int | str], opset: int = 18, element: int = TensorProto.FLOAT, **attributes: float
) -> ModelProto:
    x = helper.make_tensor_value_info("x", element, shape)
    y = helper.make_tensor_value_info("y", element, shape)
    node = helper.make_node("LRN", ["x"], ["y"], name="norm", **attributes)
    graph = helper.make_graph([node], "g", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def outputs(model: ModelProto, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def by_definition(x: np.ndarray, size: int, alpha: float, beta: float, bias: float) -> np.ndarray:
    """ONNX's definition, channel by channel."""
    wide = x.astype(np.float64)
    total = np.zeros_like(wide)
    channels = x.shape[1]
    for c in range(channels):
        low, high = max(0, c - (size - 1) // 2), min(channels - 1, c + int(np.ceil((size - 1) / 2)))
        total[:, c] = (wide[:, low : high + 1] ** 2).sum(axis=1)
    return wide / (bias + alpha / size * total) ** beta


@settings(deadline=None, max_examples=40)
@given(
    size=st.integers(1, 8),
    channels=st.integers(1, 6),
    beta=st.sampled_from([0.25, 0.5, 0.75, 1.0, 0.6, 1.5]),
    bias=st.sampled_from([0.5, 1.0, 2.0]),
    alpha=st.sampled_from([0.0, 1e-4, 0.5]),
    seed=st.integers(0, 9),
)
def test_lrn_rewrite_follows_the_definition_for_even_windows_and_windows_wider_than_the_channels(
    size: int, channels: int, beta: float, bias: float, alpha: float, seed: int
) -> None:
    model = lrn_model([2, channels, 3, 4], size=size, alpha=alpha, beta=beta, bias=bias)
    rewritten = rewrite_graph(model)
    assert rewritten.changed == {"lrn-as-pool": ("norm",)}
    assert "LRN" not in {node.op_type for node in rewritten.model.graph.node}
    x = (np.random.default_rng(seed).standard_normal((2, channels, 3, 4)) * 3).astype(np.float32)
    expected = by_definition(x, size, alpha, beta, bias)
    found = outputs(rewritten.model, x)
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize("opset", [7, 9, 11, 12, 13, 17, 21])
def test_lrn_rewrite_is_valid_in_every_operator_set_from_seven(opset: int) -> None:
    model = lrn_model([1, 5, 3, 3], opset=opset, size=3)
    rewritten = rewrite_graph(model).model
    onnx.checker.check_model(rewritten, full_check=True)
    x = np.random.default_rng(0).standard_normal((1, 5, 3, 3)).astype(np.float32)
    assert np.allclose(outputs(rewritten, x), outputs(model, x), rtol=0, atol=TOLERANCE)


def test_lrn_rewrite_keeps_free_dimensions_free() -> None:
    model = lrn_model(["n", 4, "h", "w"], size=5)
    rewritten = rewrite_graph(model).model
    for shape in ((1, 4, 2, 3), (3, 4, 5, 1)):
        x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
        assert np.allclose(outputs(rewritten, x), outputs(model, x), rtol=0, atol=TOLERANCE)


def test_lrn_rewrite_leaves_what_it_cannot_prove() -> None:
    assert not rewrite_graph(lrn_model([1, 4, 2, 2], opset=6, size=3)).changed  # no broadcasting yet
    assert not rewrite_graph(lrn_model([1, 4, 2, 2], size=3, bias=0.0)).changed  # zero to a power
    assert not rewrite_graph(lrn_model([1, 4, 2, 2], size=3, alpha=-1.0)).changed  # may become negative
    assert not rewrite_graph(lrn_model([1, 4, 2, 2], element=TensorProto.DOUBLE, size=3)).changed
    assert not rewrite_graph(lrn_model([1, 4, 2, 2, 2], size=3)).changed  # no pool of four dimensions


def test_several_lrn_nodes_are_all_replaced_and_others_kept() -> None:
    nodes = [
        helper.make_node("LRN", ["x"], ["a"], size=3),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("LRN", ["b"], ["y"], size=5),
    ]
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 6, 2, 2]) for name in "xy"]
    model = helper.make_model(
        helper.make_graph(nodes, "g", info[:1], info[1:]), opset_imports=[helper.make_opsetid("", 18)], ir_version=8
    )
    rewritten = rewrite_graph(model)
    assert rewritten.changed == {"lrn-as-pool": ("a", "y")}
    assert [node.op_type for node in rewritten.model.graph.node].count("Relu") == 1
    x = np.random.default_rng(2).standard_normal((1, 6, 2, 2)).astype(np.float32)
    assert np.allclose(outputs(rewritten.model, x), outputs(model, x), rtol=0, atol=TOLERANCE)
