"""`stratoscope analyze` and `trace diff`, as a user types them."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import typer
from typer.testing import CliRunner

from stratoscope.backends.onnxruntime import OnnxRuntimeBackend
from stratoscope.cli.analyze import analyze
from stratoscope.cli.trace_diff import diff
from stratoscope.errors import MeasurementError, StoreError
from stratoscope.measure.inputs import make_inputs
from stratoscope.measure.leveled import profile_layers
from stratoscope.models.resolve import resolve
from stratoscope.spec.options import BackendOptions
from stratoscope.spec.record import ProfileSection, RunRecord
from stratoscope.store.store import Store
from stratoscope.trace.exporters.parquet import write_parquet

Run = Callable[..., str]
ROOFS = ("--roof", "float32=5e10", "--bandwidth", "1e10")


@pytest.fixture(scope="module")
def measured() -> tuple[ProfileSection, pl.DataFrame]:
    """The layers of the zoo's digits model, really measured."""
    model = resolve("digits")
    return profile_layers(
        OnnxRuntimeBackend(), model, BackendOptions(), make_inputs(model, 1, 0)[0], repeats=5, blocks=5
    )


@pytest.fixture
def stored(make_record: Callable[..., RunRecord], measured: tuple[ProfileSection, pl.DataFrame]) -> ProfileSection:
    """A store with two runs that have spans, and one that has none."""
    section, spans = measured
    samples = pl.DataFrame(
        {
            "query": range(100),
            "sample": [0] * 100,
            "scheduled_ns": [1000 * k for k in range(100)],
            "issued_ns": [1000 * k for k in range(100)],
            "completed_ns": [1000 * k + 500 for k in range(100)],
        }
    )
    with Store.open() as store:
        store.save(make_record(id="first", profile=section), samples, spans)
        store.save(make_record(id="second", profile=section), None, spans)
        store.save(make_record(id="bare", profile=None, sweep=None))
    return section


@pytest.fixture
def run() -> Run:
    """`run(*arguments)`: what the command printed; its errors are raised."""
    app = typer.Typer()
    app.command()(analyze)
    app.command()(diff)

    def call(*arguments: str | Path) -> str:
        result = CliRunner(env={"COLUMNS": "180"}).invoke(app, list(map(str, arguments)))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.output

    return call


def test_the_list_names_all_fifteen(run: Run) -> None:
    lines = run("analyze", "list").splitlines()
    assert [line.split()[0] for line in lines[1:16]] == [f"A{number}" for number in range(1, 16)]
    listed = json.loads(run("analyze", "list", "--json", "-"))["analyses"]
    assert next(one for one in listed if one["id"] == "A13")["needs"] == ["layer", "primitive"]


def test_the_layer_times_of_a_stored_run_are_those_of_its_record(run: Run, stored: ProfileSection) -> None:
    rows = list(csv.DictReader(io.StringIO(run("analyze", "first", "--analysis", "a2", "--csv", "-"))))
    assert [row["name"] for row in rows] == [layer.name for layer in stored.layers]
    assert [float(row["time_s"]) for row in rows] == pytest.approx([one.time.require() for one in stored.layers])
    assert [json.loads(row["shape"]) for row in rows] == [list(one.output_shape or ()) for one in stored.layers]
    assert all(row["peak_bytes"] == "" for row in rows)


def test_json_has_all_analyses_and_why_some_are_missing(run: Run, stored: ProfileSection, tmp_path: Path) -> None:
    file = tmp_path / "all.json"
    shown = run("analyze", "first", "--json", file, *ROOFS)
    document = json.loads(file.read_text())
    by_id = {one["id"]: one for one in document["results"]}
    assert document["run"] == "first"
    assert {"A1", "A2", "A3", "A4", "A5", "A6", "A7", "A14", "tree", "critical-path", "tail"} <= set(by_id)
    missing = {one["what"].split()[0]: one["why"] for one in document["unavailable"]}
    assert "no run has kernel spans" in missing["A8"]
    assert set(by_id) | set(missing) >= {f"A{number}" for number in range(1, 16)}
    assert "A8, A9, A10, A11, A12, A13, A15: unavailable, no run has kernel spans" in shown
    assert by_id["A14"]["facts"]["ridge_float32_flop_per_byte"] == 5
    units = {column["name"]: column["unit"] for column in by_id["A14"]["columns"]}
    assert units["flop_rate"] == "FLOP/s"


def test_a1_of_a_stored_run_is_its_sweep(
    run: Run, stored: ProfileSection, make_record: Callable[..., RunRecord]
) -> None:
    found = json.loads(run("analyze", "first", "-a", "A1", "--json", "-"))["results"][0]
    sweep = make_record().sweep
    assert sweep is not None
    rows = {row["batch_size"]: row for row in found["rows"]}
    for point in sweep.points:
        assert rows[point.batch_size]["latency_s"] == point.latency.value
        assert rows[point.batch_size]["throughput_per_s"] == pytest.approx(point.throughput.require())
    assert found["facts"]["optimal_batch"] == (sweep.optimal_batch if sweep.saturated else None)


def test_the_terminal_shows_as_many_rows_as_asked_for(run: Run, stored: ProfileSection) -> None:
    shown = run("analyze", "first", "-a", "A3", "--rows", "2")
    assert f"... {len(stored.layers) - 2} more rows" in shown
    assert shown.splitlines()[0] == "A3  Layer latency"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-a", "A99"), "no analysis 'A99'"),
        (("-a", "A8"), "run first does not have what A8 needs"),
        (("--csv", "-"), "--csv writes one table"),
        (("-a", "A5", "--batch-size", "7"), "no run at batch size 7"),
        (("-a", "A5", "--roof", "float32=fast", "--bandwidth", "1"), "not of the form"),
        (("-a", "A5", "--roof", "float32=1"), "a peak rate and a bandwidth"),
    ],
)
def test_what_cannot_be_done_is_said(
    run: Run, stored: ProfileSection, arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(MeasurementError, match=message):
        run("analyze", "first", *arguments)


def test_a_run_without_spans_still_has_what_its_record_tells(run: Run, stored: ProfileSection) -> None:
    with pytest.raises(MeasurementError, match="no run has layer spans"):
        run("analyze", "bare", "-a", "A2")
    with pytest.raises(StoreError):
        run("analyze", "nosuch", "-a", "A2")


def test_a_trace_does_not_differ_from_itself(run: Run, stored: ProfileSection) -> None:
    found = json.loads(run("diff", "first", "second", "--json", "-"))
    assert found["facts"]["sites_only_a"] == found["facts"]["sites_only_b"] == 0
    assert {row["self_change_s"] for row in found["rows"]} == {0.0}
    assert {row["verdict"] for row in found["rows"]} <= {"no difference seen", None}


def test_a_run_is_compared_with_a_trace_file(
    run: Run, stored: ProfileSection, measured: tuple[ProfileSection, pl.DataFrame], tmp_path: Path
) -> None:
    file = tmp_path / "spans.parquet"
    slower = measured[1].with_columns(
        end_ns=pl.when(pl.col("level") == 30).then(pl.col("end_ns")).otherwise(pl.col("end_ns") + 50_000)
    )
    write_parquet(slower, file)
    found: dict[str, Any] = json.loads(run("diff", "first", file, "--json", "-"))
    assert found["rows"][0]["level"] == "model"
    assert found["facts"]["change_s"] == pytest.approx(50e-6)


def event(category: str, name: str, pid: int, ts: float, dur: float) -> dict[str, Any]:
    args = {"correlation": 1}
    return {"ph": "X", "cat": category, "name": name, "pid": pid, "tid": 7, "ts": ts, "dur": dur, "args": args}


def test_a_trace_file_is_analysed_as_one_run_down_to_its_deepest_level(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"
    events = [event("cuda_runtime", "cudaLaunchKernel", 42, 5, 5), event("kernel", "gemm", 0, 20, 30.5)]
    file.write_text(json.dumps({"schemaVersion": 1, "deviceProperties": [], "traceEvents": events}))
    found = json.loads(run("analyze", file, "-a", "A8", "-a", "A2", "--json", "-"))
    assert found["run"] == "gpu.json"
    assert [(row["name"], row["time_s"]) for row in found["results"][0]["rows"]] == [("gemm", pytest.approx(30.5e-6))]
    assert [one["what"].split()[0] for one in found["unavailable"]] == ["A2"]
    shown = run("analyze", file, "-a", "A8")
    assert shown.splitlines()[0] == "2 spans of 2 records, read as kineto"


def test_a_trace_file_has_a_page_with_what_was_read_and_every_analysis(run: Run, tmp_path: Path) -> None:
    file, page = tmp_path / "<gpu>.json", tmp_path / "page.html"
    events = [
        event("cuda_runtime", "cudaLaunchKernel", 42, 5, 5),
        event("kernel", "<b>gemm</b>", 0, 20, 30.5),
        event("kernel", "late", 0, 50, -3),
    ]
    file.write_text(json.dumps({"schemaVersion": 1, "deviceProperties": [], "traceEvents": events}))
    run("analyze", file, "--html", page)
    text = page.read_text()
    assert "<b>gemm" not in text
    assert "&lt;b&gt;gemm&lt;/b&gt;" in text
    assert "&lt;gpu&gt;.json" in text
    assert "30.5 µs" in text
    assert 'id="analysis-A8"' in text
    assert "Device time" in text
    data = json.loads(text[text.index('id="record">') :].removeprefix('id="record">').split("</script>")[0])
    assert (data["import"]["spans"], data["kernels"][0]["sum_ns"]) == (2, 30_500)
    dropped = text[text.index("What became of the file") :]
    assert "dropped" in dropped


def test_the_page_has_every_analysis_or_the_reason(run: Run, stored: ProfileSection, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    run("analyze", "first", "--html", page, *ROOFS)
    text = page.read_text()
    unavailable = text[text.index('id="analyses-unavailable"') :].split("</details>")[0]
    for number in range(1, 16):
        told = f'id="analysis-A{number}"' in text
        assert told != bool(re.search(rf"\bA{number}\b", unavailable)), number
    assert 'id="analysis-A14"' in text
    assert "peak float32: 50.0 GFLOP/s" in text
