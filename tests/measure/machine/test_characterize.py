"""The whole measurement: what cannot run is said in a line, and the rest still runs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from stratoscope.errors import MeasurementError
from stratoscope.host.capture import capture_hardware
from stratoscope.host.lock import measurement_lock
from stratoscope.measure.machine.characterize import Request, characterize, memory_left, usable_cpus
from stratoscope.measure.machine.faults import FaultProbe
from stratoscope.measure.machine.forkjoin import ForkJoinProbe
from stratoscope.measure.machine.peak import PeakProbe
from stratoscope.spec.hardware import Allowance, HardwareManifest
from stratoscope.spec.machine import MachineRecord


@pytest.fixture(autouse=True)
def own_lock_and_cache(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No test waits for a measurement on this machine."""
    monkeypatch.setenv("STRATOSCOPE_LOCK", str(tmp_path / "lock"))
    monkeypatch.setenv("STRATOSCOPE_CACHE", str(tmp_path_factory.getbasetemp() / "kernels-cache"))


def reasons(record: MachineRecord) -> dict[str, str]:
    return {item.what: item.why for item in record.unavailable}


def test_a_record_is_whole_and_survives_json() -> None:
    record = characterize(Request(("peak", "faults"), budget_s=0.5, command="stratoscope machine"))
    assert record.status == "complete"
    assert {probe.name for probe in record.probes} == {"peak", "faults"}
    assert record.measurements
    for found in record.measurements:
        assert found.figure.value is not None
        assert found.figure.value > 0
        assert found.gate
        assert len(found.samples_s) >= 1
    assert record.hardware.digest() == record.digests["hardware"] == capture_hardware().digest()
    assert MachineRecord.model_validate_json(record.model_dump_json(by_alias=True)) == record
    assert {"steal", "run_queue_wait", "foreign_cpu", "temperature", "power", "throttled", "cpu_clock"} <= set(
        record.state.summary
    )


def test_a_budget_of_nothing_gives_identity_and_a_line_for_each_probe() -> None:
    record = characterize(Request(budget_s=0.0))
    assert record.measurements == ()
    assert record.hardware.cpu.logical_cpus
    assert set(reasons(record).values()) == {"the budget of 0 s leaves no time to measure"}
    assert len(record.unavailable) == len(record.probes) > 10


def test_a_budget_that_ends_early_says_which_cases_had_no_turn() -> None:
    record = characterize(Request(("forkjoin", "faults"), budget_s=1e-3))
    late = [why for why in reasons(record).values() if "was spent before its turn" in why]
    assert late
    assert len(record.measurements) < sum(probe.cases for probe in record.probes)


def test_an_unknown_probe_is_a_line_and_the_others_run() -> None:
    record = characterize(Request(("faults", "pek"), budget_s=0.3))
    assert reasons(record)["probe pek"] == "no probe is called 'pek': did you mean peak?"
    assert [probe.name for probe in record.probes] == ["faults"]
    assert record.measurements


def test_only_unknown_probes_are_an_error() -> None:
    with pytest.raises(MeasurementError, match="'pek': did you mean peak"):
        characterize(Request(("pek",), budget_s=1))


def test_a_negative_budget_is_refused() -> None:
    with pytest.raises(MeasurementError, match="not negative"):
        characterize(Request(("faults",), budget_s=-1))


def test_one_core_only_measures_one_thread() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        record = characterize(Request(("peak", "forkjoin"), budget_s=0.5))
    finally:
        os.sched_setaffinity(0, allowed)
    assert record.hardware.allowance.cpus == (min(allowed),)
    assert {found.parameters.get("threads", 1) for found in record.measurements} == {1}
    assert any("one CPU may be used" in note for note in record.notes)


def test_256_mib_left_bound_the_sizes_and_say_what_is_left_out() -> None:
    left = 256 << 20
    record = characterize(Request(("stream", "chase", "collective", "faults"), budget_s=1.0, memory_left_bytes=left))
    assert max(int(found.parameters.get("bytes", 0)) for found in record.measurements) <= left // 4
    found = reasons(record)
    assert "128" in found["probe collective"]
    last_cache = max((cache.size_bytes for cache in record.hardware.cpu.caches or ()), default=0)
    if 4 * last_cache > left // 4:
        assert "256 MiB of memory are left" in found["bandwidth of memory"]
    assert record.measurements


def test_without_a_compiler_the_rest_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    record = characterize(Request(("stream", "chase", "peak"), budget_s=1.0, memory_left_bytes=64 << 20))
    assert reasons(record)["probe chase"] == "no C compiler on the PATH (cc, gcc or clang)"
    assert {found.parameters["method"] for found in record.measurements} == {"numpy"}
    assert any("bandwidths are NumPy's" in note for note in record.notes)


def test_ctrl_c_keeps_what_was_measured(parts: Any) -> None:
    clock = parts.Clock()
    probe = parts.FakeProbe(clock, dict.fromkeys("abc", 0.001), failing={}, priorities={"a": 1, "b": 2, "c": 3})
    probe.failing["b"] = KeyboardInterrupt()
    record = characterize(Request(budget_s=5.0), probes=(probe,))
    assert record.status == "interrupted"
    assert [found.name for found in record.measurements] == ["fake/a"]
    assert all("interrupted" in why for why in reasons(record).values())
    assert ("close", "a") in probe.log


def test_a_probe_that_cannot_run_is_a_line_and_the_others_run(parts: Any) -> None:
    broken = parts.FakeProbe(parts.Clock(), {"a": 0.1}, why="no permission to open the counter /dev/thing")
    record = characterize(Request(budget_s=0.3), probes=(broken, FaultProbe()))
    assert reasons(record)["probe fake"] == "no permission to open the counter /dev/thing"
    assert record.measurements


def test_the_measurement_lock_is_held(tmp_path: Path) -> None:
    import threading

    failures: list[BaseException] = []

    def other() -> None:
        try:
            characterize(Request(("faults",), budget_s=0.1, wait=False))
        except MeasurementError as error:
            failures.append(error)

    with measurement_lock():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert "a measurement is running" in str(failures[0])


@pytest.mark.parametrize(("quota", "count"), [("unlimited", 8), (3.9, 3), (0.5, 1), (64.0, 8)])
def test_a_cpu_quota_bounds_the_threads(quota: Any, count: int) -> None:
    hardware = HardwareManifest(allowance=Allowance(cpus=tuple(range(8)), cpu_quota=quota))
    assert len(usable_cpus(hardware)) == count


def test_a_memory_limit_bounds_what_is_left() -> None:
    base = capture_hardware()
    limited = base.model_copy(update={"allowance": Allowance(memory_limit_bytes=300 << 20)})
    assert memory_left(limited) == min(300 << 20, base.state.memory_available_bytes or 0)


def test_probes_are_told_apart_in_the_record() -> None:
    record = characterize(Request(budget_s=0.5), probes=(PeakProbe(), ForkJoinProbe()))
    counts = {probe.name: probe.measured for probe in record.probes}
    assert sum(counts.values()) == len(record.measurements)
    assert json.loads(record.model_dump_json())["probes"][0]["name"] == "peak"
