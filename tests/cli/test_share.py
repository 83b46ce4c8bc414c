"""`stratoscope share` as a user runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from stratoscope.cli.share import parse_bytes
from stratoscope.errors import StratoscopeError

Run = Callable[..., Any]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    weight = np.random.default_rng(0).standard_normal((512, 512), dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 512])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 512])],
        [numpy_helper.from_array(weight, "w")],
    )
    path = tmp_path / "one.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_prepare_serve_status_run_and_evict(stratoscope: Run, model: Path, tmp_path: Path) -> None:
    store = {"STRATOSCOPE_SHARE": str(tmp_path / "s")}
    prepared = stratoscope("share", "prepare", model, **store)
    assert prepared.code == 0, prepared.err
    assert "private memory of a load" in prepared.out
    key = prepared.out.split("key ")[1].strip()
    listed = stratoscope("share", "status", **store)
    assert key[:12] in listed.out
    assert "no server" in listed.out
    server = subprocess.Popen(
        [sys.executable, "-m", "stratoscope", "share", "serve", "--memory-budget", "64M"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **store},
    )
    assert server.stdout is not None
    assert "67.1 MB" in server.stdout.readline()
    options = ("--shared", "--min-duration", "0.05", "--no-save", "--json", "-")
    record = stratoscope("run", model, *options, **store)
    assert record.code == 0, record.err
    assert '"tier": "memory"' in record.out
    status = json.loads(stratoscope("share", "status", "--json", "-", **store).out)
    assert status["schema"] == "stratoscope/share-status/1"
    assert status["server"]["models"][0]["leases"] == 0
    assert status["server"]["loads"] == 1
    memory = status["server"]["tiers"][0]
    assert memory["misses"] == 1
    assert memory["load_s"] > 0
    evicted = stratoscope("share", "evict", "one", **store)
    assert f"evicted one {key[:12]}" in evicted.out
    assert json.loads(stratoscope("share", "status", "--json", "-", **store).out)["prepared"] == []
    server.send_signal(signal.SIGINT)
    assert "clients keep" in server.communicate(timeout=20)[0]
    assert server.returncode == 0


def test_a_prepared_model_travels_to_a_remote_folder(stratoscope: Run, model: Path, tmp_path: Path) -> None:
    result = stratoscope("share", "prepare", model, "--to", tmp_path / "far", STRATOSCOPE_SHARE=str(tmp_path / "s"))
    assert result.code == 0, result.err
    assert len(list((tmp_path / "far").glob("*/manifest.json"))) == 1


def test_simulate_names_the_policy_to_use(stratoscope: Run, tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    # "dear" comes back after the two cheap ones: whoever knows its cost keeps it.
    log.write_text("model,bytes,load_s\n" + "dear,10,9\ncheap,10,1\nother,10,1\n" * 30)
    result = stratoscope("share", "simulate", log, "--capacity", "0.7")
    assert result.code == 0, result.err
    assert "use gd-wheel" in result.out
    rows = json.loads(stratoscope("share", "simulate", log, "--capacity", "0.7", "--json", "-").out)["policies"]
    costs = {row["policy"]: row["load_s"] for row in rows}
    assert costs["lru"] == 30 * 11  # a cycle of three in room for two: LRU misses each time
    assert costs["gd-wheel"] == 9 + 60  # the dear one stays, the others take turns


def test_scenario_cold_shows_each_step_of_each_state(stratoscope: Run, model: Path, tmp_path: Path) -> None:
    store = {"STRATOSCOPE_SHARE": str(tmp_path / "s")}
    file = tmp_path / "record.json"
    result = stratoscope(
        "run", model, "--scenario", "cold", "--no-save", "--json", file, "--html", tmp_path / "page.html", **store
    )
    assert result.code == 0, result.err
    for step in ("import", "parse", "optimise", "pack", "map", "page faults", "first run"):
        assert step in result.out
    record = json.loads(file.read_text())
    assert record["load"] is None
    states = {row["state"]: row for row in record["cold_start"]["states"]}
    assert list(states) == ["dropped", "cached", "mapped-dropped", "mapped", "shared", "resident"]
    assert [states[name]["tier"] for name in ("cached", "mapped", "shared")] == ["private", "file", "memory"]
    assert "sealed memory" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("prepare", "nothing.onnx"), "no such model file"),
        (("prepare", "nothing.onnx", "--kind", "jax"), "--kind 'jax'"),
        (("evict", "nothing"), "is not prepared"),
        (("simulate", "nothing.csv"), "cannot read the request log"),
        (("serve", "--policy", "clock"), "no eviction policy 'clock'"),
        (("serve", "--memory-budget", "much"), "not a number of bytes"),
    ],
)
def test_mistakes_are_one_line(stratoscope: Run, tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    result = stratoscope("share", *arguments, STRATOSCOPE_SHARE=str(tmp_path / "s"))
    assert result.code == 2
    assert len(result.error_lines) == 1
    assert words in result.err


def test_bytes_are_read_with_their_unit() -> None:
    assert [parse_bytes("-", text) for text in ("4096", "1K", "1.5M", "2GiB", "1t")] == [
        4096,
        1024,
        3 << 19,
        2 << 30,
        1 << 40,
    ]
    for wrong in ("", "M", "-1G", "1X"):
        with pytest.raises(StratoscopeError, match="bytes"):
            parse_bytes("--memory-budget", wrong)
