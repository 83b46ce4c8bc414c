"""`stratoscope machine` as a user meets it: one line for what is wrong, the rest measured, files for others."""

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

import pytest

Run = Callable[..., Any]


@pytest.fixture
def machine(stratoscope: Run, tmp_path: Path) -> Run:
    """`stratoscope machine ARGS` with a lock and a cache of its own."""

    def run(*arguments: str | Path) -> Any:
        lock, cache = str(tmp_path / "lock"), str(tmp_path / "cache")
        return stratoscope("machine", *arguments, STRATOSCOPE_LOCK=lock, STRATOSCOPE_CACHE=cache)

    return run


def test_probes_are_listed_with_their_cases_or_why_not(machine: Run) -> None:
    result = machine("list")
    assert result.code == 0
    for name in ("stream", "chase", "gemm", "transport", "file", "gpu", "collective"):
        assert name in result.out
    assert result.err == ""


@pytest.mark.slow
def test_measure_keep_show_and_compare(machine: Run, tmp_path: Path) -> None:
    first, second, page = tmp_path / "a.json", tmp_path / "b.json", tmp_path / "m.html"
    one = machine("--budget", "0.5", "--probe", "peak", "--json", first, "--html", page)
    two = machine("--budget", "0.5", "--probe", "peak", "--json", second)
    assert (one.code, two.code) == (0, 0), one.err + two.err
    assert "Peak FLOP/s" in one.out
    document = json.loads(first.read_text())
    assert document["context"]["stratoscope"]["schema"] == "stratoscope/machine/1"
    assert any(row["run_type"] == "aggregate" and row["FLOPS"] > 0 for row in document["benchmarks"] if "FLOPS" in row)
    assert page.read_text().startswith("<!DOCTYPE html>")
    for names in ((first, second), ("last~1", "last"), (document["context"]["stratoscope"]["id"], second)):
        compared = machine("compare", *names)
        assert compared.code == 0, compared.err
        assert "hardware and software are the same" in compared.out
        assert "intervals overlap" in compared.out or "no benchmark has an interval" in compared.out
    shown = machine("show", first)
    assert shown.out.splitlines()[:3] == one.out.splitlines()[:3]
    standard_output = machine("compare", first, second, "--json", "-")
    assert json.loads(standard_output.out)["schema"] == "stratoscope/machine-comparison/1"


def test_a_budget_of_zero_shows_the_machine_and_says_that_nothing_was_measured(machine: Run) -> None:
    result = machine("--budget", "0", "--no-save")
    assert result.code == 0
    assert "the budget of 0 s leaves no time to measure" in " ".join(result.out.split())
    assert "State meanwhile" in result.out


def test_an_unknown_probe_is_one_line_and_the_rest_runs(machine: Run) -> None:
    result = machine("--budget", "0.5", "--probe", "peek", "--probe", "faults", "--no-save")
    assert result.code == 2
    assert result.error_lines == ["error: no probe is called 'peek': did you mean peak?; the others were measured"]
    assert "first touch of a 4 KiB page" in result.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--probe", "xyzzy"], "no probe is called 'xyzzy': there are stream"),
        (["compare", "nowhere.json", "last"], "nowhere.json cannot be read: No such file"),
        (["show", "last"], "there are no results yet"),
        (["--html", "no-such-folder/m.html", "--no-save"], "does not exist"),
    ],
)
def test_what_is_wrong_is_one_line_with_code_2(machine: Run, arguments: list[str], message: str) -> None:
    result = machine(*arguments)
    assert result.code == 2
    assert len(result.error_lines) == 1
    assert message in result.err


def test_a_negative_budget_is_refused(machine: Run) -> None:
    result = machine("--budget", "-1")
    assert result.code == 2
    assert "--budget" in result.err


def test_a_record_that_is_not_there_names_the_way_out(machine: Run) -> None:
    assert machine("--budget", "0.3", "--probe", "faults").code == 0
    result = machine("show", "last~5")
    assert result.code == 2
    assert "no machine record for 'last~5' among the 1" in result.err


def test_on_one_core_there_are_figures_for_one_thread(tmp_path: Path) -> None:
    cpu = min(os.sched_getaffinity(0))
    command = ["-m", "stratoscope", "machine", "--budget", "0.5", "--probe", "peak", "--no-save", "--json", "-"]
    code = (
        f"import os, sys; os.sched_setaffinity(0, {{{cpu}}}); os.execv(sys.executable, [sys.executable, *{command!r}])"
    )
    environment = {**os.environ, "STRATOSCOPE_LOCK": str(tmp_path / "lock"), "STRATOSCOPE_CACHE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert {row["threads"] for row in document["benchmarks"] if not row.get("error_occurred")} == {1}
    assert "one CPU may be used" in " ".join(done.stderr.split())


def test_ctrl_c_keeps_what_was_measured_and_exits_with_130(tmp_path: Path) -> None:
    file = tmp_path / "machine.json"
    command = [
        sys.executable,
        "-m",
        "stratoscope",
        "machine",
        "--probe",
        "forkjoin",
        "--probe",
        "transport",
        "--budget",
    ]
    environment = {**os.environ, "STRATOSCOPE_LOCK": str(tmp_path / "lock"), "STRATOSCOPE_CACHE": str(tmp_path)}
    environment["STRATOSCOPE_DB"] = str(tmp_path / "results.db")
    process = subprocess.Popen(
        [*command, "600", "--json", str(file)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not (tmp_path / "lock").exists():
        time.sleep(0.05)
    time.sleep(3)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "interrupted: Ctrl-C" in out
    record = json.loads(file.read_text())["context"]["stratoscope"]
    assert record["status"] == "interrupted"
    assert record["measurements"]
