"""Bad input is one clear line and exit code 2, and nothing that was there before is lost."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

Run = Callable[..., Any]
QUICK = ("--min-duration", "0.2", "--warmup", "0.05", "--no-save")


def refused(result: Any, *words: str) -> None:
    """One line that starts with `error:` and holds each of `words`; exit code 2; no traceback."""
    assert result.code == 2, result.err
    assert "Traceback" not in result.err
    (line,) = [line for line in result.error_lines if line.startswith("error: ")]
    for word in words:
        assert word in line, f"{word!r} not in {line!r}"


def small_model(path: Path, operator: str = "Relu", domain: str = "", external: str | None = None) -> Path:
    """One operator on [1, 4], with an added weight that may be stored in the file `external`."""
    weight = numpy_helper.from_array(np.arange(4, dtype=np.float32), "w")
    if external is not None:
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        entry = weight.external_data.add()
        entry.key, entry.value = "location", external
    nodes = [helper.make_node("Add", ["x", "w"], ["s"]), helper.make_node(operator, ["s"], ["y"], domain=domain)]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [weight],
    )
    opsets = [helper.make_opsetid("", 17)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), str(path))
    return path


def test_missing_file(stratoscope: Run) -> None:
    refused(stratoscope("run", "nowhere/model.onnx", *QUICK), "nowhere/model.onnx")


def test_unknown_zoo_name_suggests_the_nearest(stratoscope: Run) -> None:
    refused(stratoscope("run", "resnet5O", *QUICK), "resnet5O", "resnet50")


def test_not_onnx(stratoscope: Run, tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("this is not a model\n" * 100)
    refused(stratoscope("run", "text.onnx", *QUICK), "text.onnx")


def test_empty_file(stratoscope: Run, tmp_path: Path) -> None:
    (tmp_path / "empty.onnx").touch()
    refused(stratoscope("run", "empty.onnx", *QUICK), "empty.onnx")


def test_truncated(stratoscope: Run, tmp_path: Path) -> None:
    whole = small_model(tmp_path / "whole.onnx").read_bytes()
    (tmp_path / "half.onnx").write_bytes(whole[: len(whole) // 2])
    refused(stratoscope("run", "half.onnx", *QUICK), "half.onnx")


def test_missing_external_data(stratoscope: Run, tmp_path: Path) -> None:
    small_model(tmp_path / "model.onnx", external="weights.bin")
    refused(stratoscope("run", "model.onnx", *QUICK), "weights.bin")


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "sub/../../secret.bin"])
def test_external_data_outside_the_folder(stratoscope: Run, tmp_path: Path, location: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(16))
    small_model(folder / "model.onnx", external=location)
    refused(stratoscope("run", "model/model.onnx", *QUICK), location, "outside")


def test_unsupported_operator(stratoscope: Run, tmp_path: Path) -> None:
    small_model(tmp_path / "model.onnx", operator="Frobnicate", domain="com.example")
    refused(stratoscope("run", "model.onnx", *QUICK), "Frobnicate", "com.example")


@pytest.mark.parametrize("shape", ["data_0=1,3,224", "data_0=1,4,224,224", "nothing=1,3,224,224"])
def test_wrong_shape(stratoscope: Run, shape: str) -> None:
    refused(stratoscope("run", "squeezenet", "--shape", shape, *QUICK), "data_0")


@pytest.mark.parametrize("shape", ["data_0", "data_0=1,x,2", "data_0=0,3,224,224"])
def test_malformed_shape(stratoscope: Run, shape: str) -> None:
    refused(stratoscope("run", "squeezenet", "--shape", shape, *QUICK), "--shape")


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf"])
def test_duration_that_is_not_positive(stratoscope: Run, value: str) -> None:
    refused(stratoscope("run", "digits", f"--min-duration={value}", "--no-save"), "--min-duration")


def test_unknown_backend(stratoscope: Run) -> None:
    refused(stratoscope("run", "digits", "--backend", "onnxruntim", *QUICK), "onnxruntim", "onnxruntime")


def test_unknown_provider(stratoscope: Run) -> None:
    refused(stratoscope("run", "digits", "--provider", "WarpExecutionProvider", *QUICK), "WarpExecutionProvider")


def test_output_folder_that_does_not_exist_is_refused_before_measuring(stratoscope: Run, tmp_path: Path) -> None:
    refused(stratoscope("run", "digits", "--json", "nowhere/record.json", *QUICK), "nowhere/record.json")


def test_corrupt_database_is_named_and_left_alone(stratoscope: Run, tmp_path: Path) -> None:
    database = tmp_path / "results.db"
    database.write_bytes(b"no database at all" * 500)
    before = database.read_bytes()
    refused(stratoscope("results"), "results.db")
    refused(stratoscope("run", "digits", "--min-duration", "0.2"), "results.db")
    assert database.read_bytes() == before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("schema: stratoscope/scenario/1\nmin_durations: 3\n", ("min_durations", "min_duration_s")),
        ("schema: stratoscope/scenario/9\n", ("stratoscope/scenario/9",)),
        ("schema: stratoscope/scenario/1\nmin_duration_s: 0\n", ("min_duration_s",)),
        ("schema: [unclosed\n", ("scenario.yaml",)),
        ("!!python/object/apply:os.system ['true']\n", ("scenario.yaml",)),
    ],
    ids=["unknown key", "unknown schema", "zero duration", "no yaml", "object tag"],
)
def test_bad_manifest(stratoscope: Run, tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    (tmp_path / "scenario.yaml").write_text(text)
    refused(stratoscope("spec", "validate", "scenario.yaml"), *words)


def test_yaml_bomb(stratoscope: Run, tmp_path: Path) -> None:
    lines = ["schema: stratoscope/scenario/1", "a: &a [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    for previous, name in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{name}: &{name} [{', '.join([f'*{previous}'] * 9)}]")
    (tmp_path / "bomb.yaml").write_text("\n".join(lines))
    refused(stratoscope("spec", "validate", "bomb.yaml"), "bomb.yaml")


def test_run_that_is_not_there(stratoscope: Run) -> None:
    refused(stratoscope("results", "show", "01ABC"))


def test_full_disk_keeps_the_record_and_the_database(stratoscope: Run, tmp_path: Path) -> None:
    """A file-size limit makes the kernel refuse the write in the middle of saving, as a full disk does."""
    first = stratoscope("run", "digits", "--min-duration", "0.2", "--warmup", "0.05")
    assert first.code == 0, first.err
    before = stratoscope("results", "--json", "-").out
    limit = (tmp_path / "results.db").stat().st_size

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    process = subprocess.run(
        [sys.executable, "-m", "stratoscope", "run", "digits", "--min-duration", "0.2"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "STRATOSCOPE_DB": str(tmp_path / "results.db")},
        preexec_fn=limited,
        timeout=300,
    )
    assert process.returncode in (0, 2), process.stderr
    assert "Traceback" not in process.stderr
    after = stratoscope("results", "--json", "-")
    assert after.code == 0
    assert len(after.out) >= len(before)


def test_model_file_is_not_touched(stratoscope: Run, tmp_path: Path) -> None:
    path = small_model(tmp_path / "model.onnx")
    shutil.copy(path, tmp_path / "copy.onnx")
    assert stratoscope("run", "model.onnx", *QUICK).code == 0
    assert path.read_bytes() == (tmp_path / "copy.onnx").read_bytes()
