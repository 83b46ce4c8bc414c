"""Reading ONNX files: what is refused, with which line, and that weights stay where they are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.external_data_helper import convert_model_to_external_data, load_external_data_for_model

from stratoscope.errors import ModelError
from stratoscope.graph.onnx_file import load_onnx, model_digest
from stratoscope.graph.onnx_reader import read_graph
from stratoscope.graph.wire import KEPT_BYTES, MalformedMessage, encode_varint, skeleton


@pytest.fixture
def product(model_of: Callable[..., ModelProto]) -> ModelProto:
    """y = x W with 64 x 64 weights (16 KiB) and a bias of 64."""
    weights = np.arange(64 * 64, dtype=np.float32).reshape(64, 64)
    return model_of(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"], "gemm")],
        {"x": (1, 64)},
        ["y"],
        initializers=[
            numpy_helper.from_array(weights, "w"),
            numpy_helper.from_array(np.ones(64, dtype=np.float32), "b"),
        ],
    )


@pytest.fixture
def external(product: ModelProto, tmp_path: Path) -> Path:
    """The same model with its weights in `weights.bin`."""
    convert_model_to_external_data(product, location="weights.bin", size_threshold=1024)
    onnx.save(product, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def _relocated(path: Path, **entries: str) -> Path:
    """The model with other entries (location, offset, length) for the data of its weights."""
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = entries.get(entry.key, entry.value)
    path.write_bytes(model.SerializeToString())
    return path


def _refused(path: Path, *words: str) -> None:
    with pytest.raises(ModelError) as caught:
        load_onnx(path)
    line = str(caught.value)
    assert "\n" not in line
    assert caught.value.hint
    for word in words:
        assert word in line


def test_missing_file_folder_and_empty_file(tmp_path: Path) -> None:
    _refused(tmp_path / "nothing.onnx", "no model file", "nothing.onnx")
    _refused(tmp_path, "folder")
    (tmp_path / "empty.onnx").touch()
    _refused(tmp_path / "empty.onnx", "empty.onnx is empty")


@pytest.mark.parametrize(("suffix", "word"), [(".ort", "ONNX Runtime"), (".pt", "PyTorch"), (".pkl", "pickle")])
def test_other_formats_are_named(tmp_path: Path, suffix: str, word: str) -> None:
    (tmp_path / f"model{suffix}").write_bytes(b"something")
    _refused(tmp_path / f"model{suffix}", word, "not an ONNX model")


@pytest.mark.parametrize(
    "content",
    [b"hello, this is a text file\n" * 10, b"PK\x03\x04" + bytes(100), b"\x00" * 64, b"\xff" * 64, b"\x08\x08"],
    ids=["text", "zip", "zeros", "ones", "a version and no more"],
)
def test_files_that_are_not_onnx(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    _refused(tmp_path / "model.onnx", "ONNX model")


def test_every_truncation_is_refused(product: ModelProto, tmp_path: Path) -> None:
    whole = product.SerializeToString()
    path = tmp_path / "model.onnx"
    for length in [1, 2, 10, 100, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:length])
        _refused(path, "model.onnx")


@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_but_model_errors(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "random.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError):
        load_onnx(path)


def test_no_operator_set_and_newer_versions(product: ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    product.opset_import[0].version = onnx.defs.onnx_opset_version() + 1
    path.write_bytes(product.SerializeToString())
    _refused(path, "operator set", str(onnx.defs.onnx_opset_version() + 1))
    product.opset_import[0].version = 17
    product.ir_version = onnx.IR_VERSION + 1
    path.write_bytes(product.SerializeToString())
    _refused(path, "IR version")
    product.ir_version = 8
    del product.opset_import[:]
    path.write_bytes(product.SerializeToString())
    _refused(path, "names no operator set")


@pytest.mark.parametrize(
    "location", ["../weights.bin", "/etc/passwd", "a/../../weights.bin", "C:\\w.bin", "\\\\host\\w", ""]
)
def test_external_data_outside_the_folder(external: Path, location: str) -> None:
    _refused(_relocated(external, location=location), "outside the model's folder")


def test_external_data_through_a_link_that_leaves_the_folder(
    external: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside") / "weights.bin"
    (external.parent / "weights.bin").rename(outside)
    (external.parent / "weights.bin").symlink_to(outside)
    _refused(external, "outside the model's folder")


def test_a_link_within_the_folder_is_followed(external: Path) -> None:
    (external.parent / "weights.bin").rename(external.parent / "blob")
    (external.parent / "weights.bin").symlink_to("blob")
    assert load_onnx(external, weights=True).graph.initializer[0].raw_data


def test_external_data_missing_or_too_short(external: Path) -> None:
    data = external.parent / "weights.bin"
    content = data.read_bytes()
    data.write_bytes(content[:-1])
    _refused(external, "16384", "16383 bytes")
    data.unlink()
    _refused(external, "weights.bin", "not in")


@pytest.mark.parametrize(
    "entries", [{"offset": "-1"}, {"offset": "16384"}, {"length": "99999999999"}, {"offset": "many"}]
)
def test_external_data_with_places_that_do_not_exist(external: Path, entries: dict[str, str]) -> None:
    _refused(_relocated(external, **entries), "'w'")


@pytest.mark.parametrize("dims", [[1 << 40], [1 << 31, 1 << 31], [64, 63], [-64, -64]])
def test_a_tensor_that_claims_another_size_than_it_stores(product: ModelProto, tmp_path: Path, dims: list[int]) -> None:
    del product.graph.initializer[0].dims[:]
    product.graph.initializer[0].dims.extend(dims)
    (tmp_path / "model.onnx").write_bytes(product.SerializeToString())
    _refused(tmp_path / "model.onnx", "'w'")


def test_a_generated_constant_of_terabytes_is_refused(model_of: Callable[..., ModelProto]) -> None:
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["big"]),
        helper.make_node("ReduceSum", ["big"], ["sum"]),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    ]
    shape = numpy_helper.from_array(np.array([1 << 20, 1 << 20], dtype=np.int64), "shape")
    with pytest.raises(ModelError, match="GiB"):
        read_graph(model_of(nodes, {"x": (1,)}, ["y"], initializers=[shape]))


def test_large_weights_stay_in_the_file_and_can_be_found_there(product: ModelProto, tmp_path: Path) -> None:
    onnx.save(product, tmp_path / "model.onnx")
    light = load_onnx(tmp_path / "model.onnx")
    assert light.ByteSize() < KEPT_BYTES
    assert light.graph.initializer[1].raw_data  # the bias is small and kept
    load_external_data_for_model(light, str(tmp_path))  # onnx's own reader finds the rest where the skeleton says
    assert light.graph.initializer[0].raw_data == product.graph.initializer[0].raw_data
    whole = load_onnx(tmp_path / "model.onnx", weights=True)
    assert whole.SerializeToString(deterministic=True) == product.SerializeToString(deterministic=True)


@pytest.mark.parametrize("size", [0, 1, KEPT_BYTES, KEPT_BYTES + 1, 1 << 14])
def test_a_skeleton_is_the_model_but_for_large_data(model_of: Callable[..., ModelProto], size: int) -> None:
    tensor = TensorProto(name="w", data_type=TensorProto.UINT8, dims=[size], raw_data=bytes(size))
    model = model_of([helper.make_node("Identity", ["w"], ["y"])], {}, ["y"], initializers=[tensor])
    model.doc_string = "x" * (KEPT_BYTES + 1)
    whole = model.SerializeToString()
    light = ModelProto.FromString(skeleton(whole, "model.onnx"))
    if size <= KEPT_BYTES:
        assert light == model
    else:
        entries = {entry.key: entry.value for entry in light.graph.initializer[0].external_data}
        start = int(entries["offset"])
        assert whole[start : start + int(entries["length"])] == bytes(size)
        light.graph.initializer[0].CopyFrom(tensor)
        assert light == model


@given(st.integers(0, 2**63 - 1))
def test_varints_end_with_a_low_byte(value: int) -> None:
    encoded = encode_varint(value)
    assert sum((byte & 0x7F) << (7 * place) for place, byte in enumerate(encoded)) == value
    assert [byte >= 0x80 for byte in encoded] == [True] * (len(encoded) - 1) + [False]


def test_messages_nested_without_end_are_refused() -> None:
    # subgraphs in attributes in nodes, 200 deep: protobuf's own limit is 100 too
    content = bytes(KEPT_BYTES + 1)
    for _ in range(200):
        content = b"\x32" + encode_varint(len(content)) + content  # attribute.g
        content = b"\x2a" + encode_varint(len(content)) + content  # node.attribute
        content = b"\x0a" + encode_varint(len(content)) + content  # graph.node
    with pytest.raises(MalformedMessage, match="nested"):
        skeleton(b"\x3a" + encode_varint(len(content)) + content, "model.onnx")


def test_digest_of_one_file_is_that_of_sha256sum(product: ModelProto, tmp_path: Path) -> None:
    onnx.save(product, tmp_path / "model.onnx")
    content = (tmp_path / "model.onnx").read_bytes()
    assert model_digest(tmp_path / "model.onnx") == "sha256:" + hashlib.sha256(content).hexdigest()


def test_digest_covers_external_data_and_not_the_place_of_the_model(external: Path, tmp_path: Path) -> None:
    before = model_digest(external)
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / "weights.bin").write_bytes((external.parent / "weights.bin").read_bytes())
    (other / "renamed.onnx").write_bytes(external.read_bytes())
    assert model_digest(other / "renamed.onnx") == before
    changed = bytearray((other / "weights.bin").read_bytes())
    changed[-1] ^= 1
    (other / "weights.bin").write_bytes(changed)
    assert model_digest(other / "renamed.onnx") != before
