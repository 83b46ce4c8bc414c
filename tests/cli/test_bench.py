"""`stratoscope bench`: status before and after a fill, and results that go from one database to another."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import psutil
import pytest
from onnx import TensorProto, helper
from typer.testing import CliRunner

from stratoscope.cli.app import app
from stratoscope.store.performance import PerformanceDatabase


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


LAYERS = 12


def relus(tmp_path: Path) -> str:
    """A file with Relus of `LAYERS` shapes, the widest of which `bench fill` takes first."""
    value = helper.make_tensor_value_info
    sizes = range(8, 8 + LAYERS)
    graph = helper.make_graph(
        [helper.make_node("Relu", [f"x{size}"], [f"y{size}"]) for size in sizes],
        "relus",
        [value(f"x{size}", TensorProto.FLOAT, [1, size]) for size in sizes],
        [value(f"y{size}", TensorProto.FLOAT, [1, size]) for size in sizes],
    )
    path = tmp_path / "relus.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return str(path)


def started(tmp_path: Path, model: str, file: Path, limit_bytes: int | None = None) -> subprocess.Popen[str]:
    """The real command, in a process of its own; with `limit_bytes` it can write no longer file than that."""

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes or 0, limit_bytes or 0))

    return subprocess.Popen(
        [sys.executable, "-m", "stratoscope", "bench", "fill", model, *OPTIONS, "--db", str(file)],
        env={**os.environ, "STRATOSCOPE_LOCK": str(tmp_path / "lock")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=limited if limit_bytes is not None else None,
    )


@pytest.mark.slow
def test_a_kill_loses_the_part_that_was_running_and_leaves_no_process(tmp_path: Path) -> None:
    """Parts are measured one by one, the most work first: whole ones, then at most one that is not."""
    model, file = relus(tmp_path), tmp_path / "killed.db"
    process = started(tmp_path, model, file)
    with PerformanceDatabase(file) as database:
        while database.count() < 6:
            assert process.poll() is None
            time.sleep(0.02)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        kept = database.find()
        done = [sum(one.part.slug == f"relu_1x{size}_f32" for one in kept) for size in range(7 + LAYERS, 7, -1)]
        first_unfinished = next(place for place, count in enumerate(done) if count < 2)
        assert first_unfinished >= 3
        assert not any(done[first_unfinished + 1 :])
        assert all(one.seconds().value is not None for one in kept)
    assert children
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
    again = started(tmp_path, model, file)
    _, said = again.communicate(timeout=120)
    assert again.returncode == 0, said
    with PerformanceDatabase(file) as database:
        assert database.count() == 2 * LAYERS
        assert all(one in database.find() for one in kept)


@pytest.mark.slow
def test_a_full_disk_is_one_clear_line_and_keeps_what_was_measured(tmp_path: Path) -> None:
    """A limit on the length of files stands for the disk: no test may fill that."""
    model, file = relus(tmp_path), tmp_path / "full.db"
    with PerformanceDatabase(file):
        empty = file.stat().st_size
    process = started(tmp_path, model, file, empty + 90_000)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 2
    lines = [line for line in said.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert "cannot keep the measurement of relu_1x" in lines[0]
    assert "another --db" in lines[0]
    assert "Traceback" not in said
    with PerformanceDatabase(file) as database:
        assert 0 < database.count() < 2 * LAYERS
        assert all(one.status == "ok" for one in database.find())
