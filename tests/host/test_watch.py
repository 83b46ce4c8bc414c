"""The machine's state over time, on the kernel's files of machines that are not this one; no field is ever made up."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from stratoscope.host import watch as watch_module
from stratoscope.host.files import KernelFiles
from stratoscope.host.watch import Watch


class Machine:
    """Kernel files below a folder, and a clock."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now = 100.0

    def watch(self) -> Watch:
        return Watch(KernelFiles(self.root), lambda: self.now)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(watch_module, "read_gpus", lambda told: (None, ()))
    return Machine(tmp_path)


def stat(busy_ticks: int, steal_ticks: int) -> str:
    return f"cpu  {busy_ticks} 0 0 5000 0 0 0 {steal_ticks} 0 0\n"


def put(machine: Machine, path: str, content: str) -> None:
    target = machine.root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(content)


def test_a_machine_that_tells_nothing_has_reasons_and_no_zeros(machine: Machine) -> None:
    section = machine.watch().section()
    assert set(section.summary) >= {"cpu_clock", "temperature", "power", "throttled", "steal", "run_queue_wait"}
    for name, value in section.summary.items():
        assert value.status == "unavailable", name
        assert value.reason
    last = section.readings[-1]
    assert last.steal_s is None
    assert last.temperature_c is None
    assert last.energy_j is None


def test_counters_are_differences_since_the_first_reading(machine: Machine) -> None:
    tick = os.sysconf("SC_CLK_TCK")
    put(machine, "proc/stat", stat(1000, 100))
    put(machine, "proc/pressure/cpu", "some avg10=0.00 avg60=0.00 avg300=0.00 total=5000000\nfull total=0\n")
    put(machine, "proc/loadavg", "0.50 0.40 0.30 1/100 1\n")
    watching = machine.watch()
    machine.now += 10
    put(machine, "proc/stat", stat(1000 + 3 * tick * 1000, 100 + 2 * tick))
    put(machine, "proc/pressure/cpu", "some avg10=0.00 avg60=0.00 avg300=0.00 total=6500000\nfull total=0\n")
    section = watching.section()
    assert section.summary["steal"].value == pytest.approx(2.0)
    assert section.summary["run_queue_wait"].value == pytest.approx(1.5)
    foreign = section.summary["foreign_cpu"].value
    assert foreign is not None
    assert 2900 < foreign <= 3000  # less what this test itself used
    assert section.readings[-1].at_s == 10
    assert section.readings[0].steal_s == 0.0


def test_a_counter_that_went_backwards_is_unavailable(machine: Machine) -> None:
    put(machine, "proc/stat", stat(1000, 100))
    watching = machine.watch()
    put(machine, "proc/stat", stat(10, 1))
    steal = watching.section().summary["steal"]
    assert steal.value is None
    assert "backwards" in (steal.reason or "")


def test_power_is_energy_over_time_of_all_packages(machine: Machine) -> None:
    for package, energy in ((0, 1_000_000), (1, 2_000_000)):
        put(machine, f"sys/class/powercap/intel-rapl:{package}/energy_uj", str(energy))
    put(machine, "sys/class/powercap/intel-rapl:0:0/energy_uj", "77")
    watching = machine.watch()
    machine.now += 2
    put(machine, "sys/class/powercap/intel-rapl:0/energy_uj", "61000000")
    put(machine, "sys/class/powercap/intel-rapl:1/energy_uj", "42000000")
    assert watching.section().summary["power"].value == pytest.approx((60 + 40) / 2)


def test_a_counter_that_may_not_be_read_says_so(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    put(machine, "sys/class/powercap/intel-rapl:0/energy_uj", "1000000")
    read = Path.read_text

    def refused(path: Path, *arguments: Any, **options: Any) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return read(path, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", refused)
    monkeypatch.setattr(os, "access", lambda path, mode, **options: Path(path).name != "energy_uj")
    power = machine.watch().section().summary["power"]
    assert power.value is None
    assert "no permission" in (power.reason or "")


def test_the_hottest_cpu_sensor_counts_and_a_disk_is_no_cpu(machine: Machine) -> None:
    put(machine, "sys/class/hwmon/hwmon0/name", "nvme")
    put(machine, "sys/class/hwmon/hwmon0/temp1_input", "91000")
    put(machine, "sys/class/hwmon/hwmon1/name", "k10temp")
    put(machine, "sys/class/hwmon/hwmon1/temp1_input", "45000")
    put(machine, "sys/class/hwmon/hwmon1/temp2_input", "52500")
    assert machine.watch().section().summary["temperature"].value == 52.5


def test_clocks_are_the_median_between_the_lowest_and_the_highest(machine: Machine) -> None:
    put(machine, "sys/devices/system/cpu/online", "0-1")
    for cpu, khz in ((0, 2_000_000), (1, 3_000_000)):
        put(machine, f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq", str(khz))
    watching = machine.watch()
    put(machine, "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq", "1000000")
    clock = watching.section().summary["cpu_clock"]
    assert (clock.value, clock.ci_low, clock.ci_high) == (2e9, 1e9, 3e9)


def test_readings_keep_their_distance(machine: Machine) -> None:
    watching = machine.watch()
    for _ in range(100):
        machine.now += 0.1
        watching.read()
    assert 18 <= len(watching.section().readings) <= 22
