"""The cache: entries are whole or absent, damage is repaired, builders do not disturb each other."""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from stratoscope.errors import ModelError
from stratoscope.models.cache import CACHE_VARIABLE, Recipe, cache_folder, fetch, place, scratch_folder
from stratoscope.spec.model import ModelManifest


def tiny_model(name: str = "tiny") -> bytes:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], name, [value], [result])
    content: bytes = helper.make_model(graph).SerializeToString()
    return content


class Builder:
    """Counts how often it builds."""

    def __init__(self) -> None:
        self.built = 0

    def __call__(self, path: Path) -> ModelManifest:
        self.built += 1
        path.write_bytes(tiny_model())
        return ModelManifest(id="tiny")


def recipe(build: Callable[[Path], ModelManifest], size_bytes: int = 0) -> Recipe:
    return Recipe("tiny-0123", "tiny.onnx", "tiny", build, size_bytes)


def test_an_entry_is_built_once_and_knows_its_digest(tmp_path: Path) -> None:
    build, said = Builder(), []
    first = fetch(recipe(build), tmp_path, said.append)
    second = fetch(recipe(build), tmp_path, said.append)
    assert build.built == 1
    assert said == ["materialising tiny"]
    assert first == second
    assert first.manifest.sha256 == f"sha256:{hashlib.sha256(first.path.read_bytes()).hexdigest()}"


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: os.truncate(entry / "tiny.onnx", 10),
        lambda entry: (entry / "tiny.onnx").unlink(),
        lambda entry: (entry / "entry.json").unlink(),
        lambda entry: (entry / "entry.json").write_text("{"),
        lambda entry: (entry / "entry.json").write_text('{"files": 3, "manifest": {"id": "tiny"}}'),
        lambda entry: (entry / "tiny.onnx").write_bytes(tiny_model("tyni")),  # same size, other content
        lambda entry: (entry / "tiny.onnx").write_bytes(b"\xff" * len(tiny_model())),
    ],
    ids=["truncated", "no file", "no sidecar", "broken sidecar", "wrong sidecar", "changed content", "no model"],
)
def test_a_damaged_entry_is_built_again(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    build = Builder()
    whole = fetch(recipe(build), tmp_path)
    damage(whole.path.parent)
    assert fetch(recipe(build), tmp_path) == whole
    assert whole.path.read_bytes() == tiny_model()
    assert build.built == 2


def test_a_copied_cache_is_recognised_by_its_content(tmp_path: Path) -> None:
    build = Builder()
    fetch(recipe(build), tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")  # other inodes
    assert fetch(recipe(build), tmp_path / "two").path == tmp_path / "two" / "tiny-0123" / "tiny.onnx"
    assert build.built == 1


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(path: Path) -> ModelManifest:
        path.write_bytes(b"half")
        raise ModelError("cannot build")

    with pytest.raises(ModelError, match="cannot build"):
        fetch(recipe(fail), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["tiny-0123.lock"]


def test_what_a_killed_builder_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / ".tiny-0123.killed"
    left.mkdir()
    (left / "tiny.onnx").write_bytes(b"half")
    fetch(recipe(Builder()), tmp_path)
    assert not left.exists()


def test_a_disk_that_fills_up_is_named_with_the_way_out(tmp_path: Path) -> None:
    def fill(path: Path) -> ModelManifest:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(ModelError, match=rf"{tmp_path}: No space left on device.*{CACHE_VARIABLE}"):
        fetch(recipe(fill), tmp_path)


def test_a_disk_without_room_is_refused_before_it_is_filled(tmp_path: Path) -> None:
    build = Builder()
    with pytest.raises(ModelError, match=rf"MB needed, .* MB free.*{CACHE_VARIABLE}"):
        fetch(recipe(build, size_bytes=10**18), tmp_path)
    assert build.built == 0


def test_a_cache_that_cannot_be_written_is_named_with_the_way_out(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("in the way")
    with pytest.raises(ModelError, match=rf"cannot write model 'tiny'.*{file}.*{CACHE_VARIABLE}"):
        fetch(recipe(Builder()), file / "cache")
    with (
        pytest.raises(ModelError, match=rf"cannot write model 'tiny'.*{CACHE_VARIABLE}"),
        scratch_folder(file / "cache", "tiny"),
    ):
        pass


def build_slowly(folder: Path, log: Path) -> None:
    def build(path: Path) -> ModelManifest:
        with log.open("a") as file:
            file.write("built\n")
        content = tiny_model()
        with path.open("wb") as file_:
            for byte in content:
                file_.write(bytes([byte]))
        return ModelManifest(id="tiny")

    fetched = fetch(recipe(build), folder)
    assert fetched.path.read_bytes() == tiny_model()


def test_builders_in_several_processes_build_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    spawn = multiprocessing.get_context("fork")
    processes = [spawn.Process(target=build_slowly, args=(tmp_path / "cache", log)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert log.read_text() == "built\n"


def test_a_placed_folder_becomes_an_entry_and_an_equal_one_is_kept(tmp_path: Path) -> None:
    paths = []
    for _ in range(2):
        with scratch_folder(tmp_path, "tiny") as scratch:
            (scratch / "tiny.onnx").write_bytes(tiny_model())
            paths.append(place(scratch, ModelManifest(id="tiny"), "module-1", "tiny.onnx", tmp_path))
    assert paths[0] == paths[1]
    assert onnx.load(str(paths[0].path)).graph.name == "tiny"
    assert sorted(f.name for f in tmp_path.iterdir()) == ["module-1", "module-1.lock"]


def test_a_disk_that_fills_up_during_an_export_is_named_and_the_scratch_folder_is_gone(tmp_path: Path) -> None:
    def fill() -> None:
        with scratch_folder(tmp_path, "tiny") as scratch:
            (scratch / "tiny.onnx").write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(ModelError, match=rf"'tiny' into the cache folder {tmp_path}: No space left.*{CACHE_VARIABLE}"):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_a_scratch_folder_that_a_killed_export_left_goes_after_a_day(tmp_path: Path) -> None:
    old, young = tmp_path / ".building-old", tmp_path / ".building-young"
    for folder in (old, young):
        folder.mkdir()
    os.utime(old, (time.time() - 90_000,) * 2)
    with scratch_folder(tmp_path, "tiny"):
        assert (old.exists(), young.exists()) == (False, True)


def test_the_folder_is_the_argument_then_the_variable_then_the_xdg_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "named"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder(tmp_path / "given") == tmp_path / "given"
    assert cache_folder() == tmp_path / "named"
    monkeypatch.delenv(CACHE_VARIABLE)
    assert cache_folder() == tmp_path / "xdg" / "stratoscope"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "stratoscope"
