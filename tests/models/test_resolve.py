"""From what the user names to a model that can be loaded, and one clear line where there is none."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from stratoscope.errors import ModelError, SpecError
from stratoscope.models.resolve import resolve, with_batch
from stratoscope.models.zoo import DATA_FOLDER


def write_model(path: Path, shape: list[int | str | None], *, external: bool = False) -> Path:
    """y = x * w over the last dimension of size 2."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)
    weight = numpy_helper.from_array(np.array([2, 3], np.float32), "w")
    graph = helper.make_graph([helper.make_node("Mul", ["x", "w"], ["y"])], "g", [value], [result], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, str(path), save_as_external_data=external, location=f"{path.name}.data", size_threshold=0)
    return path


def test_a_zoo_name_gives_a_model_that_runs_at_every_batch(tmp_path: Path) -> None:
    said: list[str] = []
    one = resolve("squeezenet", cache=tmp_path, on_progress=said.append)
    assert said == ["materialising squeezenet"]
    assert [spec.shape for spec in one.manifest.inputs] == [(1, 3, 224, 224)]
    assert (one.manifest.weights, one.manifest.weights_seed, one.batch_axis) == ("seeded", 0, 0)
    assert one.path is not None
    session = onnxruntime.InferenceSession(str(one.path))
    for batch in (1, 4):
        (image,) = with_batch(one, batch).manifest.inputs
        feeds = {image.name: np.ones(image.shape, np.float32)}
        assert session.run(None, feeds)[0].shape[0] == batch


def test_the_manifest_holds_the_digest_of_the_file(tmp_path: Path) -> None:
    path = write_model(tmp_path / "scale.onnx", ["N", 2])
    manifest = resolve(path).manifest
    printed = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True).stdout
    assert manifest.sha256 == "sha256:" + printed.split()[0]
    assert (manifest.id, manifest.weights) == ("scale", "unknown")


def test_a_file_with_external_data_is_a_model_and_its_data_counts_in_the_digest(tmp_path: Path) -> None:
    path = write_model(tmp_path / "scale.onnx", ["N", 2], external=True)
    before = resolve(str(path)).manifest.sha256
    data = path.with_name("scale.onnx.data")
    data.write_bytes(np.array([2, 4], np.float32).tobytes())
    assert resolve(str(path)).manifest.sha256 != before
    data.unlink()
    with pytest.raises(ModelError, match=r"scale\.onnx\.data"):
        resolve(str(path))


def test_batch_size_and_shapes_bind_free_dimensions(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.onnx", ["N", "length", 2])
    bound = resolve(path, batch_size=4, shapes={"x": (4, 7, 2)})
    assert [spec.shape for spec in bound.manifest.inputs] == [(4, 7, 2)]
    assert [spec.shape for spec in with_batch(bound, 8).manifest.inputs] == [(8, 7, 2)]
    with pytest.raises(ModelError, match=r"without a value: length; its inputs are x=\[N,length,2\]"):
        resolve(path)


def test_a_fixed_batch_stays_and_asking_for_another_says_why(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.onnx", [3, 2])
    fixed = resolve(path)
    assert fixed.batch_axis is None
    assert with_batch(fixed, 3) is fixed
    with pytest.raises(ModelError, match=r"'m' has no free batch dimension: it cannot run at batch size 2"):
        with_batch(fixed, 2)
    with pytest.raises(ModelError, match="is not positive"):
        with_batch(fixed, 0)


@pytest.mark.parametrize(
    ("asked", "nearest"),
    [("resnet-50", "resnet50"), ("ResNet50", "resnet50"), ("inception-v1", "inception_v1"), ("bert", "bert-base")],
)
def test_an_unknown_name_suggests_the_nearest(asked: str, nearest: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=rf"no model '{asked}' in the zoo, and no such file .*did you mean.*{nearest}"):
        resolve(asked, cache=tmp_path)


def test_a_name_near_to_none_points_to_the_list() -> None:
    with pytest.raises(ModelError, match="`stratoscope models` lists the zoo"):
        resolve("zzzzzz")


@pytest.mark.parametrize("name", ["missing.onnx", "folder/missing.onnx", "folder/resnet50", "missing.yaml"])
def test_a_missing_file_is_named(name: str) -> None:
    with pytest.raises(ModelError, match=f"no such model file: {name}"):
        resolve(name)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"PK")
    with pytest.raises(ModelError, match=r"model\.pt is no model file .*\.onnx"):
        resolve(tmp_path / "model.pt")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cut.onnx"
    path.write_bytes((DATA_FOLDER / "digits.onnx").read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"cut\.onnx"):
        resolve(path)


def test_an_input_that_cannot_be_fed_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [value])
    path.write_bytes(helper.make_model(graph, ir_version=8).SerializeToString())
    with pytest.raises(ModelError, match=r"m\.onnx: input 'x' has no declared rank"):
        resolve(path)


def test_an_object_that_is_no_model_is_refused() -> None:
    with pytest.raises(ModelError, match="a dict is no model"):
        resolve({})


MANIFEST = """
schema: stratoscope/model/1
id: scale
path: m.onnx
license: MIT
inputs:
  - {name: x, element_type: float32, shape: [N, 5, 2], low: 1, high: 2}
outputs:
  - {name: y, element_type: float32, shape: [...], steps: [{op: softmax}]}
"""


def test_a_manifest_binds_what_the_graph_leaves_free_and_gives_the_range_of_values(tmp_path: Path) -> None:
    write_model(tmp_path / "m.onnx", ["N", "length", 2])
    (tmp_path / "m.yaml").write_text(MANIFEST)
    bound = resolve(tmp_path / "m.yaml", batch_size=3)
    (image,) = bound.manifest.inputs
    assert (image.shape, image.low, image.high) == ((3, 5, 2), 1.0, 2.0)
    (output,) = bound.manifest.outputs
    assert (output.shape, [step.op for step in output.steps]) == (("N", "length", 2), ["softmax"])
    assert (bound.name, bound.manifest.license, bound.path) == ("scale", "MIT", tmp_path / "m.onnx")
    assert resolve(tmp_path / "m.yaml", shapes={"x": (1, 9, 2)}).manifest.inputs[0].shape == (1, 9, 2)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: x", "name: image", r"declares input 'image', which the graph has not; it has x"),
        ("float32", "float16", "declares 'x' as float16 of rank 3; in the graph it is float32 of rank 3"),
        ("[N, 5, 2]", "[N, 2]", "as float32 of rank 2; in the graph it is float32 of rank 3"),
        ("[N, 5, 2]", "[N, 5, 3]", "gives 'x' the size 3 in a dimension that is 2 in the graph"),
        ("name: y", "name: z", "declares output 'z', which the graph has not; it has y"),
        ("path: m.onnx", "path: n.onnx", r"names a missing file: .*n\.onnx"),
        ("license: MIT", f"sha256: sha256:{'0' * 64}", "is not the one of its manifest"),
    ],
)
def test_a_manifest_that_contradicts_the_graph_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    write_model(tmp_path / "m.onnx", ["N", "length", 2])
    (tmp_path / "m.yaml").write_text(MANIFEST.replace(old, new))
    with pytest.raises(ModelError, match=message):
        resolve(tmp_path / "m.yaml")


def test_a_manifest_with_an_unknown_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(MANIFEST + "colour: red\n")
    with pytest.raises(SpecError, match="colour"):
        resolve(tmp_path / "m.yaml")


def test_a_manifest_without_a_path_names_a_zoo_model(tmp_path: Path) -> None:
    zoo = resolve("digits")
    (tmp_path / "m.yaml").write_text(f"schema: stratoscope/model/1\nid: digits\nsha256: {zoo.manifest.sha256}\n")
    assert resolve(tmp_path / "m.yaml", batch_size=2) == resolve(tmp_path / "m.yaml", shapes={"image": (2, 1, 8, 8)})
    assert resolve(tmp_path / "m.yaml").path == zoo.path


def test_resolving_a_cached_zoo_model_does_not_import_onnx(tmp_path: Path) -> None:
    resolve("squeezenet", cache=tmp_path)
    code = (
        "import sys; from pathlib import Path; from stratoscope.models.resolve import resolve; "
        f"resolve('squeezenet', cache=Path({str(tmp_path)!r})); resolve('digits'); "
        "sys.exit(bool({'onnx', 'torch', 'onnxruntime'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_cache_that_can_only_be_read_serves_what_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = resolve("squeezenet", cache=tmp_path / "cache")
    shutil.copytree(tmp_path / "cache", tmp_path / "image")  # other inodes, as in a container image

    def refuse(*_args: object, **_options: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    assert resolve("squeezenet", cache=tmp_path / "image").manifest == first.manifest
    with pytest.raises(ModelError, match=r"cannot write model 'shufflenet' into .*image: Read-only file system"):
        resolve("shufflenet", cache=tmp_path / "image")
