"""Layer keys: equal for equal work, different for every difference that matters."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

from stratoscope.graph.ir import Graph, Layer, Tensor
from stratoscope.graph.onnx_reader import read_graph
from stratoscope.graph.signature import signature, slug

LayerOf = Callable[..., Layer]


def _stored(*shape: int, value: float = 1.0) -> TensorProto:
    return numpy_helper.from_array(np.full(shape, value, dtype=np.float32))


def _ints(*values: int) -> TensorProto:
    return numpy_helper.from_array(np.array(values, dtype=np.int64))


def _renamed(layer: Layer, salt: str) -> Layer:
    """The layer with other names for itself and its tensors, and its attributes in another order."""

    def rename(tensor: Tensor | None) -> Tensor | None:
        if tensor is None:
            return None
        sources = tuple(f"{salt}.{source}" for source in tensor.sources)
        return replace(tensor, name=f"{salt}/{tensor.name}", sources=sources)

    attributes = list(layer.attributes.items())
    random.Random(salt).shuffle(attributes)
    return replace(
        layer,
        name=salt,
        index=layer.index + 7,
        attributes=dict(attributes),
        inputs=tuple(rename(tensor) for tensor in layer.inputs),
        outputs=tuple(one for tensor in layer.outputs if (one := rename(tensor)) is not None),
    )


@settings(max_examples=30, deadline=None)
@given(salt=st.text(min_size=1, max_size=8), position=st.integers(0, 10_000))
def test_names_and_attribute_order_do_not_matter(light_graph: Callable[[str], Graph], salt: str, position: int) -> None:
    layers = [layer for name in ("shufflenet", "bvlc_alexnet") for layer in light_graph(name).layers]
    layer = layers[position % len(layers)]
    assert signature(_renamed(layer, salt)) == signature(layer)


def test_values_of_weights_do_not_matter_but_their_shape_does(layer_of: LayerOf) -> None:
    one = layer_of("MatMul", [(1, 8), _stored(8, 8)])
    assert signature(one) == signature(layer_of("MatMul", [(1, 8), _stored(8, 8, value=2.0)]))
    assert signature(one) != signature(layer_of("MatMul", [(1, 8), _stored(8, 16)]))
    assert signature(one) != signature(layer_of("MatMul", [(1, 8), (8, 8)]))  # a weight is prepacked, an input is not


@pytest.mark.parametrize(
    "changes",
    [
        {"strides": [2, 2]},
        {"strides": [1, 2]},
        {"pads": [1, 1, 1, 1]},
        {"pads": [0, 0, 1, 1]},
        {"dilations": [2, 2]},
        {"auto_pad": "SAME_UPPER"},
    ],
)
def test_every_attribute_of_a_convolution_matters(layer_of: LayerOf, changes: dict[str, Any]) -> None:
    plain = layer_of("Conv", [(1, 8, 16, 16), _stored(8, 8, 3, 3)])
    assert signature(layer_of("Conv", [(1, 8, 16, 16), _stored(8, 8, 3, 3)], **changes)) != signature(plain)


def test_group_batch_type_and_bias_matter(layer_of: LayerOf) -> None:
    variants = [
        layer_of("Conv", [(1, 8, 16, 16), _stored(8, 8, 3, 3)]),
        layer_of("Conv", [(1, 8, 16, 16), _stored(8, 4, 3, 3)], group=2),
        layer_of("Conv", [(2, 8, 16, 16), _stored(8, 8, 3, 3)]),
        layer_of("Conv", [(1, 8, 16, 16), _stored(8, 8, 3, 3), _stored(8)]),
        layer_of(
            "Conv",
            [(1, 8, 16, 16), numpy_helper.from_array(np.ones((8, 8, 3, 3), dtype=np.float16))],
            types=[TensorProto.FLOAT16, TensorProto.FLOAT16],
        ),
    ]
    assert len({signature(layer) for layer in variants}) == len(variants)


@pytest.mark.parametrize("size", [15, 16])
@pytest.mark.parametrize("stride", [1, 2])
def test_auto_pad_is_the_padding_that_it_stands_for(layer_of: LayerOf, size: int, stride: int) -> None:
    total = max((-(-size // stride) - 1) * stride + 3 - size, 0)
    begin, end = total // 2, total - total // 2
    inputs = [(1, 8, size, size), _stored(8, 8, 3, 3)]
    same = layer_of("Conv", inputs, auto_pad="SAME_UPPER", strides=[stride, stride])
    explicit = layer_of("Conv", inputs, pads=[begin, begin, end, end], strides=[stride, stride])
    assert same.outputs[0].shape == explicit.outputs[0].shape
    assert signature(same) == signature(explicit)
    lower = layer_of("Conv", inputs, auto_pad="SAME_LOWER", strides=[stride, stride])
    assert (signature(lower) == signature(same)) == (begin == end)


def test_written_defaults_are_the_same_as_absent_ones(layer_of: LayerOf) -> None:
    inputs = [(1, 8, 16, 16), _stored(8, 8, 3, 3)]
    written = layer_of(
        "Conv",
        inputs,
        kernel_shape=[3, 3],
        strides=[1, 1],
        dilations=[1, 1],
        pads=[0, 0, 0, 0],
        group=1,
        auto_pad="NOTSET",
    )
    assert signature(written) == signature(layer_of("Conv", inputs))
    assert signature(layer_of("Conv", inputs, auto_pad="VALID")) == signature(written)
    assert signature(layer_of("Transpose", [(2, 3, 4)])) == signature(
        layer_of("Transpose", [(2, 3, 4)], perm=[2, 1, 0])
    )
    assert signature(layer_of("Softmax", [(2, 3)], axis=-1)) == signature(layer_of("Softmax", [(2, 3)], axis=1))
    assert signature(layer_of("Softmax", [(2, 3)], axis=0)) != signature(layer_of("Softmax", [(2, 3)], axis=1))


def test_numbers_of_settings_matter(layer_of: LayerOf) -> None:
    first = layer_of("Slice", [(10,), _ints(0), _ints(5)])
    assert signature(first) != signature(layer_of("Slice", [(10,), _ints(5), _ints(10)]))
    assert signature(layer_of("ReduceSum", [(3, 4), _ints(1)])) != signature(layer_of("ReduceSum", [(3, 4), _ints(0)]))
    assert signature(layer_of("ReduceSum", [(3, 4), _ints(1)])) == signature(layer_of("ReduceSum", [(3, 4), _ints(-1)]))


def test_infinite_settings_have_a_key_too(layer_of: LayerOf) -> None:
    bounds = [numpy_helper.from_array(np.float32(one)) for one in (0.0, np.inf, np.nan)]
    keys = {signature(layer_of("Clip", [(2, 3), bound])) for bound in bounds}
    assert len(keys) == 3


def test_operator_domain_and_version_matter(layer_of: LayerOf) -> None:
    words = {
        signature(layer_of("Gelu", [(2, 3)])),
        signature(layer_of("Gelu", [(2, 3)], domain="com.microsoft")),
        signature(layer_of("Relu", [(2, 3)])),
        signature(layer_of("Softmax", [(2, 3, 4)], axis=1, opset=11)),
        signature(layer_of("Softmax", [(2, 3, 4)], axis=1, opset=13)),
    }
    assert len(words) == 5


def test_squaring_is_not_multiplying_two_tensors(model_of: Callable[..., ModelProto]) -> None:
    square = read_graph(model_of([helper.make_node("Mul", ["x", "x"], ["y"])], {"x": (4,)}, ["y"]))
    product = read_graph(model_of([helper.make_node("Mul", ["a", "b"], ["y"])], {"a": (4,), "b": (4,)}, ["y"]))
    assert signature(square.layers[0]) != signature(product.layers[0])


def test_a_position_in_the_model_does_not_matter(light_graph: Callable[[str], Graph]) -> None:
    # The first Relu of AlexNet reads an activation, the last one too; a layer that reads the model's input is the same
    # as one that reads an activation.
    first = light_graph("bvlc_alexnet").layers[0]
    data = first.inputs[0]
    assert data is not None
    assert data.role == "input"
    moved = replace(first, inputs=(replace(data, role="activation"), *first.inputs[1:]))
    assert signature(moved) == signature(first)


def test_slugs_are_readable(layer_of: LayerOf) -> None:
    inputs = [(1, 64, 56, 56), _stored(64, 64, 3, 3)]
    assert slug(layer_of("Conv", inputs, pads=[1, 1, 1, 1])) == "conv_3x3s1p1_64-64_56x56_f32"
    grouped = layer_of("Conv", [(4, 64, 56, 56), _stored(64, 2, 3, 3)], group=32)
    assert slug(grouped) == "conv_n4_3x3s1p0g32_64-64_56x56_f32"
    assert slug(layer_of("Conv", inputs, pads=[0, 0, 1, 1], strides=[2, 2])) == "conv_3x3s2p0x0x1x1_64-64_56x56_f32"
    assert slug(layer_of("MaxPool", [(1, 8, 9, 9)], kernel_shape=[3, 3])) == "maxpool_3x3s1p0_8-8_9x9_f32"
    assert slug(layer_of("Gemm", [(1, 2048), _stored(1000, 2048)], transB=1)) == "gemm_1x2048x1000_f32"
    assert slug(layer_of("MatMul", [(2, 5, 8), _stored(8, 3)])) == "matmul_2x5x8x3_f32"
    assert slug(layer_of("Relu", [(1, 2, 3)])) == "relu_1x2x3_f32"
    assert slug(layer_of("Neg", [()])) == "neg_scalar_f32"
