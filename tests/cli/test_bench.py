"""`stratoscope bench`: status before and after a fill, and results that go from one database to another."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper
from typer.testing import CliRunner

from stratoscope.cli.app import app


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file with two Relus of different shapes and a Sigmoid, one use each."""
    monkeypatch.setenv("STRATOSCOPE_LOCK", str(tmp_path / "lock"))
    monkeypatch.setenv("STRATOSCOPE_DB", str(tmp_path / "results.db"))
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Relu", ["a"], ["ya"]),
            helper.make_node("Relu", ["b"], ["yb"]),
            helper.make_node("Sigmoid", ["a"], ["yc"]),
        ],
        "small",
        [value("a", TensorProto.FLOAT, [1, 8]), value("b", TensorProto.FLOAT, [1, 16])],
        [value(name, TensorProto.FLOAT, [1, size]) for name, size in (("ya", 8), ("yb", 16), ("yc", 8))],
    )
    path = tmp_path / "small.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return str(path)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["bench", *arguments], env={"COLUMNS": "120"}, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


OPTIONS = ("--library", "onnxruntime", "--cache", "hot")


def status(model: str, *more: str) -> dict[str, object]:
    output = CliRunner().invoke(app, ["bench", "status", model, *OPTIONS, "--json", "-", *more]).stdout
    found: dict[str, object] = json.loads(output)
    return found


def test_a_fill_covers_the_model_and_a_second_one_measures_nothing(model: str) -> None:
    before = status(model)
    assert before["models"][0]["missing"] == 6
    assert before["models"][0]["coverage"][0]["roofline_share"] == 0.0
    assert "6 ok" in run("fill", model, *OPTIONS)
    after = status(model)
    assert (after["models"][0]["missing"], after["missing"]) == (0, [])
    assert after["models"][0]["coverage"][0]["roofline_share"] == 1.0
    assert after["statuses"] == {"ok": 6}
    assert "nothing to measure: all 6 combinations are known here" in run("fill", model, *OPTIONS)


def test_results_go_to_another_database_and_are_counted(model: str, tmp_path: Path) -> None:
    run("fill", model, *OPTIONS)
    file, other = str(tmp_path / "parts.jsonl"), str(tmp_path / "other.db")
    assert "6 measurements" in run("export", file)
    assert "6 added, 0 there already" in run("merge", file, "--db", other)
    assert "0 added, 6 there already" in run("merge", file, "--db", other)
    assert status(model, "--db", other)["models"][0]["missing"] == 0


def test_a_budget_of_nothing_says_how_to_go_on(model: str) -> None:
    assert "the budget ended before 3 parts" in run("fill", model, *OPTIONS, "--budget", "0")


def test_what_is_missing_is_listed_with_the_most_work_first(model: str) -> None:
    output = run("status", model, *OPTIONS)
    assert output.index("relu_1x16_f32") < output.index("relu_1x8_f32")
    assert "0.0 %, 0 of 3" in output


def test_an_unknown_library_is_one_clear_line(model: str) -> None:
    result = CliRunner().invoke(app, ["bench", "status", model, "--library", "mkl"])
    assert "no library is called 'mkl'" in str(result.exception)
