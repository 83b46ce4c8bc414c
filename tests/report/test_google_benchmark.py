"""Google Benchmark's JSON: the fields that its own tools read, from figures that can be checked by hand."""

from __future__ import annotations

import json
import statistics
from types import ModuleType
from typing import Any

import pytest

from stratoscope.report.google_benchmark import google_benchmark_json


@pytest.fixture
def document(machines: ModuleType) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(google_benchmark_json(machines.make_machine()))
    return loaded


def rows_of(document: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [row for row in document["benchmarks"] if row["run_name"] == name]


def test_each_repeat_is_a_row_and_aggregates_follow(document: dict[str, Any]) -> None:
    rows = rows_of(document, "faults/first-touch/page_bytes:4096")
    assert [row["run_type"] for row in rows] == ["iteration"] * 6 + ["aggregate"] * 4
    assert [row["repetition_index"] for row in rows[:6]] == list(range(6))
    assert [row["aggregate_name"] for row in rows[6:]] == ["median", "mean", "stddev", "cv"]
    times = [row["real_time"] for row in rows[:6]]
    assert times[0] == pytest.approx(900.0)
    assert rows[6]["real_time"] == pytest.approx(statistics.median(times))
    assert rows[8]["real_time"] == pytest.approx(statistics.stdev(times))
    assert rows[9]["real_time"] == pytest.approx(statistics.stdev(times) / statistics.fmean(times))
    assert {row["time_unit"] for row in rows} == {"ns"}


def test_rates_and_parameters_are_counters(document: dict[str, Any]) -> None:
    row = rows_of(document, "stream/triad/method:c/level:L1/threads:1/bytes:16384")[0]
    assert row["bytes_per_second"] == pytest.approx(16384 / (row["real_time"] * 1e-9))
    assert row["bytes"] == 16384.0
    assert row["threads"] == 1
    assert row["label"] == "method=c level=L1"
    flops = rows_of(document, "peak/multiply-add/dtype:fp32/isa:avx2/threads:2")[0]
    assert flops["FLOPS"] == pytest.approx(1e9 / (flops["real_time"] * 1e-9))
    assert flops["threads"] == 2


def test_families_and_their_instances_are_numbered(document: dict[str, Any]) -> None:
    indexes = {
        row["run_name"]: (row["family_index"], row["per_family_instance_index"]) for row in document["benchmarks"][:-1]
    }
    assert len(set(indexes.values())) == len(indexes)
    families = {name.split("/")[0] + "/" + name.split("/")[1]: index[0] for name, index in indexes.items()}
    assert sorted(families.values()) == list(range(len(families)))


def test_what_is_missing_is_an_error_row_that_tools_leave_out(document: dict[str, Any]) -> None:
    (row,) = [row for row in document["benchmarks"] if row.get("error_occurred")]
    assert row["name"] == "probe gpu"
    assert "no NVIDIA GPU" in row["error_message"]


def test_the_context_has_what_google_benchmark_has_and_the_record(
    document: dict[str, Any], machines: ModuleType
) -> None:
    context = document["context"]
    assert {"date", "host_name", "executable", "num_cpus", "mhz_per_cpu", "caches", "load_avg"} <= set(context)
    assert context["mhz_per_cpu"] == 3000
    assert context["caches"][0] == {"type": "Data", "level": 1, "size": 32 << 10, "num_sharing": 1}
    assert context["stratoscope"] == json.loads(machines.make_machine().model_dump_json(by_alias=True))
