"""The nine light models of the onnx package: layers, parameters and operations, against known figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from stratoscope.graph.ir import Graph
from stratoscope.graph.onnx_reader import read_graph
from stratoscope.graph.signature import slug
from stratoscope.graph.summary import summarize
from stratoscope.graph.work import work_of

#: Multiply-adds and parameters (in millions) as published or counted by other tools: densenet121 2.83 G and 8.1 M,
#: resnet50 4.09 G and 25.6 M, vgg19 19.6 G and 143.7 M, squeezenet 0.35 G and 1.2 M, ...
KNOWN = {
    "bvlc_alexnet": (0.655, 61.0),
    "densenet121": (2.834, 8.15),
    "inception_v1": (1.43, 7.0),
    "inception_v2": (2.02, 11.2),
    "resnet50": (4.09, 25.6),
    "shufflenet": (0.1247, 1.42),
    "squeezenet": (0.349, 1.235),
    "vgg19": (19.63, 143.67),
    "zfnet512": (1.482, 87.25),
}


@pytest.mark.parametrize("name", KNOWN)
def test_work_and_parameters_are_the_known_ones(light_graph: Callable[[str], Graph], name: str) -> None:
    graph = light_graph(name)
    works = [work_of(layer) for layer in graph.layers]
    assert all(works)
    macs, parameters = KNOWN[name]
    assert sum(work.macs for work in works if work) / 1e9 == pytest.approx(macs, rel=0.005)
    assert summarize(graph).parameters.require() / 1e6 == pytest.approx(parameters, rel=0.005)
    assert summarize(graph).unknown_work == ()
    assert graph.notes == ()


def test_vgg19_has_exactly_the_parameters_of_the_paper(light_graph: Callable[[str], Graph]) -> None:
    # Sixteen 3x3 convolutions and three fully connected layers with biases: 143,667,240.
    section = summarize(light_graph("vgg19"))
    assert section.parameters.value == 143_667_240
    assert section.parameter_bytes.value == 4 * 143_667_240


def test_resnet50_layers(light_graph: Callable[[str], Graph]) -> None:
    section = summarize(light_graph("resnet50"))
    assert section.layers == 176
    assert section.by_type == {
        "BatchNormalization": 53,
        "Conv": 53,
        "Relu": 49,
        "Sum": 16,
        "AveragePool": 1,
        "Gemm": 1,
        "MaxPool": 1,
        "Reshape": 1,
        "Softmax": 1,
    }
    assert light_graph("resnet50").constants == 239
    # 57 if the shortcut of the first block, a 1x1 convolution written without pads, were another layer than the same
    # convolution written with pads of zero.
    assert section.unique_layers == 56
    words = {slug(layer) for layer in light_graph("resnet50").layers}
    assert {"conv_3x3s1p1_64-64_56x56_f32", "conv_7x7s2p3_3-64_224x224_f32", "gemm_1x2048x1000_f32"} <= words


def test_generated_weights_count_as_parameters_and_are_not_layers(light_file: Callable[[str], Path]) -> None:
    # densenet121 scales with Unsqueeze(ConstantOfShape(...)): two nodes that compute a constant.
    graph = read_graph(light_file("densenet121"))
    assert not any(layer.op in ("ConstantOfShape", "Unsqueeze") for layer in graph.layers)
    multiply = next(layer for layer in graph.layers if layer.op == "Mul")
    weight = multiply.inputs[1]
    assert weight is not None
    assert weight.role == "weight"
    assert weight.shape == (64, 1, 1)
    work = work_of(multiply)
    assert work is not None
    assert work.parameters == 64
