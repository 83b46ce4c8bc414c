"""`stratoscope compare A B`: the ratio with its interval, the verdict, the differences and the caveats in words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl
import pytest
import typer
from typer.testing import CliRunner

from stratoscope.cli.compare import compare
from stratoscope.errors import StoreError
from stratoscope.spec.record import RunRecord
from stratoscope.store.store import Store

Run = Callable[..., Any]


def samples(median_ms: float, seed: int) -> pl.DataFrame:
    """400 queries one after the other with 2 % noise."""
    latency = (median_ms * 1e6 * np.exp(0.02 * np.random.default_rng(seed).standard_normal(400))).astype(np.int64)
    completed = np.cumsum(latency)
    return pl.DataFrame({"query": np.arange(400), "scheduled_ns": completed - latency, "completed_ns": completed})


@pytest.fixture
def runs(make_record: Callable[..., RunRecord], records: ModuleType) -> None:
    """`a`, `same` of the same law, and `slow`: 30 % slower on other software."""
    software = {**records.SOFTWARE, "packages": {"numpy": "2.4.6", "onnxruntime": "1.20.0"}}
    with Store.open() as store:
        store.save(make_record(id="a"), samples(10, 1))
        store.save(make_record(id="same"), samples(10, 2))
        store.save(make_record(id="slow", software=software), samples(13, 3))


@pytest.fixture
def run_compare() -> Run:
    """`run_compare(*arguments)`: what the command printed; its errors are raised."""
    app = typer.Typer()
    app.command()(compare)

    def run(*arguments: str | Path) -> str:
        result = CliRunner(env={"COLUMNS": "100"}).invoke(app, list(map(str, arguments)))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.output

    return run


def test_a_slower_run_is_said_with_ratio_and_reason(runs: None, run_compare: Run) -> None:
    shown = run_compare("a", "slow")
    assert "latency B / A  1.30" in shown
    assert "(95% interval)" in shown
    assert "verdict        B is slower: interval [" in shown
    assert "differs in: software" in shown
    [field] = [line.split() for line in shown.splitlines() if "packages.onnxruntime" in line]
    assert field == ["software", "packages.onnxruntime", "1.31.1", "1.20.0"]
    assert "note: the runs were not interleaved" in shown


def test_no_difference_is_a_verdict_with_code_0(runs: None, run_compare: Run) -> None:
    shown = run_compare("a", "same")
    assert "verdict        no difference seen: " in shown
    assert "model, dataset, software, hardware and scenario are the same" in shown


def test_the_json_has_the_same_and_its_schema(runs: None, run_compare: Run, tmp_path: Path) -> None:
    content = json.loads(run_compare("a", "slow", "--json", "-"))
    assert content["schema"] == "stratoscope/comparison/1"
    assert (content["a"]["id"], content["b"]["id"]) == ("a", "slow")
    assert content["latency"]["verdict"] == "slower"
    assert content["latency"]["ratio"]["value"] == pytest.approx(1.3, rel=0.01)
    assert content["aspects"] == ["software"]
    assert content["differences"] == [
        {"aspect": "software", "path": "packages.onnxruntime", "a": "1.31.1", "b": "1.20.0"}
    ]
    file = tmp_path / "comparison.json"
    assert "verdict" in run_compare("a", "slow", "--json", file)
    assert json.loads(file.read_text()) == content


def test_digests_that_differ_where_the_records_do_not_tell_are_named(
    runs: None, run_compare: Run, make_record: Callable[..., RunRecord]
) -> None:
    record = make_record(id="told")
    digests = record.digests.model_copy(update={"hardware": "sha256:other"})
    with Store.open() as store:
        store.save(record.model_copy(update={"digests": digests}), samples(10, 4))
    shown = run_compare("a", "told")
    assert "differs in: hardware" in shown
    assert "the records do not tell in which field of: hardware" in shown


def test_a_digest_is_shown_by_its_beginning(
    runs: None, run_compare: Run, make_record: Callable[..., RunRecord]
) -> None:
    other = make_record(id="bert", model="bert")
    with Store.open() as store:
        store.save(other, samples(10, 5))
    shown = run_compare("a", "bert")
    assert other.model.sha256 is not None
    assert f"{other.model.sha256[:19]}..." in shown
    assert other.model.sha256[:24] not in shown


def test_an_unknown_run_is_an_error(runs: None, run_compare: Run) -> None:
    with pytest.raises(StoreError, match="there is no run 'slowly'"):
        run_compare("a", "slowly")


def test_the_whole_command_exits_with_0_and_an_unknown_run_with_2(runs: None, stratoscope: Run, own_home: Path) -> None:
    database = {"STRATOSCOPE_DB": str(own_home / "results.db")}
    good = stratoscope("compare", "a", "same", **database)
    assert (good.code, good.err) == (0, "")
    assert "no difference seen" in good.out
    bad = stratoscope("compare", "a", "slowly", **database)
    assert bad.code == 2
    assert bad.error_lines[0].startswith("error: there is no run 'slowly'")
