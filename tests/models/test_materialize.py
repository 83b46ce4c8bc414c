"""Seeded weights: the graph computes what its authors exported, and no value distorts a measurement."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from stratoscope.errors import ModelError
from stratoscope.models.materialize import (
    OPSET,
    draw,
    fill_weights,
    free_batch,
    light_folder,
    materialize_light,
    second_moments,
    verify_batch,
)
from stratoscope.models.zoo import list_zoo

LIGHT = {entry.name: entry.file for entry in list_zoo() if entry.source == "onnx"}
HEAVY = ("alexnet", "zfnet512", "vgg19")
EVERY = [pytest.param(name, marks=pytest.mark.slow) if name in HEAVY else name for name in LIGHT]
SMALLEST_NORMAL = 2.0**-126


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def pixels(batch: int) -> np.ndarray:
    return np.random.default_rng(1).uniform(-2, 2, (batch, 3, 224, 224)).astype(np.float32)


def authored(name: str, filled: onnx.ModelProto) -> onnx.ModelProto:
    """The graph as the onnx package has it (opset 9, batch 1), its constants replaced by the weights of `filled`."""
    model = onnx.load(str(light_folder() / LIGHT[name]))
    weights = {t.name: t for t in filled.graph.initializer if t.data_type == TensorProto.FLOAT}
    nodes = [node for node in model.graph.node if node.output[0] not in weights]
    others = [t for t in model.graph.initializer if t.name not in weights]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend([*others, *weights.values()])
    model.ir_version = 8
    return model


@pytest.mark.parametrize("name", EVERY)
def test_a_materialised_network_computes_what_its_authors_exported(name: str) -> None:
    filled = materialize_light(LIGHT[name], 0)
    image = pixels(3)
    modern, old = session(filled), session(authored(name, filled))
    (batched,) = modern.run(None, {modern.get_inputs()[0].name: image})
    rows = [old.run(None, {modern.get_inputs()[0].name: image[row : row + 1]})[0] for row in range(3)]
    np.testing.assert_allclose(batched, np.concatenate(rows), rtol=1e-4, atol=1e-7)
    assert np.isfinite(batched).all()
    assert np.abs(batched[0] - batched[1]).max() > 1e-6  # the output depends on the input
    assert np.ptp(batched[0]) > 1e-5  # and on the class


@pytest.mark.parametrize("name", [name for name in LIGHT if name not in HEAVY])
def test_weights_are_neither_constant_nor_zero_nor_denormal(name: str) -> None:
    graph = materialize_light(LIGHT[name], 0).graph
    weights = [numpy_helper.to_array(t) for t in graph.initializer if t.data_type == TensorProto.FLOAT and t.dims]
    assert sum(w.size for w in weights) > 1_000_000
    for weight in weights:
        assert np.abs(weight).min() >= SMALLEST_NORMAL
        assert weight.std() > 0
    assert not {"ConstantOfShape", "Constant"} & {node.op_type for node in graph.node}


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet", "resnet50", "inception_v1", "densenet121"])
def test_activations_keep_their_size_through_the_depth(name: str) -> None:
    """Far from denormals, whose arithmetic is slow, and from a softmax that is one class and else zero."""
    model = materialize_light(LIGHT[name], 0)
    hidden = [n.output[0] for n in model.graph.node if n.op_type in ("Conv", "Relu", "Sum", "Gemm", "Concat")]
    known = {value.name for value in model.graph.output}
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in hidden if name not in known)
    run = session(model)
    for activation in run.run(hidden, {run.get_inputs()[0].name: pixels(1)}):
        assert 0.05 < math.sqrt(np.square(activation, dtype=np.float64).mean()) < 20
        assert np.abs(activation[activation != 0]).min() > 1e-20


def test_the_graph_is_of_opset_18_with_the_batch_free_and_no_weights_among_its_inputs() -> None:
    model = materialize_light(LIGHT["shufflenet"], 0)
    onnx.checker.check_model(model, full_check=True)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", OPSET)]
    (image,) = model.graph.input
    assert [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim] == ["N", 3, 224, 224]


def test_squeezenet_keeps_one_softmax_along_the_classes() -> None:
    """Opset 9 flattens [N, 1000, 1, 1] before softmax; a converter would write that as three layers."""
    (softmax,) = (n for n in materialize_light(LIGHT["squeezenet"], 0).graph.node if n.op_type == "Softmax")
    assert helper.get_attribute_value(softmax.attribute[0]) == 1


@pytest.mark.parametrize("name", ["squeezenet", "resnet50"])
def test_the_same_seed_gives_the_same_file_and_another_seed_another(name: str) -> None:
    digests = {
        seed: hashlib.sha256(materialize_light(LIGHT[name], seed).SerializeToString(deterministic=True)).hexdigest()
        for seed in (0, 1)
    }
    again = hashlib.sha256(materialize_light(LIGHT[name], 0).SerializeToString(deterministic=True)).hexdigest()
    assert digests[0] == again != digests[1]


def test_draws_are_the_same_bits_on_every_machine() -> None:
    values = draw("fc6_w_0", (3,), 0, 0.0, 1.0)
    # By hand: PCG64 seeded with the first 16 bytes of sha256("0:fc6_w_0"), four 16-bit parts of each word summed.
    key = hashlib.sha256(b"0:fc6_w_0").digest()
    words = [int(w) for w in np.random.PCG64(int.from_bytes(key[:16], "little")).random_raw(3)]
    sums = [sum((w >> shift) & 0xFFFF for shift in (0, 16, 32, 48)) for w in words]
    deviation = math.sqrt(4 * (65536**2 - 1) / 12)
    np.testing.assert_allclose(values, [(s - 2 * 65535) / deviation for s in sums], atol=2e-5)
    assert values.tobytes().hex() == "c4c4943f31a2d7be64d74ebf"


@given(st.text(max_size=20), st.integers(0, 2**32), st.floats(1e-6, 10))
def test_draws_are_centred_with_the_deviation_asked_for(name: str, seed: int, deviation: float) -> None:
    values = draw(name, (40, 250), seed, 0.0, deviation)
    assert values.dtype == np.float32
    assert abs(values.mean()) < 5 * deviation / 100  # five standard errors of 10,000 values
    assert values.std() == pytest.approx(deviation, rel=0.05)
    assert np.abs(values).min() > 0
    assert np.abs(values).max() < 3.5 * deviation


def test_draws_of_different_tensors_are_not_correlated() -> None:
    one, other = draw("a", (100_000,), 0, 0, 1), draw("b", (100_000,), 0, 0, 1)
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.02


def node_graph(*nodes: onnx.NodeProto, weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 8, 8])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    initializers = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    return helper.make_model(
        helper.make_graph(nodes, "g", [image], [output], initializers), opset_imports=[helper.make_opsetid("", OPSET)]
    )


def test_weights_behind_a_relu_have_the_deviation_of_he_2015() -> None:
    model = node_graph(
        helper.make_node("Conv", ["x", "w1"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["y"]),
        weights={"w1": np.zeros((64, 4, 3, 3), np.float32), "w2": np.zeros((64, 64, 3, 3), np.float32)},
    )
    fill_weights(model, 0)
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    assert weights["w1"].std() == pytest.approx(math.sqrt(1 / (4 * 9)), rel=0.03)
    assert weights["w2"].std() == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.03)


def test_a_residual_sum_adds_its_branches_and_relu_keeps_the_skip_connection() -> None:
    model = node_graph(
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Conv", ["r", "w"], ["c"]),
        helper.make_node("Sum", ["r", "c"], ["s"]),
        helper.make_node("Relu", ["s"], ["y"]),
        weights={"w": np.zeros((4, 4, 1, 1), np.float32)},
    )
    moments = second_moments(model.graph)
    assert [moments[name] for name in ("r", "c", "s", "y")] == [0.5, 1.0, 1.5, 1.0]


def test_a_parameter_of_unknown_meaning_is_refused_by_name() -> None:
    model = node_graph(helper.make_node("PRelu", ["x", "slope"], ["y"]), weights={"slope": np.ones(1, np.float32)})
    with pytest.raises(ModelError, match=r"'slope', input 1 of PRelu"):
        fill_weights(model, 0)


def test_a_reshape_that_folds_the_batch_cannot_be_freed() -> None:
    model = node_graph(
        helper.make_node("Reshape", ["x", "target"], ["y"]), weights={"target": np.array([4, 64], np.int64)}
    )
    with pytest.raises(ModelError, match="folds the batch"):
        free_batch(model)


def test_a_graph_whose_output_forgets_the_batch_does_not_verify() -> None:
    model = node_graph(helper.make_node("Gather", ["x", "first"], ["y"]), weights={"first": np.array(0)})
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 8, 8]))
    with pytest.raises(ModelError, match=r"\(4, 8, 8\) at batch size 1"):
        verify_batch(model)


def test_a_missing_light_graph_is_named() -> None:
    with pytest.raises(ModelError, match=r"does not carry light_lenet\.onnx"):
        materialize_light("light_lenet.onnx", 0)
