"""Reading a model as layers: shapes bound and inferred, constants folded, what stays unknown said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from stratoscope.errors import ModelError
from stratoscope.graph.element_types import short_name, stored_bytes
from stratoscope.graph.onnx_reader import read_graph
from stratoscope.graph.summary import summarize
from stratoscope.graph.work import work_of

ModelOf = Callable[..., ModelProto]
node = helper.make_node


def _int64(name: str, *values: int) -> TensorProto:
    return numpy_helper.from_array(np.array(values, dtype=np.int64), name)


def _float32(name: str, *shape: int) -> TensorProto:
    return numpy_helper.from_array(np.ones(shape, dtype=np.float32), name)


@pytest.fixture
def flexible(model_of: ModelOf) -> ModelProto:
    """Two inputs [batch, seq], and a reshape to [batch, -1, 4] whose target is computed from the shape of the first."""
    nodes = [
        node("Shape", ["a"], ["shape"], "shape"),
        node("Gather", ["shape", "zero"], ["batch"], "batch", axis=0),
        node("Unsqueeze", ["batch", "axes"], ["batch_1d"]),
        node("Concat", ["batch_1d", "rest"], ["target"], axis=0),
        node("Add", ["a", "b"], ["sum"], "sum"),
        node("Reshape", ["sum", "target"], ["y"], "reshape"),
    ]
    constants = [numpy_helper.from_array(np.int64(0), "zero"), _int64("axes", 0), _int64("rest", -1, 4)]
    return model_of(nodes, {"a": ("batch", "seq"), "b": ("batch", "seq")}, ["y"], initializers=constants)


def test_binding_one_input_binds_the_dimension_names_everywhere(flexible: ModelProto) -> None:
    graph = read_graph(flexible, {"a": (3, 8)})
    assert [tensor.shape for tensor in graph.inputs] == [(3, 8), (3, 8)]
    assert graph.outputs[0].shape == (3, 2, 4)
    assert graph.outputs[0].bytes == 3 * 8 * 4
    assert graph.notes == ()


def test_arithmetic_on_shapes_is_folded_and_its_result_kept(flexible: ModelProto) -> None:
    graph = read_graph(flexible, {"a": (3, 8)})
    assert [layer.op for layer in graph.layers] == ["Add", "Reshape"]
    assert graph.constants == 4
    target = graph.layers[1].inputs[1]
    assert target is not None
    assert target.role == "shape-constant"
    assert target.value == (3, -1, 4)


def test_free_dimensions_stay_symbolic_and_leave_work_unknown(flexible: ModelProto) -> None:
    graph = read_graph(flexible)
    assert graph.inputs[0].shape == ("batch", "seq")
    assert "free dimensions: batch, seq" in graph.notes[0]
    section = summarize(graph)
    assert section.flops.status == "unavailable"
    assert "Add (1, unknown shape)" in section.unknown_work


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({"c": (1, 4)}, "no input 'c'"),
        ({"a": (1, 4, 4)}, "not with 3 dimensions"),
        ({"a": (0, 4)}, "at least 1"),
        ({"a": (-1, 4)}, "at least 1"),
        ({"a": (2, 4), "b": (3, 4)}, "'batch' is 3 here and 2"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    flexible: ModelProto, shapes: dict[str, tuple[int, ...]], words: str
) -> None:
    with pytest.raises(ModelError, match=words):
        read_graph(flexible, shapes)


def test_a_fixed_dimension_cannot_be_changed(model_of: ModelOf) -> None:
    model = model_of([node("Relu", ["image"], ["y"])], {"image": (1, "channels", 8)}, ["y"])
    assert read_graph(model, {"image": (1, 3, 8)}).outputs[0].shape == (1, 3, 8)
    with pytest.raises(ModelError, match="can be set"):
        read_graph(model, {"image": (2, 3, 8)})
    with pytest.raises(ModelError, match="did you mean 'image'"):
        read_graph(model, {"imge": (1, 3, 8)})


def test_the_model_is_not_changed(flexible: ModelProto) -> None:
    before = flexible.SerializeToString(deterministic=True)
    read_graph(flexible, {"a": (3, 8)})
    assert flexible.SerializeToString(deterministic=True) == before


def test_names_are_made_stable_and_unique(model_of: ModelOf) -> None:
    nodes = [
        node("Constant", [], ["one"], value_float=1.0),
        node("Add", ["x", "one"], ["a"]),
        node("Add", ["a", "one"], ["b"], "twin"),
        node("Add", ["b", "one"], ["y"], "twin"),
    ]
    graph = read_graph(model_of(nodes, {"x": (1,)}, ["y"]))
    assert [layer.name for layer in graph.layers] == ["Add_1", "twin", "twin_3"]


def test_omitted_optional_inputs_are_none(model_of: ModelOf) -> None:
    nodes = [node("Clip", ["x", "", "six"], ["y"], "clip")]
    six = numpy_helper.from_array(np.float32(6), "six")
    layer = read_graph(model_of(nodes, {"x": (5,)}, ["y"], initializers=[six])).layers[0]
    assert layer.inputs[1] is None
    bound = layer.inputs[2]
    assert bound is not None
    assert (bound.role, bound.value) == ("shape-constant", (6.0,))
    work = work_of(layer)
    assert work is not None
    assert (work.flops, work.parameters) == (5, 0)  # one bound, one comparison


def test_initializers_that_are_inputs_too_are_constants(model_of: ModelOf) -> None:
    model = model_of(
        [node("MatMul", ["x", "w"], ["y"])], {"x": (2, 3), "w": (3, 4)}, ["y"], initializers=[_float32("w", 3, 4)]
    )
    for version, notes in ((3, 0), (10, 1)):
        model.ir_version = version
        graph = read_graph(model)
        assert [tensor.name for tensor in graph.inputs] == ["x"]
        assert len(graph.notes) == notes  # before IR 4 every initializer had to be an input
        assert summarize(graph).parameters.value == 12


def test_model_local_functions_are_inlined(model_of: ModelOf) -> None:
    double = helper.make_function(
        "local", "Double", ["x"], ["y"], [node("Add", ["x", "x"], ["y"])], [helper.make_opsetid("", 21)]
    )
    model = model_of([node("Double", ["x"], ["y"], domain="local")], {"x": (4,)}, ["y"], domains={"local": 1})
    model.functions.append(double)
    graph = read_graph(model)
    assert [layer.op for layer in graph.layers] == ["Add"]
    assert graph.outputs[0].shape == (4,)


def test_subgraphs_are_layers_of_unknown_work(model_of: ModelOf) -> None:
    value = helper.make_tensor_value_info
    branches = {
        f"{key}_branch": helper.make_graph([node(op, ["x"], ["r"])], key, [], [value("r", 1, [2])])
        for key, op in (("then", "Exp"), ("else", "Log"))
    }
    model = model_of([node("If", ["c"], ["y"], "choice", **branches)], {"c": (), "x": (2,)}, ["y"], types={"c": 9})
    graph = read_graph(model)
    assert [layer.op for layer in graph.layers] == ["If"]
    assert work_of(graph.layers[0]) is None
    assert "If 'choice' has subgraphs" in graph.notes[0]
    assert summarize(graph).unknown_work == ("If (1)",)


def test_shared_weights_are_one_parameter_also_through_a_transposition(model_of: ModelOf) -> None:
    nodes = [
        node("Gather", ["table", "ids"], ["rows"], "embedding"),
        node("Transpose", ["table"], ["projection"], "transpose"),
        node("MatMul", ["rows", "projection"], ["y"], "logits"),
    ]
    model = model_of(nodes, {"ids": (7,)}, ["y"], initializers=[_float32("table", 100, 8)], types={"ids": 7})
    graph = read_graph(model)
    assert [layer.name for layer in graph.layers] == ["embedding", "logits"]
    assert summarize(graph).parameters.value == 800
    assert summarize(graph).parameter_bytes.value == 3200


def test_computed_masks_are_data_but_not_parameters(model_of: ModelOf) -> None:
    nodes = [
        node(
            "ConstantOfShape", ["square"], ["full"], value=numpy_helper.from_array(np.array([-1e9], dtype=np.float32))
        ),
        node("Trilu", ["full"], ["mask"], upper=1),
        node("Add", ["scores", "mask"], ["y"], "masked"),
    ]
    model = model_of(nodes, {"scores": (16, 16)}, ["y"], initializers=[_int64("square", 16, 16)])
    graph = read_graph(model)
    work = work_of(graph.layers[0])
    assert work is not None
    assert (work.parameters, work.parameter_bytes) == (0, 16 * 16 * 4)


def test_dequantisation_of_weights_stays_a_layer(model_of: ModelOf) -> None:
    stored = numpy_helper.from_array(np.zeros((64, 32), dtype=np.int8), "w8")
    nodes = [
        node("DequantizeLinear", ["w8", "scale"], ["w"], "dequantize"),
        node("MatMul", ["x", "w"], ["y"], "product"),
    ]
    scale = numpy_helper.from_array(np.float32(0.1), "scale")
    graph = read_graph(model_of(nodes, {"x": (1, 64)}, ["y"], initializers=[stored, scale]))
    assert [layer.op for layer in graph.layers] == ["DequantizeLinear", "MatMul"]
    section = summarize(graph)
    assert section.parameters.value == 64 * 32
    assert section.parameter_bytes.value == 64 * 32


@pytest.mark.parametrize(
    ("kind", "elements", "size"),
    [
        (TensorProto.FLOAT, 3, 12),
        (TensorProto.DOUBLE, 3, 24),
        (TensorProto.BFLOAT16, 3, 6),
        (TensorProto.FLOAT8E4M3FN, 3, 3),
        (TensorProto.INT4, 3, 2),
        (TensorProto.UINT4, 4, 2),
        (TensorProto.FLOAT4E2M1, 5, 3),
        (TensorProto.BOOL, 3, 3),
        (TensorProto.COMPLEX64, 3, 24),
    ],
)
def test_bytes_of_element_types(model_of: ModelOf, kind: int, elements: int, size: int) -> None:
    model = model_of(
        [node("Identity", ["x"], ["y"])], {"x": (elements,)}, ["y"], types={"x": kind, "y": kind}, opset=23
    )
    assert read_graph(model).inputs[0].bytes == size


def test_names_of_element_types() -> None:
    words = [short_name(one) for one in ("float32", "bfloat16", "int64", "uint8", "bool", "float8_e4m3fn", None)]
    assert words == ["f32", "bf16", "i64", "u8", "bool", "f8_e4m3fn", "unknown"]
    assert stored_bytes("string", 3) is None


def test_a_shape_error_is_a_note_and_what_is_declared_is_taken(model_of: ModelOf) -> None:
    nodes = [node("MatMul", ["x", "w"], ["h"], "wrong"), node("Relu", ["h"], ["y"])]
    model = model_of(nodes, {"x": (2, 5)}, ["y"], initializers=[_float32("w", 3, 4)])
    model.graph.value_info.append(helper.make_tensor_value_info("h", 1, [2, 4]))
    graph = read_graph(model)
    assert "shape of MatMul 'h' not inferred" in graph.notes[0]
    assert graph.outputs[0].shape == (2, 4)


def test_small_external_constants_are_read(flexible: ModelProto, tmp_path: Path) -> None:
    onnx.save(flexible, tmp_path / "model.onnx", save_as_external_data=True, location="data.bin", size_threshold=0)
    assert (tmp_path / "data.bin").stat().st_size > 0
    graph = read_graph(tmp_path / "model.onnx", {"a": (3, 8)})
    assert graph.outputs[0].shape == (3, 2, 4)


def test_an_unknown_operator_takes_its_declared_shape(model_of: ModelOf) -> None:
    nodes = [node("Mystery", ["x"], ["h"], "mystery", domain="acme"), node("Relu", ["h"], ["y"])]
    model = model_of(nodes, {"x": ("n", 3)}, ["y"], domains={"acme": 1})
    model.graph.value_info.append(helper.make_tensor_value_info("h", 1, ["n", 7]))
    graph = read_graph(model, {"x": (5, 3)})
    assert graph.outputs[0].shape == (5, 7)
    section = summarize(graph)
    assert section.unknown_work == ("acme.Mystery (1)",)
    assert section.flops.statistic == "at least"
    assert section.flops.value == 35
    assert section.by_type == {"Relu": 1, "acme.Mystery": 1}


def test_attributes_have_the_defaults_of_their_operator_set(layer_of: Callable[..., object]) -> None:
    old, new = (layer_of("Softmax", [(2, 3, 4)], opset=opset) for opset in (11, 13))
    assert (old.attributes["axis"], old.since) == (1, 11)  # type: ignore[attr-defined]
    assert (new.attributes["axis"], new.since) == (-1, 13)  # type: ignore[attr-defined]
    norm = layer_of("LayerNormalization", [(2, 4), _float32("g", 4)])
    assert norm.attributes["epsilon"] == 1e-5  # type: ignore[attr-defined]
