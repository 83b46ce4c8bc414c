from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from stratoscope.backends.base import BackendOptions
from stratoscope.backends.null import NullBackend
from stratoscope.backends.onnxruntime import OnnxRuntimeBackend
from stratoscope.errors import BackendError
from stratoscope.graph.ir import Layer, Tensor
from stratoscope.graph.mapping import ExecutedLayer
from stratoscope.measure.leveled_join import ExecutedNode, ProfiledLayer, executed_model, join
from stratoscope.spec.model import LoadableModel, ModelManifest


def node(name: str, op: str, output: tuple[int | str, ...] | None = (1,)) -> ExecutedNode:
    tensors = (Tensor(f"{name}_out", "float32", output, "activation"),)
    return ExecutedNode(name, op, ExecutedLayer(Layer(0, name, op, "", {}, (), tensors), (), None, None))


def layer(name: str, op: str, output: tuple[int, ...] | None = (1,)) -> ProfiledLayer:
    return ProfiledLayer(name, op, "float32", output)


def names(found: list[ExecutedLayer | str]) -> list[str]:
    return [one if isinstance(one, str) else one.layer.name for one in found]


def test_nodes_of_the_runtimes_making_are_told_apart_by_place() -> None:
    # As the runtime has it: the file and the session number the same reorders differently.
    nodes = [node("a", "Conv"), node("R_token_7", "R"), node("b", "Conv"), node("R", "R"), node("R_token_9", "R")]
    profiled = [layer("a", "Conv"), layer("R", "R"), layer("b", "Conv"), layer("R", "R"), layer("R", "R")]
    assert names(join(nodes, profiled)) == ["a", "R_token_7", "b", "R", "R_token_9"]


def test_nodes_without_names_are_told_apart_by_place() -> None:
    nodes = [node("", "Conv", (1, 2)), node("x", "Relu"), node("", "Conv", (1, 3))]
    profiled = [layer("Conv_4", "Conv", (1, 2)), layer("x", "Relu"), layer("Conv_1", "Conv", (1, 3))]
    found = join(nodes, profiled)
    assert [one for one in found if not isinstance(one, str)] == [one.layer for one in nodes]


def test_names_that_contradict_the_place_win() -> None:
    nodes = [node("a", "Conv"), node("b", "Conv")]
    assert names(join(nodes, [layer("b", "Conv"), layer("a", "Conv")])) == ["b", "a"]


def test_layers_in_racing_order_are_joined_by_name_where_it_is_unique() -> None:
    nodes = [node("a", "Conv"), node("b", "MatMul"), node("R", "R"), node("R_token_1", "R")]
    found = names(join(nodes, [layer("b", "MatMul"), layer("a", "Conv"), layer("R", "R"), layer("R", "R")]))
    assert found[:2] == ["b", "a"]
    assert all("can be told to be this one" in why for why in found[2:])


def test_a_name_with_another_operator_is_not_the_same_layer() -> None:
    found = names(join([node("a", "Conv"), node("b", "Add")], [layer("a", "FusedConv")]))
    assert "can be told" in found[0]


def test_another_output_shape_breaks_the_join_and_a_free_dimension_does_not() -> None:
    nodes = [node("a", "Conv", ("N", 8)), node("b", "Conv", (1, 8)), node("c", "Conv", None)]
    profiled = [layer("a", "Conv", (4, 8)), layer("b", "Conv", (1, 9)), layer("c", "Conv", (7,))]
    assert names(join(nodes, profiled)) == ["a", "its output has shape [1, 9], and [1, 8] in the executed graph", "c"]


def test_channels_may_be_padded_to_a_block_in_the_blocked_layout_only() -> None:
    def blocked(domain: str, ran: tuple[int, ...]) -> bool:
        made = Layer(0, "r", "ReorderInput", domain, {}, (), (Tensor("o", "float32", (1, 136, 28, 28), "activation"),))
        nodes = [ExecutedNode("r", "ReorderInput", ExecutedLayer(made, (), None, None))]
        return not isinstance(join(nodes, [layer("r", "ReorderInput", ran)])[0], str)

    assert blocked("com.microsoft.nchwc", (1, 144, 28, 28))
    assert not blocked("com.microsoft.nchwc", (1, 152, 28, 28))
    assert not blocked("com.microsoft.nchwc", (1, 136, 29, 28))
    assert not blocked("", (1, 144, 28, 28))


def test_nodes_that_the_graph_folded_away_say_so() -> None:
    found = join([ExecutedNode("s", "Shape", None)], [layer("s", "Shape")])
    assert "follows from the shapes" in names(found)[0]


@pytest.fixture
def model(tmp_path: Path) -> LoadableModel:
    """Relu of Relu of one input, nodes without names."""
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["h"]), helper.make_node("Tanh", ["h"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3])],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "model.onnx"
    )
    return LoadableModel(ModelManifest(id="two"), tmp_path / "model.onnx")


def test_executed_model_keeps_the_files_names_and_maps_onto_the_authored_layers(model: LoadableModel) -> None:
    found = executed_model(OnnxRuntimeBackend(), model, BackendOptions())
    assert found.why is None
    assert found.size_bytes > 0
    assert [(one.name, one.op) for one in found.nodes] == [("", "Relu"), ("", "Tanh")]
    assert [[layer.op for layer in one.layer.authored] for one in found.nodes if one.layer] == [["Relu"], ["Tanh"]]


def test_a_graph_that_cannot_be_had_is_a_reason_not_a_failure(
    model: LoadableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "'null' does not tell what it executes" in (executed_model(NullBackend(), model, BackendOptions()).why or "")

    def full(*arguments: object) -> Path:
        raise BackendError("disk full", hint="free some space")

    monkeypatch.setattr(OnnxRuntimeBackend, "executed_graph", full)
    assert executed_model(OnnxRuntimeBackend(), model, BackendOptions()).why == (
        "the executed graph cannot be had: disk full (free some space)"
    )
