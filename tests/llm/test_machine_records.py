"""What `stratoscope machine` measured is the device that `--hw machine.json` asks about."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

from stratoscope.cli.llm import llm_app
from stratoscope.errors import StoreError
from stratoscope.llm import LlmError
from stratoscope.llm.machine import machine_hardware
from stratoscope.report.google_benchmark import google_benchmark_json
from stratoscope.spec.hardware import Allowance


@pytest.fixture
def file(tmp_path: Path, machines: ModuleType) -> Path:
    """The record as `machine --json` writes it."""
    path = tmp_path / "machine.json"
    path.write_text(google_benchmark_json(machines.make_machine()))
    return path


def test_figures_of_the_record_arrive_with_the_benchmark_that_made_them(file: Path) -> None:
    device = machine_hardware(file)
    assert device.name == "Test CPU"
    assert device.peak("fp32") == pytest.approx(240e9)
    assert device.memory_bandwidth == pytest.approx(50e9)
    assert device.memory == 8 * 2**30
    assert device.peak_flops_per_s["fp32"].source == (
        "stratoscope machine, 2026-03-01: peak/multiply-add/dtype:fp32/isa:avx2/threads:2"
    )
    assert "stream/triad" in device.memory_bandwidth_bytes_per_s.source
    assert set(device.peak_flops_per_s) == {"fp32"}  # bf16 was measured with one of two threads: no roof of both
    assert device.measured_matmul_flops_per_s == {}  # so was the product


def test_the_bare_record_says_the_same(file: Path, tmp_path: Path, machines: ModuleType) -> None:
    bare = tmp_path / "record.json"
    bare.write_text(machines.make_machine().model_dump_json(by_alias=True))
    assert machine_hardware(bare) == machine_hardware(file)


def test_products_and_every_dtype_of_all_threads_are_taken(tmp_path: Path, machines: ModuleType) -> None:
    more = (
        machines.product("fp32", 2, 180), machines.product("fp32", 2, 200, library="torch"),
        machines.peak("bf16", 2, 480), machines.peak("int8", 2, 960),
    )  # fmt: skip
    path = tmp_path / "machine.json"
    record = machines.make_machine(measurements=(*machines.default_measurements(), *more))
    path.write_text(record.model_dump_json(by_alias=True))
    device = machine_hardware(path)
    assert {name: figure.value for name, figure in device.peak_flops_per_s.items()} == pytest.approx(
        {"fp32": 240e9, "bf16": 480e9, "int8": 960e9}
    )
    assert device.matmul_fraction("fp32") == pytest.approx(200 / 240)


def test_a_roof_that_fewer_threads_reached_holds_for_more(tmp_path: Path, machines: ModuleType) -> None:
    disturbed = (
        machines.peak("fp32", 1, 120), machines.peak("fp32", 2, 90), machines.bandwidth("memory", 1, 30),
        machines.bandwidth("memory", 2, 28),
    )  # fmt: skip
    path = tmp_path / "machine.json"
    path.write_text(machines.make_machine(measurements=disturbed).model_dump_json(by_alias=True))
    device = machine_hardware(path)
    assert device.peak("fp32") == pytest.approx(120e9)
    assert device.memory_bandwidth == pytest.approx(30e9)


def test_memory_is_what_the_control_group_allows(tmp_path: Path, machines: ModuleType) -> None:
    allowance = Allowance(cpus=(0, 1), cpu_quota="unlimited", memory_limit_bytes=3 << 30)
    hardware = machines.HARDWARE.model_copy(update={"allowance": allowance})
    path = tmp_path / "machine.json"
    path.write_text(machines.make_machine(hardware=hardware).model_dump_json(by_alias=True))
    assert machine_hardware(path).memory == 3 * 2**30


def test_the_command_predicts_from_a_record(file: Path) -> None:
    arguments = ["infer", "-m", "gpt-2", "--hw", str(file), "--precision", "fp32", "--level", "peak", "--prompt", "64",
                 "--output", "2", "--engine", "generic", "--json", "-"]  # fmt: skip
    answer = json.loads(CliRunner().invoke(llm_app, arguments).output)
    assert answer["hardware"] == "1 x Test CPU"
    # every parameter but the tables of tokens and positions is read once a token, the tied head with them: 124 M x 4 B
    floor = (124_439_808 - 1024 * 768) * 4 / 50e9
    assert floor <= answer["results"]["tpot_s"]["value"] <= 1.5 * floor


def test_a_record_without_roofs_is_refused_and_so_is_no_record(tmp_path: Path, machines: ModuleType) -> None:
    path = tmp_path / "machine.json"
    path.write_text(machines.make_machine(measurements=(machines.peak("fp32", 1, 9),)).model_dump_json(by_alias=True))
    with pytest.raises(LlmError, match="memory bandwidth"):
        machine_hardware(path)
    path.write_text("{}")
    with pytest.raises(StoreError, match="no machine record"):
        machine_hardware(path)
