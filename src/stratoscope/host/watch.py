"""The machine's state over a measurement: clocks, temperature, power, throttling, steal, waits, foreign load.

Nothing runs in the background: whoever measures asks for a reading between two timed regions.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np

from stratoscope.host.counters import MachineCounters, read_counters
from stratoscope.host.cpu import current_clocks_hz
from stratoscope.host.files import KernelFiles
from stratoscope.host.gpu import read_gpus
from stratoscope.host.told import Told
from stratoscope.spec.hardware import GpuState
from stratoscope.spec.machine import StateReading, StateSection
from stratoscope.stats.quantity import Quantity

T = TypeVar("T")

#: Readings are at least this far apart: one takes a millisecond, with GPUs nvidia-smi's time.
INTERVAL_S: Final = 0.5
_INTERVAL_WITH_GPUS_S: Final = 5.0
_SENSORS: Final = "coretemp|k10temp|zenpower|cpu_thermal|x86_pkg_temp|acpitz"


@dataclass(frozen=True, slots=True)
class _Raw:
    """Counters as the kernel has them, since boot."""

    at_s: float
    counters: MachineCounters
    clocks_hz: tuple[float, ...] | None
    temperature_c: float | None
    energy_j: dict[str, float]
    pressure_s: float | None
    memory_available_bytes: int | None
    gpus: tuple[GpuState, ...]


class Watch:
    """Readings of the machine's state; the first when it is made.

    `files` and `clock` stand in for the real ones; without `gpus` nvidia-smi, which takes its time, is not asked.
    """

    def __init__(
        self, files: KernelFiles | None = None, clock: Callable[[], float] = time.monotonic, *, gpus: bool = True
    ) -> None:
        self._files = files or KernelFiles()
        self._clock = clock
        self.reasons: dict[str, str] = {}
        self._has_gpus = gpus and bool(read_gpus(Told())[0])
        self._readings = [self._read()]

    def read(self, *, force: bool = False) -> None:
        """Takes a reading, unless the last one is younger than `INTERVAL_S`."""
        least = _INTERVAL_WITH_GPUS_S if self._has_gpus else INTERVAL_S
        if force or self._clock() - self._readings[-1].at_s >= least:
            self._readings.append(self._read())

    def section(self) -> StateSection:
        """The readings so far, with the last one taken now, and their summary."""
        self.read(force=True)
        first = self._readings[0]
        readings = tuple(_reading(first, raw) for raw in self._readings)
        return StateSection(readings=readings, summary=_summary(readings, self.reasons))

    def _read(self) -> _Raw:
        counters = read_counters(self._files)
        self.reasons |= counters.reasons
        if "busy_s" in counters.reasons:
            self.reasons["foreign_cpu_s"] = counters.reasons["busy_s"]
        return _Raw(
            at_s=self._clock(),
            counters=counters,
            clocks_hz=self._told("cpu_clock_hz", current_clocks_hz(self._files), "the kernel tells no clock"),
            temperature_c=self._told("temperature_c", *self._temperature()),
            energy_j=self._energy(),
            pressure_s=self._told("run_queue_wait_s", *self._pressure()),
            memory_available_bytes=self._available(),
            gpus=read_gpus(Told())[1] if self._has_gpus else (),
        )

    def _told(self, name: str, value: T | None, why_not: str) -> T | None:
        if value is None:
            self.reasons[name] = why_not
        return value

    def _temperature(self) -> tuple[float | None, str]:
        """The hottest CPU sensor of hwmon, else of the thermal zones, in degrees Celsius."""
        names = set(_SENSORS.split("|"))
        found: list[float] = []
        for chip in self._files.glob("/sys/class/hwmon/hwmon*"):
            if KernelFiles(chip).text("name") in names:
                values = (KernelFiles(chip).integer(path.name) for path in sorted(chip.glob("temp*_input")))
                found += [value / 1000 for value in values if value is not None]
        for zone in self._files.glob("/sys/class/thermal/thermal_zone*"):
            value = KernelFiles(zone).integer("temp")
            if KernelFiles(zone).text("type") in names and value is not None:
                found.append(value / 1000)
        return max(found, default=None), "the kernel shows no CPU temperature sensor (none in most virtual machines)"

    def _energy(self) -> dict[str, float]:
        """Joules counted by each package's RAPL counter; empty with the reason where there is none to read."""
        found: dict[str, float] = {}
        why = "the kernel shows no energy counters (powercap); none in most virtual machines"
        for domain in self._files.glob("/sys/class/powercap/intel-rapl:[0-9]*"):
            if domain.name.count(":") > 1:  # a part of a package
                continue
            value = KernelFiles(domain).integer("energy_uj")
            if value is not None:
                found[domain.name] = value * 1e-6
            elif (domain / "energy_uj").exists() and not os.access(domain / "energy_uj", os.R_OK):
                why = "no permission to read the energy counters (energy_uj is the superuser's)"
        if not found:
            self.reasons["power_w"] = why
        return found

    def _pressure(self) -> tuple[float | None, str]:
        """Seconds in which some task waited for a CPU (pressure stall information, `some`)."""
        line = (self._files.text("/proc/pressure/cpu") or "").partition("\n")[0]
        name, _, value = line.rpartition(" ")[2].partition("=")
        if name == "total" and value.isdigit():
            return int(value) * 1e-6, ""
        return None, "the kernel keeps no pressure stall information (/proc/pressure/cpu)"

    def _available(self) -> int | None:
        for line in (self._files.text("/proc/meminfo") or "").splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                return int(value.split()[0]) << 10
        self.reasons["memory_available_bytes"] = "/proc/meminfo has no MemAvailable"
        return None


def _reading(first: _Raw, raw: _Raw) -> StateReading:
    """A reading with counters since the first one; a counter that went backwards is absent."""
    before, now = first.counters, raw.counters
    foreign = _since(before.busy_s, now.busy_s)
    if foreign is not None:
        foreign = max(0.0, foreign - (now.own_cpu_s - before.own_cpu_s))
    energies = [_since(first.energy_j.get(name), value) for name, value in raw.energy_j.items()]
    known = [energy for energy in energies if energy is not None]
    throttled = _since(before.throttled, now.throttled)
    return StateReading(
        at_s=raw.at_s - first.at_s,
        cpu_clock_hz=raw.clocks_hz,
        temperature_c=raw.temperature_c,
        energy_j=sum(known) if known and len(known) == len(energies) else None,
        throttled=None if throttled is None else int(throttled),
        steal_s=_since(before.steal_s, now.steal_s),
        run_queue_wait_s=_since(first.pressure_s, raw.pressure_s),
        foreign_cpu_s=foreign,
        load_average=now.load_average,
        memory_available_bytes=raw.memory_available_bytes,
        gpus=raw.gpus,
    )


def _since(before: float | None, now: float | None) -> float | None:
    return None if before is None or now is None or now < before else now - before


def _summary(readings: tuple[StateReading, ...], reasons: dict[str, str]) -> dict[str, Quantity]:
    last = readings[-1]
    clocks = [clock for reading in readings for clock in reading.cpu_clock_hz or ()]
    hottest = [reading.temperature_c for reading in readings if reading.temperature_c is not None]
    gone = "the kernel's counter went backwards during the measurement"

    def total(name: str, unit: str, statistic: str) -> Quantity:
        value = getattr(last, name)
        if value is None:
            return Quantity.unavailable(unit, reasons.get(name, gone), statistic)
        return Quantity.exact(value, unit, statistic)

    summary = {
        "cpu_clock": _spread(clocks, "Hz", reasons.get("cpu_clock_hz", "not read")),
        "temperature": _largest(hottest, "degC", reasons.get("temperature_c", "not read")),
        "power": _power(last, reasons.get("power_w", gone)),
        "throttled": total("throttled", "1", "events"),
        "steal": total("steal_s", "s", "sum over all CPUs"),
        "run_queue_wait": total("run_queue_wait_s", "s", "time in which some task of the machine waited for a CPU"),
        "foreign_cpu": total("foreign_cpu_s", "s", "CPU time of other processes and of children that still run"),
    }
    for index in sorted({gpu.index for reading in readings for gpu in reading.gpus}):
        summary |= _gpu_summary(index, [gpu for reading in readings for gpu in reading.gpus if gpu.index == index])
    return summary


def _gpu_summary(index: int, states: list[GpuState]) -> dict[str, Quantity]:
    why = "nvidia-smi does not tell it"
    clocks = [state.sm_clock_hz for state in states if state.sm_clock_hz is not None]
    heat = [state.temperature_c for state in states if state.temperature_c is not None]
    power = [state.power_w for state in states if state.power_w is not None]
    return {
        f"gpu{index}_clock": _spread(clocks, "Hz", why),
        f"gpu{index}_temperature": _largest(heat, "degC", why),
        f"gpu{index}_power": _largest(power, "W", why),
    }


def _spread(values: list[float], unit: str, why: str) -> Quantity:
    """The median, with the lowest and highest reading as its ends."""
    if not values:
        return Quantity.unavailable(unit, why, "median")
    return Quantity(
        value=float(np.median(values)),
        unit=unit,
        statistic="median, lowest to highest",
        n=len(values),
        ci_low=min(values),
        ci_high=max(values),
    )


def _largest(values: list[float], unit: str, why: str) -> Quantity:
    if not values:
        return Quantity.unavailable(unit, why, "maximum")
    return Quantity(value=max(values), unit=unit, statistic="maximum", n=len(values))


def _power(last: StateReading, why: str) -> Quantity:
    """Mean power of the CPU packages over the whole."""
    if last.energy_j is None or last.at_s <= 0:
        return Quantity.unavailable("W", why, "mean")
    return Quantity.exact(last.energy_j / last.at_s, "W", "mean")
