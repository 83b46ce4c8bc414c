"""`stratoscope compose` and `predict` as a user meets them: build, run, estimate, hand on, and what goes wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from stratoscope.measure.sequence import protocol_of
from stratoscope.spec.performance import Environment
from stratoscope.store.performance import PerformanceDatabase

Run = Callable[..., Any]


def test_a_suite_is_built_measured_once_estimated_and_merged_elsewhere(stratoscope: Run, tmp_path: Path) -> None:
    lock = str(tmp_path / "lock")
    built = stratoscope("compose", "build", "digits", "-o", "s.bricks", "--graph", "authored")
    assert built.code == 0, built.err
    assert "1 brick, 1 unique (authored graph, cut by tensor)" in built.out
    first = stratoscope("compose", "run", "s.bricks", STRATOSCOPE_LOCK=lock)
    assert first.code == 0, first.err
    assert "3 ok; 0 known before" in first.out
    again = stratoscope("compose", "run", "s.bricks", STRATOSCOPE_LOCK=lock)
    assert "nothing to measure: all 3 measurements are known here" in again.out
    told = stratoscope("compose", "estimate", "digits", "--graph", "authored", "--json", "-")
    (row,) = json.loads(told.out)["models"]
    assert row["estimate"]["coverage"] == 1.0
    assert row["estimate"]["latency"]["value"] > 0
    exported = stratoscope("compose", "export", "s.bricks", "-o", "times.jsonl")
    assert "3 measurements in times.jsonl" in exported.out
    elsewhere = {"STRATOSCOPE_DB": str(tmp_path / "other.db")}
    assert "3 added, 0 here already" in stratoscope("compose", "merge", "times.jsonl", **elsewhere).out
    assert "0 added, 3 here already" in stratoscope("compose", "merge", "times.jsonl", **elsewhere).out
    report = stratoscope("compose", "report", "s.bricks")
    assert "unique bricks: 1 of 1" in report.out


def test_an_estimate_without_measurements_has_no_number_and_says_why(stratoscope: Run) -> None:
    result = stratoscope("compose", "estimate", "digits", "--graph", "authored")
    assert result.code == 0
    assert "no measurement of it here" in result.out
    assert "--measure measures what is missing" in result.out


def test_bricks_are_written_as_models_for_others(stratoscope: Run, tmp_path: Path) -> None:
    import onnx

    assert stratoscope("compose", "build", "digits", "-o", "s.bricks", "--by", "node").code == 0
    assert stratoscope("compose", "export", "s.bricks", "--models", "-o", "out").code == 0
    files = list((tmp_path / "out").glob("*.onnx"))
    assert len(files) > 1
    for file in files:
        onnx.load(str(file))


def test_a_synthetic_set_is_chosen_and_its_distance_printed(stratoscope: Run) -> None:
    result = stratoscope("compose", "synthesize", "--match", "digits=2", "--size", "2")
    assert result.code == 0, result.err
    assert "distance of the mixes 0.000" in result.out


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("build", "no-such-model"), "no model 'no-such-model'"),
        (("build", "digits", "--by", "node", "-G", "3"), "takes no --granularity"),
        (("run", "nothing.bricks"), "there is no suite"),
        (("synthesize", "--match", "digits=heavy"), "not of the form NAME=WEIGHT"),
        (("merge", "nothing.jsonl"), "nothing.jsonl"),
    ],
)
def test_what_goes_wrong_is_one_line(stratoscope: Run, arguments: tuple[str, ...], what: str) -> None:
    result = stratoscope("compose", *arguments)
    assert result.code == 2
    assert len(result.error_lines) == 1
    assert what in result.err


def test_a_model_is_predicted_for_another_machine(stratoscope: Run, tmp_path: Path, machines: ModuleType) -> None:
    record = machines.make_machine()
    file = tmp_path / "machine.json"
    file.write_text(record.model_dump_json(by_alias=True))
    same = ("--machine", "machine.json", "--here", "machine.json")
    bare = stratoscope("predict", "digits", *same)
    assert bare.code == 2
    assert "--measure measures what is missing" in bare.err
    result = stratoscope("predict", "digits", *same, "--measure", "--json", "-", STRATOSCOPE_LOCK=str(tmp_path / "l"))
    assert result.code == 0, result.err
    (row,) = json.loads(result.out)["models"]
    assert row["there"]["value"] == pytest.approx(row["here"]["value"])  # the same machine
    assert row["there"]["ci_low"] < row["there"]["value"] < row["there"]["ci_high"]
    nowhere = stratoscope("predict", "digits", "--machine", "machine.json")
    assert nowhere.code == 2
    assert "this machine's roofs are not known" in nowhere.err


def test_exponents_are_fitted_where_bricks_were_measured_on_both_machines(
    stratoscope: Run, tmp_path: Path, machines: ModuleType
) -> None:
    record = machines.make_machine()
    (tmp_path / "machine.json").write_text(record.model_dump_json(by_alias=True))
    lock = {"STRATOSCOPE_LOCK": str(tmp_path / "lock")}
    asked = ("predict", "digits", "--machine", "machine.json", "--here", "machine.json", "--measure", "--json", "-")
    plain = json.loads(stratoscope(*asked, **lock).out)["models"][0]
    assert (plain["exponents"], plain["fitted_on"], plain["plain_error"]) == ([1.0, 1.0], 0, None)
    with PerformanceDatabase(tmp_path / "results.db") as database:
        (known,) = database.find(protocols=[protocol_of("sequence")])
        there = Environment.of(record.hardware)
        for number in range(10):
            part = known.part.model_copy(update={"digest": f"sha256:{number:064}", "flops_valid": 10**6 * (number + 1)})
            for environment, seconds in ((known.environment, 1e-3), (there, 1e-3)):
                update = {"part": part, "environment": environment, "samples_s": (seconds + known.overhead_s,) * 8}
                database.record(known.model_copy(update=update))
    fitted = json.loads(stratoscope(*asked, **lock).out)["models"][0]
    assert fitted["fitted_on"] == 10
    assert fitted["error"] == pytest.approx(0.0, abs=1e-6)  # the same roofs, and the same times
    assert fitted["error"] < plain["error"]
