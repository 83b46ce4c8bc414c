"""`stratoscope results`: list, show, page, delete, export and merge, as a user types them."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from stratoscope.cli.results import printable, results_app
from stratoscope.errors import StoreError
from stratoscope.spec.record import RunRecord
from stratoscope.spec.scenario import ScenarioManifest
from stratoscope.stats.quantity import Quantity
from stratoscope.store.store import Store

MakeRecord = Callable[..., RunRecord]
Run = Callable[..., Any]


@pytest.fixture
def filled(make_record: MakeRecord) -> tuple[RunRecord, RunRecord]:
    """A store of two runs, the newer one of another model, interrupted, at batch 4."""
    samples = pl.DataFrame({"query": [0, 1], "scheduled_ns": [0, 20], "completed_ns": [10, 31]})
    with Store.open() as store:
        older = store.save(make_record(id="older", created_at=datetime(2025, 6, 1, tzinfo=UTC)), samples)
        newer = store.save(
            make_record(
                id="newer",
                model="bert",
                scenario=ScenarioManifest(batch_size=4),
                status="interrupted",
                status_reason="Ctrl-C",
                created_at=datetime(2025, 6, 2, tzinfo=UTC),
            )
        )
    return older, newer


@pytest.fixture
def results() -> Run:
    """`results(*arguments)`: what the command printed; its errors are raised."""

    def run(*arguments: str | Path) -> str:
        result = CliRunner(env={"COLUMNS": "140"}).invoke(results_app, list(map(str, arguments)))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.output

    return run


@pytest.mark.parametrize("command", [(), ("list",)])
def test_runs_are_listed_newest_first_with_their_figure(
    filled: tuple[RunRecord, RunRecord], results: Run, command: tuple[str, ...]
) -> None:
    header, first, second = results(*command).splitlines()
    assert header.split() == ["run", "when", "model", "load", "result"]
    assert first.split()[0] == "newer"
    assert "bert" in first
    assert "single-stream, batch 4" in first
    assert "11.0 ms early stopping p90 latency (interrupted)" in " ".join(first.split())
    assert second.split()[0] == "older"
    assert "interrupted" not in second
    assert "batch" not in second


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (("--model", "resnet50"), ["older"]),
        (("--limit", "1"), ["newer"]),
        (("--backend", "onnxruntime"), ["newer", "older"]),
        (("--backend", "pytorch"), []),
    ],
)
def test_filters_choose_runs(
    filled: tuple[RunRecord, RunRecord], results: Run, filters: tuple[str, ...], expected: list[str]
) -> None:
    content = json.loads(results(*filters, "--json", "-"))
    assert [run["id"] for run in content["runs"]] == expected


def test_the_json_list_is_complete_and_says_its_schema(
    filled: tuple[RunRecord, RunRecord], results: Run, tmp_path: Path
) -> None:
    file = tmp_path / "runs.json"
    assert "older" in results("--json", file)
    content = json.loads(file.read_text())
    assert content["schema"] == "stratoscope/results/1"
    older = content["runs"][1]
    assert older["created_at"] == "2025-06-01T00:00:00+00:00"
    assert (older["metric_name"], older["metric_value"], older["metric_unit"]) == (
        "load.latency.early_stopping_p90",
        0.011,
        "s",
    )


def test_at_80_columns_ids_and_names_stay_whole(make_record: MakeRecord) -> None:
    with Store.open() as store:
        saved = store.save(make_record(model="bert-base-uncased", status="interrupted"))
    shown = CliRunner(env={"COLUMNS": "80"}).invoke(results_app, []).output
    first = shown.splitlines()[1].split()
    assert first[0] == saved.id
    assert first[3] == "bert-base-uncased"
    assert max(map(len, shown.splitlines())) <= 80


def test_a_figure_without_a_value_is_listed_as_unavailable(make_record: MakeRecord, results: Run) -> None:
    record = make_record()
    assert record.load is not None
    latency = {"p99": Quantity.unjustified("s", "12 samples are too few", "p99", 12)}
    sections = ("load", "profile", "sweep", "accuracy", "cold_start")
    with Store.open() as store:
        store.save(make_record(id="a", load=record.load.model_copy(update={"latency": latency, "headline": "p99"})))
        store.save(make_record(id="b", **dict.fromkeys(sections)))
        store.save(make_record(id="c", load=record.load.model_copy(update={"headline": "throughput"})))
    _, c, b, a = (" ".join(line.split()) for line in results().splitlines())
    assert a.endswith("p99 latency unavailable")
    assert b.endswith("nothing measured")
    assert c.endswith("96.9 /s ± 1.9 throughput")


def test_no_match_is_said(filled: tuple[RunRecord, RunRecord], results: Run, own_home: Path) -> None:
    assert results("--model", "none") == f"no such runs in {own_home / 'results.db'}\n"


def test_show_prints_the_run_and_its_json_is_the_whole_record(
    filled: tuple[RunRecord, RunRecord], results: Run
) -> None:
    older, newer = filled
    assert "bert" in results("show")
    assert "resnet50" in results("show", "old")
    assert RunRecord.model_validate_json(results("show", "resnet50", "--json", "-")) == older
    assert RunRecord.model_validate_json(results("show", "last", "--json", "-")) == newer


def test_html_writes_the_page_of_a_run(
    filled: tuple[RunRecord, RunRecord], results: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.html"
    assert results("html", "older", "--html", page).strip() == str(page)
    assert "resnet50" in page.read_text()
    monkeypatch.chdir(tmp_path)
    results("html", "newer")
    assert "bert" in (tmp_path / "stratoscope-report-newer.html").read_text()


def test_delete_looks_all_runs_up_before_the_first_is_gone(filled: tuple[RunRecord, RunRecord], results: Run) -> None:
    with pytest.raises(StoreError, match="there is no run 'oldest'"):
        results("delete", "older", "oldest")
    assert results("delete", "older", "resnet50", "last~1") == "deleted older\n"
    with Store.open() as store:
        assert [run.id for run in store.list()] == ["newer"]


def test_an_export_is_merged_into_another_database_once(
    filled: tuple[RunRecord, RunRecord], results: Run, tmp_path: Path
) -> None:
    file, other = tmp_path / "runs.jsonl", tmp_path / "other.db"
    assert results("export", file) == f"{file}: 2 runs\n"
    assert results("merge", file, "--db", other) == "2 runs added, 0 here already\n"
    assert results("merge", file, "--db", other) == "0 runs added, 2 here already\n"
    assert results("export", tmp_path / "one.jsonl", "older") == f"{tmp_path / 'one.jsonl'}: 1 run\n"
    with Store.open(other) as store:
        assert store.get("older") == filled[0]
        assert store.samples("older") is not None


def test_tables_that_did_not_come_along_are_said(
    filled: tuple[RunRecord, RunRecord], results: Run, tmp_path: Path
) -> None:
    file = tmp_path / "runs.jsonl"
    results("export", file)
    moved = file.rename(tmp_path / "alone.jsonl")
    assert results("merge", moved, "--db", tmp_path / "other.db").endswith("1 came without samples or spans\n")


def test_the_database_is_named_before_or_after_the_command(
    filled: tuple[RunRecord, RunRecord], results: Run, tmp_path: Path, make_record: MakeRecord
) -> None:
    other = tmp_path / "other.db"
    with Store.open(other) as store:
        store.save(make_record(id="elsewhere"))
    for arguments in (("--db", other, "list"), ("list", "--db", other), ("--db", other)):
        assert "elsewhere" in results(*arguments)
    nowhere = tmp_path / "nowhere.db"
    assert '"elsewhere"' in results("--db", nowhere, "show", "--db", other, "--json", "-")
    assert '"newer"' in results("show", "--json", "-")


def test_control_characters_of_a_record_do_not_reach_the_terminal(make_record: MakeRecord, results: Run) -> None:
    with Store.open() as store:
        store.save(make_record(model="evil\x1b[2J\x07[bold]name"))
    shown = results()
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "[bold]name" in "".join(shown.split())
    assert printable("a\x1bb\u202ec") == "a\ufffdb\ufffdc"


def test_without_any_results_the_error_is_one_line_with_code_2(stratoscope: Run, tmp_path: Path) -> None:
    result = stratoscope("results")
    assert result.code == 2
    assert result.error_lines == [
        f"error: there are no results yet at {tmp_path / 'results.db'} (measure first, or name a database with --db)"
    ]
    assert not (tmp_path / "results.db").exists()


def test_a_corrupt_database_is_one_line_with_code_2(stratoscope: Run, tmp_path: Path) -> None:
    (tmp_path / "results.db").write_bytes(b"no database" * 1000)
    for command in (("results",), ("results", "show"), ("compare", "last", "last~1")):
        result = stratoscope(*command)
        assert result.code == 2
        assert result.error_lines == [
            f"error: cannot open the results in {tmp_path / 'results.db'}: this file is not a results database "
            "(use another --db)"
        ]
