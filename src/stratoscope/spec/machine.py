"""The record of what one machine can do: measured bandwidths, latencies, peaks and costs, with the state meanwhile."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from stratoscope.spec.base import Document
from stratoscope.spec.hardware import GpuState, HardwareManifest
from stratoscope.spec.record import NoiseRecord, Unavailable
from stratoscope.spec.software import SoftwareManifest
from stratoscope.stats.quantity import Quantity

Parameter = str | int | float | bool


class StateReading(Document):
    """The machine's state at one moment; a field that is absent was not told: see the section's `unavailable`."""

    at_s: float = Field(description="since the first reading")
    cpu_clock_hz: tuple[float, ...] | None = Field(default=None, description="of each CPU")
    temperature_c: float | None = Field(default=None, description="of the hottest CPU sensor")
    energy_j: float | None = Field(default=None, description="of the CPU packages, since the first reading")
    throttled: int | None = Field(default=None, description="quota and thermal events since the first reading")
    steal_s: float | None = Field(default=None, description="all CPUs, since the first reading")
    run_queue_wait_s: float | None = Field(
        default=None, description="time in which some task of the machine stood in a run queue, since the first reading"
    )
    foreign_cpu_s: float | None = Field(default=None, description="CPU time of other processes since the first reading")
    load_average: float | None = Field(default=None, description="one minute")
    memory_available_bytes: int | None = None
    gpus: tuple[GpuState, ...] = ()


class StateSection(Document):
    """The machine's state over the time of a measurement: the readings, and each quantity over the whole.

    `summary` has cpu_clock (median, its interval the lowest and highest seen), temperature (highest), power (mean),
    throttled, steal, run_queue_wait, foreign_cpu (sums) and, for each GPU, its clock, temperature and power. What the
    machine does not tell is there too, unavailable with the reason; it is never zero.
    """

    readings: tuple[StateReading, ...]
    summary: dict[str, Quantity]


class Measurement(Document):
    """One benchmark of one probe: what was measured, the figure, and the repeats that it rests on.

    `name` has the form of Google Benchmark's names, family first, then parameters: "stream/triad/level:L2/threads:1".
    """

    name: str
    probe: str
    parameters: dict[str, Parameter] = {}
    figure: Quantity = Field(description="what the probe is about: a rate (byte/s, FLOP/s) or a time (s)")
    best: Quantity = Field(description="the best repeat: the highest rate or the shortest time")
    time: Quantity = Field(description="wall time of one operation")
    cpu_time: Quantity = Field(description="CPU time of one operation, all threads that took part")
    bytes: Quantity = Field(description="that one operation moves, counted as the probe says")
    flops: Quantity = Field(description="that one operation computes")
    iterations: int = Field(description="operations of one repeat")
    samples_s: tuple[float, ...] = Field(default=(), description="wall time of one operation, each accepted repeat")
    cpu_samples_s: tuple[float, ...] = Field(default=(), description="CPU time of one operation, likewise")
    rejected: int = Field(default=0, description="repeats that the noise gate refused")
    quiet: bool | None = Field(default=None, description="the gate's verdict; null where it had no signal")
    gate: str = Field(default="", description="the gate's reason")
    note: str = Field(default="", description="what a reader of this figure must know")


class ProbeRecord(Document):
    """One probe: what it measures, and how many of its cases ran; `why` where it could not run at all."""

    name: str
    title: str
    cases: int = 0
    measured: int = 0
    why: str | None = None


class MachineRecord(Document):
    """What one machine can do, measured on it: identity, state over time, and every benchmark that was run."""

    schema_: Literal["stratoscope/machine/1"] = Field(default="stratoscope/machine/1", alias="schema")
    id: str
    created_at: datetime
    command: str = ""
    status: Literal["complete", "interrupted"] = "complete"
    status_reason: str | None = None
    budget_s: float
    full: bool = False
    duration: Quantity
    hardware: HardwareManifest
    software: SoftwareManifest
    digests: dict[str, str] = Field(description="of hardware and software")
    probes: tuple[ProbeRecord, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    state: StateSection
    noise: NoiseRecord
    unavailable: tuple[Unavailable, ...] = ()
    notes: tuple[str, ...] = ()
