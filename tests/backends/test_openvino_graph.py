"""The graph that OpenVINO executes, mapped onto the authored one."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from onnx import TensorProto, helper

from stratoscope.backends.base import BackendOptions
from stratoscope.backends.openvino import OpenVinoBackend
from stratoscope.graph.mapping import ExecutedLayer, folded_away, map_executed
from stratoscope.graph.onnx_reader import read_graph
from stratoscope.graph.work import work_of
from stratoscope.measure.inputs import make_inputs
from stratoscope.measure.leveled_join import ProfiledLayer, executed_model, join
from stratoscope.models.resolve import resolve
from stratoscope.spec.model import LoadableModel
from stratoscope.trace.levels import Level

pytest.importorskip("openvino", reason="the openvino extra is not installed")

ONE_THREAD = BackendOptions(threads=1)


def _mapped(model: LoadableModel, folder: Path) -> list[ExecutedLayer]:
    path = OpenVinoBackend().executed_graph(model, ONE_THREAD, folder)
    assert model.path is not None
    assert path is not None
    return map_executed(read_graph(model.path, model.bound_shapes()), read_graph(path, model.bound_shapes()))


def _profiled(model: LoadableModel) -> pl.DataFrame:
    spans = OpenVinoBackend().trace(model, ONE_THREAD, make_inputs(model, 1, 0)[0], warmup=1, repeats=2)
    return spans.filter((pl.col("level") == Level.LAYER.value) & (pl.col("run") == 0))


@pytest.mark.parametrize("name", ["digits", "squeezenet", "shufflenet"])
def test_every_authored_layer_is_covered_once_and_work_is_conserved(name: str, tmp_path: Path) -> None:
    model = resolve(name)
    assert model.path is not None
    authored = read_graph(model.path, model.bound_shapes())
    mapped = _mapped(model, tmp_path)
    places = Counter(layer.index for one in mapped for layer in one.authored)
    assert not folded_away(authored, mapped)
    assert places == Counter(layer.index for layer in authored.layers)
    works = [work_of(layer) for layer in authored.layers]
    assert sum(one.work.flops for one in mapped if one.work) == sum(work.flops for work in works if work)


def test_convolutions_hold_their_activation_and_changes_of_layout_hold_nothing(tmp_path: Path) -> None:
    mapped = _mapped(resolve("squeezenet"), tmp_path)
    inside = {tuple(layer.op for layer in one.authored) for one in mapped if one.layer.op == "Convolution"}
    assert inside == {("Conv", "Relu")}
    reorders = [one for one in mapped if one.layer.op == "Reorder"]
    assert reorders
    assert all(one.authored == () and one.work is not None and one.work.flops == 0 for one in reorders)


def test_fused_layers_have_the_traffic_of_their_own_tensors_and_no_more(tmp_path: Path) -> None:
    """What passes from the convolution to its activation stays inside."""
    for one in _mapped(resolve("squeezenet"), tmp_path):
        if one.layer.op != "Convolution":
            continue
        conv, relu = one.authored
        alone, after = work_of(conv), work_of(relu)
        assert one.own_work is not None
        assert alone is not None
        assert after is not None
        assert one.own_work.bytes_read == alone.bytes_read
        assert one.own_work.bytes_written == after.bytes_written
        assert one.own_work.parameter_bytes == alone.parameter_bytes
        assert one.own_work.flops == alone.flops + after.flops


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet"])
def test_each_profiled_layer_is_found_in_the_executed_graph(name: str) -> None:
    """shufflenet's convolutions take in a normalisation, and have names with numbers that no two compilations share."""
    model = resolve(name)
    layers = _profiled(model)
    told = [json.loads(text) for text in layers["attributes"]]
    rows = [ProfiledLayer(called, one["op"]) for called, one in zip(layers["name"], told, strict=True)]
    executed = executed_model(OpenVinoBackend(), model, ONE_THREAD)
    assert executed.why is None
    found = join(executed.nodes, rows)
    assert not [one for one in found if isinstance(one, str)]
    assert layers["name"].to_list() == _profiled(model)["name"].to_list()


def test_output_of_the_graph_and_node_without_a_name_are_found(
    build: Callable[..., LoadableModel], tmp_path: Path
) -> None:
    """OpenVINO calls a node that makes an output of the graph after that output."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Softmax", ["m"], ["answer"], name="last", axis=1),
    ]
    weights = {"w": np.ones((3, 4), np.float32)}
    model = build(nodes, [("x", TensorProto.FLOAT, [2, 3])], [("answer", TensorProto.FLOAT, [2, 4])], weights)
    covered = {tuple(layer.op for layer in one.authored) for one in _mapped(model, tmp_path)}
    assert {("MatMul",), ("Softmax",)} <= covered


def test_a_fused_attention_holds_both_products_and_the_softmax(
    build: Callable[..., LoadableModel], tmp_path: Path
) -> None:
    """OpenVINO compiles product, scaling, softmax and product into one Subgraph."""
    nodes = [
        helper.make_node("MatMul", ["q", "k"], ["scores"], name="scores"),
        helper.make_node("Softmax", ["scores"], ["weights"], name="weights", axis=-1),
        helper.make_node("MatMul", ["weights", "v"], ["mixed"], name="mixed"),
        helper.make_node("Relu", ["mixed"], ["out"], name="last"),
    ]
    shape = [1, 12, 128, 64]
    inputs = [
        ("q", TensorProto.FLOAT, shape),
        ("k", TensorProto.FLOAT, [1, 12, 64, 128]),
        ("v", TensorProto.FLOAT, shape),
    ]
    model = build(nodes, inputs, [("out", TensorProto.FLOAT, shape)])
    mapped = _mapped(model, tmp_path)
    assert Counter(layer.op for one in mapped for layer in one.authored) == Counter(MatMul=2, Softmax=1, Relu=1)
