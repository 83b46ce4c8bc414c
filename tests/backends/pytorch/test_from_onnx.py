"""ONNX graphs as PyTorch modules, held against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from stratoscope.backends.pytorch.from_onnx import ORIGIN, from_onnx
from stratoscope.errors import BackendError
from stratoscope.models.resolve import resolve
from stratoscope.spec.model import LoadableModel

pytestmark = pytest.mark.torch

Build = Callable[..., LoadableModel]
LIGHT = ("squeezenet", "shufflenet", "inception_v2", "resnet50", "digits")
LARGE = ("inception_v1", "densenet121", "alexnet", "zfnet512", "vgg19")


def reference(model: LoadableModel, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(model.path))
    outputs: list[np.ndarray] = session.run(None, feeds)
    return outputs


def converted(model: LoadableModel, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    assert model.path is not None
    module = from_onnx(model.path)
    with torch.inference_mode():
        return [value.numpy() for value in module(*(torch.from_numpy(value) for value in feeds.values()))]


def agree(model: LoadableModel, **feeds: np.ndarray) -> None:
    for want, got in zip(reference(model, feeds), converted(model, feeds), strict=True):
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * float(np.abs(want).max()))


def of_zoo(name: str) -> None:
    model = resolve(name, batch_size=2)
    generator = np.random.default_rng(1)
    feeds = {
        spec.name: generator.uniform(-2, 2, [int(size) for size in spec.shape]).astype(np.float32)
        for spec in model.manifest.inputs
    }
    agree(model, **feeds)


@pytest.mark.parametrize("name", LIGHT)
def test_zoo_model_converted_from_onnx_computes_what_onnx_runtime_computes(name: str) -> None:
    of_zoo(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_large_zoo_model_converted_from_onnx_computes_what_onnx_runtime_computes(name: str) -> None:
    of_zoo(name)


def image(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def unary(build: Build, node: Any, *shape: int, weights: dict[str, np.ndarray] | None = None) -> LoadableModel:
    info = ("x", TensorProto.FLOAT, list(shape))
    return build([node], [info], [("y", TensorProto.FLOAT, None)], weights, opset=18)


@pytest.mark.parametrize(
    ("operator", "attributes"),
    [
        ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]}),
        ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ("MaxPool", {"kernel_shape": [2, 2], "pads": [1, 1, 1, 1]}),
        ("MaxPool", {"kernel_shape": [3, 3], "dilations": [2, 2]}),
        ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
        ("AveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]}),
        ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 0, 1, 1], "count_include_pad": 1}),
        ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
        ("AveragePool", {"kernel_shape": [2, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
        ("GlobalAveragePool", {}),
        ("LRN", {"size": 5, "alpha": 0.3, "beta": 0.6, "bias": 1.5}),
        ("Softmax", {"axis": 1}),
        ("Softmax", {}),
        ("Transpose", {"perm": [0, 2, 3, 1]}),
        ("Transpose", {}),
        ("Flatten", {"axis": 2}),
        ("LeakyRelu", {"alpha": 0.3}),
        ("Sigmoid", {}),
        ("Tanh", {}),
        ("Squeeze", {}),
    ],
)
def test_operator_with_its_attributes_agrees_with_onnx_runtime(
    build: Build, operator: str, attributes: dict[str, Any]
) -> None:
    agree(unary(build, helper.make_node(operator, ["x"], ["y"], **attributes), 2, 6, 9, 8), x=image(2, 6, 9, 8))


def test_convolution_with_uneven_padding_and_groups_agrees(build: Build) -> None:
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], pads=[0, 1, 2, 1], strides=[2, 1], group=2)
    weights = {"w": image(4, 3, 3, 3), "b": image(4)}
    agree(unary(build, node, 1, 6, 9, 8, weights=weights), x=image(1, 6, 9, 8))


@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm_with_alpha_and_beta_agrees(build: Build, transposed: int) -> None:
    node = helper.make_node("Gemm", ["x", "w", "c"], ["y"], alpha=0.5, beta=2.0, transB=transposed)
    weights = {"w": image(*((5, 3) if transposed else (3, 5))), "c": image(5)}
    agree(unary(build, node, 2, 3, weights=weights), x=image(2, 3))


@pytest.mark.parametrize(
    ("operator", "constants"),
    [
        ("Clip", {"low": np.float32(-0.5), "high": np.float32(0.25)}),
        ("Clip", {"low": np.float32(0), "high": np.float32(6)}),
        ("Pad", {"pads": np.array([0, 0, 1, 2, 0, 1, 0, 3]), "value": np.float32(0.5)}),
        ("Reshape", {"shape": np.array([0, -1, 4])}),
        ("Unsqueeze", {"axes": np.array([0, -1])}),
        ("ReduceMean", {"axes": np.array([2, 3])}),
        ("Add", {"c": np.array([[[1.0]], [[2.0]], [[3.0]]], np.float32)}),
        ("Sub", {"c": np.float32(3)}),
        ("Mul", {"c": np.array([0.5, 2, 1, 4], np.float32)}),
    ],
)
def test_operator_with_constant_inputs_agrees(build: Build, operator: str, constants: dict[str, Any]) -> None:
    node = helper.make_node(operator, ["x", *constants], ["y"])
    weights = {name: np.asarray(value) for name, value in constants.items()}
    agree(unary(build, node, 2, 3, 4, 4, weights=weights), x=image(2, 3, 4, 4))


def test_constant_on_the_left_stays_on_the_left(build: Build) -> None:
    agree(unary(build, helper.make_node("Sub", ["c", "x"], ["y"]), 3, weights={"c": image(3)}), x=image(3))


def test_nodes_whose_inputs_are_constant_are_folded(build: Build) -> None:
    nodes = [
        helper.make_node("Unsqueeze", ["c", "axes"], ["wide"], name="widen"),
        helper.make_node("Mul", ["x", "wide"], ["y"], name="scale"),
    ]
    weights = {"c": image(3), "axes": np.array([1, 2])}
    model = build(nodes, [("x", TensorProto.FLOAT, [3, 2, 2])], [("y", TensorProto.FLOAT, None)], weights, opset=18)
    agree(model, x=image(3, 2, 2))
    assert model.path is not None
    assert [name for name, _ in from_onnx(model.path).named_children()] == ["scale"]


def test_submodules_are_named_after_their_nodes_and_know_their_operator(build: Build) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["h"], name="act.1"), helper.make_node("Tanh", ["h"], ["y"], name="act.1")]
    model = build(nodes, [("x", TensorProto.FLOAT, [3])], [("y", TensorProto.FLOAT, None)])
    assert model.path is not None
    children = dict(from_onnx(model.path).named_children())
    assert list(children) == ["act_1", "act_1_1"]
    assert [getattr(child, ORIGIN) for child in children.values()] == [("act.1", "Relu"), ("act.1", "Tanh")]


@pytest.mark.parametrize(
    ("node", "why"),
    [
        (helper.make_node("Einsum", ["x"], ["y"], name="odd", equation="ij->ji"), "operator Einsum is not supported"),
        (helper.make_node("LRN", ["x"], ["y"], name="odd", size=4), "an even size"),
        (helper.make_node("TopK", ["x", "k"], ["y", "i"], name="odd"), "operator TopK is not supported"),
        (helper.make_node("MaxPool", ["x"], ["z", "y"], name="odd", kernel_shape=[1]), "more than its first output"),
    ],
)
def test_what_cannot_be_converted_is_refused_by_node_and_reason(build: Build, node: Any, why: str) -> None:
    model = unary(build, node, 2, 3, weights={"k": np.array([1])})
    assert model.path is not None
    with pytest.raises(BackendError, match="'odd'") as refused:
        from_onnx(model.path)
    assert why in str(refused.value)
    assert "--backend onnxruntime" in str(refused.value)
