"""Prepared models: same answers, weights in one place, and nothing accepted that was changed since."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from stratoscope.backends.onnxruntime import OnnxRuntimeBackend
from stratoscope.errors import BackendError
from stratoscope.share import graph_file
from stratoscope.share.artifact import MANIFEST, PAGE_BYTES, PAGE_FROM_BYTES
from stratoscope.share.errors import IntegrityError, ShareError
from stratoscope.share.library import Library
from stratoscope.share.memory import mapping_count
from stratoscope.share.opening import attach
from stratoscope.share.prepare import largest_error, prepare
from stratoscope.spec.model import LoadableModel
from stratoscope.spec.options import BackendOptions

Chain = Callable[..., LoadableModel]
Build = Callable[..., LoadableModel]
BACKEND = OnnxRuntimeBackend()
SHARED = BackendOptions(threads=1, shared=True)


def test_a_shared_session_answers_like_the_default(chain: Chain) -> None:
    model = chain()
    feeds = {"x": np.random.default_rng(1).standard_normal((3, 256), dtype=np.float32)}
    default = BACKEND.load(model, BackendOptions(threads=1)).run(feeds)[0]
    session = BACKEND.load(model, SHARED)
    np.testing.assert_allclose(session.run(feeds)[0], default, rtol=1e-4, atol=1e-5)
    assert session.effective_options["shared"]["tier"] == "file"
    assert session.effective_options["shared"]["weights_bytes"] >= 3 * 256 * 256 * 4
    bound = session.bind(feeds)
    session.close()
    np.testing.assert_allclose(bound()[0], default, rtol=1e-4, atol=1e-5)  # weights stay while a call is bound


def test_loading_copies_no_weights(chain: Chain) -> None:
    model = chain(layers=8, width=1024)  # 32 MiB
    session = BACKEND.load(model, SHARED)
    facts = session.effective_options["shared"]
    assert facts["packing"] == "direct"
    assert facts["private_bytes"] < facts["weights_bytes"] / 4


def test_convolutions_are_stored_in_the_runtimes_own_layout(build: Build) -> None:
    stream = np.random.default_rng(0)
    weights = {f"w{n}": stream.standard_normal((64, 64, 3, 3), dtype=np.float32) / 24 for n in range(2)}
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["h"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["h", "w1"], ["y"], pads=[1, 1, 1, 1]),
    ]
    model = build(nodes, {"x": ["B", 64, 9, 9]}, ["y"], weights)
    manifest = prepare(model).manifest
    assert manifest.packing == "direct"
    assert manifest.facts["largest_error"] < 1e-5
    assert manifest.weights_bytes() == 2 * 64 * 64 * 9 * 4


def test_quantised_matrices_are_shared_through_saved_blobs(build: Build) -> None:
    stream, width, block = np.random.default_rng(0), 2048, 32
    nodes, weights, source = [], {}, "x"
    for n in range(6):  # 2 MiB each: more than what a load may keep for itself
        weights[f"q{n}"] = stream.integers(0, 256, (width, width // block, block // 2), dtype=np.uint8)
        weights[f"s{n}"] = (stream.random(width * width // block, dtype=np.float32) + 0.5) / 512
        attributes = {"K": width, "N": width, "bits": 4, "block_size": block, "accuracy_level": 4}
        target = "y" if n == 5 else f"h{n}"
        nodes.append(
            helper.make_node("MatMulNBits", [source, f"q{n}", f"s{n}"], [target], domain="com.microsoft", **attributes)
        )
        source = target
    model = build(nodes, {"x": ["B", width]}, ["y"], weights, domains=[("com.microsoft", 1)])
    manifest = prepare(model).manifest
    assert manifest.packing == "saved"
    assert manifest.facts["unsaved_private_bytes"] > 6 * width * width / 2
    assert manifest.facts["private_bytes"] < 6 << 20
    assert manifest.facts["largest_error"] == 0
    assert BACKEND.load(model, SHARED).effective_options["shared"]["packing"] == "saved"


def test_large_weights_begin_on_pages(chain: Chain) -> None:
    artifact = prepare(chain())
    large = [tensor for tensor in artifact.manifest.tensors if tensor.nbytes >= PAGE_FROM_BYTES]
    assert len(large) == 3
    assert {tensor.offset % PAGE_BYTES for tensor in large} == {0}


def test_the_key_tells_model_runtime_and_level_apart(chain: Chain) -> None:
    model = chain()
    keys = {prepare(model).key, prepare(model, optimization="basic").key, prepare(model, kind="weights").key}
    assert len(keys) == 3
    assert prepare(model).key in keys
    assert prepare(chain(seed=1)).key not in keys  # same file name, other weights


def test_attached_weights_are_those_of_the_file_and_refuse_writes(chain: Chain) -> None:
    model = chain()
    with attach(model) as weights:
        assert sorted(weights) == ["w0", "w1", "w2"]
        for tensor in onnx.load(str(model.path)).graph.initializer:
            np.testing.assert_array_equal(weights[tensor.name], onnx.numpy_helper.to_array(tensor))
        one = weights["w0"]
        with pytest.raises(ValueError, match="read-only"):
            one[0, 0] = 1
        with pytest.raises(ValueError, match="WRITEABLE"):
            one.flags.writeable = True
    assert one[0, 0] == one[0, 0]  # an array that was taken stays valid after the end of the lease


def test_detaching_leaves_no_mapping_behind(chain: Chain) -> None:
    model = chain()
    attach(model).close()
    before = mapping_count()
    for _ in range(20):
        attach(model).close()
    assert mapping_count() <= before + 1  # the heap may move


def test_equal_layers_of_two_models_lie_on_disk_and_in_memory_once(chain: Chain, library: Library) -> None:
    long, short = chain("long", layers=3), chain("short", layers=2)  # same seed: the first two layers are equal
    one = prepare(long, kind="weights", granularity="layer")
    other = prepare(short, kind="weights", granularity="layer")

    def inodes(folder: Path) -> set[int]:
        return {file.stat().st_ino for file in folder.glob("blob-*")}

    assert len(inodes(one.folder)) == 3
    assert inodes(other.folder) < inodes(one.folder)
    np.testing.assert_array_equal(attach(long, granularity="layer")["w1"], attach(short, granularity="layer")["w1"])
    assert library.evict(one.key)
    assert len(list((library.root / ".layers").iterdir())) == 2
    assert attach(short, granularity="layer")["w1"].shape == (256, 256)


def damaged(artifact_folder: Path, name: str, where: int) -> None:
    with open(artifact_folder / name, "r+b") as file:
        file.seek(where)
        byte = file.read(1)[0]
        file.seek(where)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("name", ["weights.bin", "graph.onnx"])
def test_one_changed_bit_is_found_and_the_weight_named(chain: Chain, name: str) -> None:
    model = chain()
    artifact = prepare(model)
    damaged(artifact.folder, name, 4096 if name == "weights.bin" else 40)
    with pytest.raises(IntegrityError, match="digest differs") as caught:
        BACKEND.load(model, SHARED)
    assert name in caught.value.message


def test_a_change_that_hides_its_time_is_found(chain: Chain) -> None:
    model = chain()
    artifact = prepare(model)
    before = (artifact.folder / "weights.bin").stat()
    damaged(artifact.folder, "weights.bin", 100)
    os.utime(artifact.folder / "weights.bin", ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(IntegrityError, match="digest differs"):
        attach(model, kind="onnxruntime")


def test_a_truncated_file_is_found_before_it_is_mapped(chain: Chain) -> None:
    model = chain()
    artifact = prepare(model)
    os.truncate(artifact.folder / "weights.bin", 1000)
    with pytest.raises(IntegrityError, match="1000 bytes instead of"):
        BACKEND.load(model, SHARED)


def test_a_link_out_of_the_store_is_refused(chain: Chain, tmp_path: Path) -> None:
    model = chain()
    artifact = prepare(model)
    outside = tmp_path / "outside.bin"
    (artifact.folder / "weights.bin").rename(outside)
    (artifact.folder / "weights.bin").symlink_to(outside)
    with pytest.raises(IntegrityError, match=r"weights\.bin"):
        BACKEND.load(model, SHARED)


@pytest.mark.parametrize("name", ["../outside.bin", "/etc/passwd", "..", ""])
def test_a_manifest_cannot_name_files_elsewhere(chain: Chain, name: str) -> None:
    model = chain()
    artifact = prepare(model)
    path = artifact.folder / MANIFEST
    path.write_text(path.read_text().replace('"weights.bin"', f'"{name}"'))
    with pytest.raises(IntegrityError, match="is not a manifest"):
        BACKEND.load(model, SHARED)


def test_other_models_work_while_one_is_damaged(chain: Chain) -> None:
    bad, good = chain("bad", seed=1), chain("good", seed=2)
    artifact = prepare(bad)
    prepare(good)
    os.truncate(artifact.folder / "weights.bin", 0)
    assert attach(good, kind="onnxruntime")["w0/panels0"].nbytes == 256 * 256 * 4


def test_an_evicted_model_is_prepared_again_at_next_use(chain: Chain, library: Library) -> None:
    model = chain()
    artifact = prepare(model)
    assert library.evict(artifact.key)
    assert not library.evict(artifact.key)
    assert library.read(artifact.key) is None
    assert prepare(model).key == artifact.key


def test_a_store_that_others_can_write_is_refused(share_root: Path) -> None:
    share_root.mkdir()
    share_root.chmod(0o777)
    with pytest.raises(ShareError, match="other users"):
        Library.open(share_root)


def test_a_full_disk_is_one_line_and_leaves_nothing_behind(
    chain: Chain, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    model = chain()
    with monkeypatch.context() as patched:
        patched.setattr(graph_file, "_place", full)
        with pytest.raises(ShareError, match=r"No space left.*free some space"):
            prepare(model)
    assert library.entries() == []
    assert list(library.root.glob(".building-*")) == []
    prepare(model)


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(
    chain: Chain, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("usage", (), {"free": 3 * 256 * 256 * 4})  # the weights once; preparing needs them twice
    monkeypatch.setattr("stratoscope.share.prepare.shutil.disk_usage", lambda _root: usage)
    with pytest.raises(ShareError, match=r"MB are free.*free some space"):
        prepare(chain())
    assert library.entries() == []


def test_a_model_whose_answers_changed_is_not_used() -> None:
    ones, nan = np.ones(4, np.float32), np.array([1, np.nan], np.float32)
    assert largest_error("m", [ones], [ones * np.float32(1 + 1e-6)]) < 1e-5
    for other in (ones * 1.01, np.ones(5, np.float32), ones.astype(np.float64)):
        with pytest.raises(ShareError):
            largest_error("m", [ones], [other])
    with pytest.raises(ShareError, match="finite"):
        largest_error("m", [nan], [np.ones(2, np.float32)])
    with pytest.raises(ShareError, match="other values"):
        largest_error("m", [np.array([1, 2])], [np.array([1, 3])])


def test_a_missing_file_and_a_foreign_provider_are_named(chain: Chain) -> None:
    model = chain()
    assert model.path is not None
    model.path.unlink()
    with pytest.raises(BackendError, match="there is no file"):
        BACKEND.load(model, SHARED)
    with pytest.raises(ShareError, match="cannot read"):
        prepare(model)


def test_two_processes_prepare_a_model_once(chain: Chain, library: Library) -> None:
    model = chain()
    code = (
        "import sys; from stratoscope.models.resolve import resolve; from stratoscope.share.prepare import prepare;"
        "said = []; prepare(resolve(sys.argv[1], batch_size=1), on_progress=said.append); print(len(said))"
    )
    command = [sys.executable, "-c", code, str(model.path)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    steps = sorted(int(process.communicate(timeout=120)[0]) for process in running)
    assert steps[:2] == [0, 0]
    assert steps[2] > 0
    assert len(library.entries()) == 1


def test_the_package_offers_attach_and_load_torch(chain: Chain) -> None:
    import stratoscope.share as share

    assert share.attach(chain())["w0"].shape == (256, 256)
    assert callable(share.load_torch)
    with pytest.raises(AttributeError, match="detach"):
        share.detach  # noqa: B018


def test_a_shared_model_can_be_traced_layer_by_layer(chain: Chain) -> None:
    model = chain()
    spans = BACKEND.trace(model, SHARED, {"x": np.ones((3, 256), np.float32)}, warmup=1, repeats=2)
    names = spans["name"].to_list()
    assert sum(name == "chain" for name in names) == 2
    assert len(names) > 2 * 3
