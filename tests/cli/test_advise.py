"""`stratoscope advise`: bad input is one line and exit code 2; a model that nothing applies to is a plain result."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

Run = Callable[..., Any]


def refused(result: Any, *words: str) -> None:
    """One line that starts with `error:` and holds each of `words`; exit code 2; no traceback."""
    assert result.code == 2, result.err
    assert "Traceback" not in result.err
    (line,) = [line for line in result.error_lines if line.startswith("error: ")]
    for word in words:
        assert word in line, f"{word!r} not in {line!r}"


def relu_model(path: Path) -> Path:
    """One Relu on [1, 4]: no rewrite fits it."""
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path


@pytest.mark.parametrize("command", [("advise",), ("bench", "fill"), ("bench", "status")])
def test_missing_model(stratoscope: Run, command: tuple[str, ...]) -> None:
    refused(stratoscope(*command, "nowhere/model.onnx"), "nowhere/model.onnx")


def test_unknown_backend(stratoscope: Run) -> None:
    refused(stratoscope("advise", "digits", "--backend", "onnxruntim"), "onnxruntim", "onnxruntime")


def test_unknown_library(stratoscope: Run, tmp_path: Path) -> None:
    relu_model(tmp_path / "model.onnx")
    refused(stratoscope("bench", "fill", "model.onnx", "--library", "onnxruntim"), "onnxruntim", "onnxruntime")


@pytest.mark.parametrize("place", ["nowhere/fast.onnx", "fast.txt"])
def test_a_place_that_cannot_be_saved_to_is_refused_before_measuring(stratoscope: Run, place: str) -> None:
    refused(stratoscope("advise", "digits", "--save", place, "--no-store"), place)


@pytest.mark.parametrize("command", ["advise", "bench"])
def test_a_negative_budget(stratoscope: Run, command: str) -> None:
    words = ("advise", "digits") if command == "advise" else ("bench", "fill", "digits")
    result = stratoscope(*words, "--budget", "-1")
    assert result.code == 2
    assert "--budget" in result.err
    assert "Traceback" not in result.err


def test_a_fill_without_time_measures_nothing(stratoscope: Run, tmp_path: Path) -> None:
    relu_model(tmp_path / "model.onnx")
    result = stratoscope("bench", "fill", "model.onnx", "--library", "onnxruntime", "--budget", "0")
    assert result.code == 0, result.err
    assert "0 ok" in result.out or "0 of" in result.out


@pytest.mark.slow
def test_a_model_that_nothing_applies_to_and_no_time_for_trials_is_a_plain_result(
    stratoscope: Run, tmp_path: Path
) -> None:
    relu_model(tmp_path / "model.onnx")
    result = stratoscope("advise", "model.onnx", "--budget", "0", "--predict", "0", "--json", "record.json")
    assert result.code == 0, result.err
    advice = json.loads((tmp_path / "record.json").read_text())["advice"]
    assert {one["trial"] for one in advice["advice"]} <= {None}
    assert all(one["not_tried"] for one in advice["advice"])
    assert {"lrn-as-pool", "fold-affine"}.isdisjoint(one["key"] for one in advice["advice"])


@pytest.mark.slow
def test_an_interrupt_ends_it_without_a_traceback(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "stratoscope", "advise", "squeezenet", "--save", "fast.onnx"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "STRATOSCOPE_DB": str(tmp_path / "results.db")},
    )
    time.sleep(5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert not (tmp_path / "fast.onnx").exists()
