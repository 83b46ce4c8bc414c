"""The summary of a graph: sums where all is known, lower bounds where it is not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import ModelProto, helper, numpy_helper

from stratoscope.graph.ir import Graph
from stratoscope.graph.onnx_reader import read_graph
from stratoscope.graph.summary import qualified_op, summarize
from stratoscope.graph.work import work_of

ModelOf = Callable[..., ModelProto]
node = helper.make_node


def test_sums_are_those_of_the_layers(light_graph: Callable[[str], Graph]) -> None:
    graph = light_graph("squeezenet")
    works = [work for layer in graph.layers if (work := work_of(layer)) is not None]
    section = summarize(graph)
    assert section.flops.value == sum(work.flops for work in works)
    assert section.flops.statistic == "count"
    assert section.activation_bytes.value == sum(work.bytes_read + work.bytes_written for work in works)
    assert section.parameters.value == sum(work.parameters for work in works)  # none are shared here
    assert sum(section.by_type.values()) == section.layers
    assert list(section.by_type.values()) == sorted(section.by_type.values(), reverse=True)


def test_equal_layers_on_other_weights_are_one_unique_layer(model_of: ModelOf) -> None:
    weights = [numpy_helper.from_array(np.full((8, 8), one, dtype=np.float32), f"w{one}") for one in range(3)]
    nodes = [node("MatMul", [f"h{one}", f"w{one}"], [f"h{one + 1}"]) for one in range(3)]
    section = summarize(read_graph(model_of(nodes, {"h0": (1, 8)}, ["h3"], initializers=weights)))
    assert (section.layers, section.unique_layers, section.parameters.value) == (3, 1, 192)


def test_a_weight_of_two_layers_counts_once(model_of: ModelOf) -> None:
    weight = numpy_helper.from_array(np.ones((8, 8), dtype=np.float32), "w")
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("MatMul", ["h", "w"], ["y"])]
    section = summarize(read_graph(model_of(nodes, {"x": (1, 8)}, ["y"], initializers=[weight])))
    assert section.parameters.value == 64
    assert section.parameter_bytes.value == 256
    assert section.flops.value == 2 * 2 * 64


def test_layers_of_unknown_work_make_a_lower_bound_and_are_named(model_of: ModelOf) -> None:
    nodes = [
        node("MatMul", ["x", "x"], ["a"]),
        node("Det", ["a"], ["d"]),
        node("NonZero", ["a"], ["places"]),
        node("Mystery", ["a"], ["m"], domain="acme"),
        node("Mystery", ["m"], ["n"], domain="acme"),
    ]
    graph = read_graph(model_of(nodes, {"x": (4, 4)}, ["d", "places", "n"], domains={"acme": 1}))
    section = summarize(graph)
    assert section.unknown_work == ("Det (1)", "NonZero (1, unknown shape)", "acme.Mystery (2)")
    assert (section.flops.value, section.flops.statistic) == (128, "at least")
    assert section.flops.reason == "not known: Det (1), NonZero (1, unknown shape), acme.Mystery (2)"
    assert qualified_op(graph.layers[3]) == "acme.Mystery"


def test_a_model_of_unknown_operators_only_has_no_work(model_of: ModelOf) -> None:
    graph = read_graph(
        model_of([node("Mystery", ["x"], ["y"], domain="acme")], {"x": (4,)}, ["y"], domains={"acme": 1})
    )
    section = summarize(graph)
    assert section.flops.status == "unavailable"
    assert section.flops.reason == "not known: acme.Mystery (1)"
    assert section.parameters.value == 0
