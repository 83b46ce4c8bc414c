"""Roofs from a machine record: the largest of several methods, with its source; never a zero for what is missing."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from stratoscope.errors import StoreError
from stratoscope.host.roofs import Roofs, read_record, ridge_point
from stratoscope.report.google_benchmark import google_benchmark_json
from stratoscope.stats.quantity import Quantity


@pytest.fixture
def roofs(machines: ModuleType) -> Roofs:
    return Roofs(machines.make_machine())


def test_the_roof_is_the_larger_of_several_methods_and_names_it(roofs: Roofs) -> None:
    memory = roofs.bandwidth("memory", 1)
    assert memory.value == pytest.approx(40e9)
    assert memory.source.startswith("stream/copy/method:c-nt/level:memory/threads:1")
    assert roofs.bandwidth("memory", 1, kernel="triad").value == pytest.approx(25e9)
    assert roofs.peak("fp32", 1).value == pytest.approx(120e9)
    assert roofs.gemm("fp32", 1).value == pytest.approx(110e9)
    assert "library:torch" in roofs.gemm("fp32", 1).source


def test_a_product_is_the_peak_where_it_is_all_that_was_measured(roofs: Roofs) -> None:
    assert roofs.peak("bf16", 1).value == pytest.approx(200e9)
    assert roofs.peak("bfloat16", 1) == roofs.peak("bf16", 1)


def test_what_was_not_measured_is_unavailable_with_the_reason(roofs: Roofs) -> None:
    for roof in (roofs.peak("bf16", 2), roofs.bandwidth("memory", 7), roofs.latency("L2"), roofs.gpu("gemm")):
        assert roof.value is None
        assert roof.figure.status == "unavailable"
        assert "was not measured" in (roof.figure.reason or "")
    assert "no NVIDIA GPU" in (roofs.gpu("h2d-pinned").figure.reason or "")


def test_a_probe_that_was_not_run_is_named(machines: ModuleType) -> None:
    roofs = Roofs(machines.make_machine(measurements=(machines.peak("fp32", 1, 100),)))
    assert "the probe stream was not run" in (roofs.bandwidth().figure.reason or "")
    assert roofs.ridge("fp32").value is None


def test_the_ridge_point_is_peak_over_bandwidth(roofs: Roofs) -> None:
    ridge = roofs.ridge("fp32", 1)
    assert ridge.value == pytest.approx(120 / 40)
    # The widest: slowest peak over fastest memory, and the other way round.
    assert ridge.ci_low == pytest.approx((120 / 1.1) / (40 / 0.9))
    assert ridge.ci_high == pytest.approx((120 / 0.9) / (40 / 1.1))
    assert roofs.ridge("fp32", 1, level="L1").value == pytest.approx(120 / 200)
    assert ridge.unit == "FLOP/byte"


def test_a_ridge_without_a_peak_says_why() -> None:
    bandwidth = Quantity.exact(1e9, "byte/s")
    assert ridge_point(Quantity.unavailable("FLOP/s", "no fp8 here", "median"), bandwidth).reason == "no fp8 here"


@pytest.mark.parametrize(
    ("working_set", "threads", "gb_per_s"),
    [(1000, 1, 200), (40 << 10, 1, 100), (40 << 10, 2, 400), (2 << 20, 1, 80), (1 << 30, 1, 40), (1 << 30, 2, 50)],
)
def test_bandwidth_goes_by_where_the_working_set_lies(
    roofs: Roofs, working_set: int, threads: int, gb_per_s: float
) -> None:
    # 40 KiB: beyond one core's 32 KiB, within two cores' 64.
    assert roofs.bandwidth_at(working_set, threads).value == pytest.approx(gb_per_s * 1e9)


def test_costs_and_transfers(roofs: Roofs) -> None:
    assert roofs.dispatch("numpy").value == pytest.approx(3e-7)
    assert roofs.start("pthread", 2).value == pytest.approx(2e-5)
    assert roofs.start("process").value == pytest.approx(1e-3)
    assert roofs.page_fault().value == pytest.approx(1e-6)
    assert roofs.transport("pipe").value == pytest.approx(2e9)
    assert roofs.round_trip("pipe").value == pytest.approx(5e-6)
    assert roofs.file("cold").value == pytest.approx(2e9)
    assert roofs.collective("all_reduce").value == pytest.approx(4e9)
    assert roofs.latency("memory").value == pytest.approx(1e-7)


def test_what_it_was_measured_for(roofs: Roofs) -> None:
    assert roofs.thread_counts == (1, 2)
    assert roofs.levels == ("L1", "L2", "L3", "memory")
    assert roofs.dtypes == ("fp32", "bf16")
    assert roofs.flops_per_s(1) == pytest.approx({"float32": 120e9, "bfloat16": 200e9})
    assert set(roofs.flops_per_s(2)) == {"float32"}


def test_a_record_is_read_from_itself_and_from_google_benchmarks_json(machines: ModuleType, tmp_path: Path) -> None:
    record = machines.make_machine()
    for text in (record.model_dump_json(by_alias=True), google_benchmark_json(record)):
        (tmp_path / "machine.json").write_text(text)
        assert read_record(tmp_path / "machine.json") == record
        assert Roofs.load(tmp_path / "machine.json").levels == ("L1", "L2", "L3", "memory")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[1, 2]", "holds no machine record"),
        ('{"schema": "stratoscope/run/1"}', "holds no machine record"),
        ('{"context": {"stratoscope": {"schema": "stratoscope/machine/2"}}}', "holds no machine record"),
    ],
)
def test_another_file_is_refused_in_one_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(StoreError, match=message) as caught:
        read_record(path)
    assert "--json FILE" in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="No such file"):
        read_record(tmp_path / "nowhere.json")


def test_a_figure_that_is_not_finite_is_refused(machines: ModuleType, tmp_path: Path) -> None:
    document = json.loads(machines.make_machine().model_dump_json(by_alias=True))
    document["measurements"][0]["figure"]["value"] = float("nan")
    (tmp_path / "nan.json").write_text(json.dumps(document))
    with pytest.raises(StoreError, match=r"measurements\.0\.figure\.value"):
        read_record(tmp_path / "nan.json")
