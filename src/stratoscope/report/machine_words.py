"""What the faces of a machine record share: names of figures in words, and the rows of their tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from stratoscope.host.roofs import MEMORY, Roof, Roofs
from stratoscope.report import format as fmt
from stratoscope.report import wording
from stratoscope.spec.machine import MachineRecord
from stratoscope.stats.quantity import Quantity

TRANSPORTS: Final = ("shared-memory", "unix-socket", "pipe", "tcp-loopback")
LIBRARIES: Final = ("ctypes", "numpy", "torch", "onnxruntime")
COLLECTIVES: Final = ("all_reduce", "all_gather", "all_to_all", "broadcast")
STATE_NAMES: Final[Mapping[str, str]] = {
    "cpu_clock": "CPU clock",
    "temperature": "CPU temperature",
    "power": "CPU power",
    "throttled": "throttle events",
    "steal": "stolen by the hypervisor",
    "run_queue_wait": "some task waited for a CPU",
    "foreign_cpu": "CPU time of others",
}


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a table: what it is, its figure, and which benchmark or method gave it."""

    name: str
    figure: Quantity
    source: str = ""


def title(record: MachineRecord) -> str:
    """The machine's host name, or what stands for it."""
    return record.hardware.hostname or "this machine"


def machine_line(record: MachineRecord) -> str:
    """CPU, cores, memory in one line, with what this process may use of them."""
    line = wording.machine_line(record.hardware.model_dump(mode="json"))
    allowance = record.hardware.allowance
    parts = []
    logical = record.hardware.cpu.logical_cpus
    if allowance.cpus is not None and logical is not None and len(allowance.cpus) < logical:
        parts.append(f"may use {len(allowance.cpus)} of {logical} CPUs")
    if isinstance(allowance.cpu_quota, float):
        parts.append(f"quota {allowance.cpu_quota:g} CPUs")
    if isinstance(allowance.memory_limit_bytes, int):
        parts.append(f"memory limit {fmt.bare(allowance.memory_limit_bytes, 'byte')}")
    return "; ".join((line, *parts))


def how_measured(record: MachineRecord) -> str:
    """Set, duration, benchmarks, and how it ended."""
    kind = "full set" if record.full else "quick set"
    ended = f"; {record.status}: {record.status_reason}" if record.status != "complete" else ""
    count = f"{fmt.count(len(record.measurements))} benchmarks"
    return f"{kind}, {count} in {fmt.text(record.duration)} of {fmt.bare(record.budget_s, 's')}{ended}"


def thread_word(threads: int) -> str:
    """ "1 thread", "2 threads"."""
    return f"{threads} thread{'s' if threads != 1 else ''}"


def bandwidth_rows(roofs: Roofs) -> list[tuple[str, list[Roof]]]:
    """One row a level: its latency's name is the level; a roof for each thread count."""
    return [(level, [roofs.bandwidth(level, threads) for threads in roofs.thread_counts]) for level in roofs.levels]


def peak_rows(roofs: Roofs) -> list[tuple[str, int, Roof, Roof, Quantity]]:
    """dtype, threads, roof, best matrix product, ridge point of memory."""
    return [
        (dtype, threads, roofs.peak(dtype, threads), roofs.gemm(dtype, threads), roofs.ridge(dtype, threads))
        for dtype in roofs.dtypes
        for threads in roofs.thread_counts
    ]


def cost_rows(roofs: Roofs) -> list[Row]:
    """What starting, calling, faulting and sending a byte cost; only what was asked for."""
    most = max(roofs.thread_counts, default=1)
    named: list[tuple[str, Roof, str]] = [
        *((f"call into {name}", roofs.dispatch(name), "dispatch") for name in LIBRARIES),
        (f"create and join {thread_word(most)} (pthread)", roofs.start("pthread", most), "forkjoin"),
        (f"create and join {thread_word(most)} (Python)", roofs.start("python-thread", most), "forkjoin"),
        ("start a process", roofs.start("process"), "forkjoin"),
        ("first touch of a 4 KiB page", roofs.page_fault(4096), "faults"),
        ("first touch of a 2 MiB page", roofs.page_fault(2 << 20), "faults"),
        *((f"round trip by {kind}", roofs.round_trip(kind), "transport") for kind in TRANSPORTS),
    ]
    return _rows(roofs, named)


def transfer_rows(roofs: Roofs) -> list[Row]:
    """Bandwidths between processes and from files; only what was asked for."""
    named = [
        *((f"to another process by {kind}", roofs.transport(kind), "transport") for kind in TRANSPORTS),
        ("file read, cached", roofs.file("warm"), "file"),
        ("file read, cold", roofs.file("cold"), "file"),
        *((f"{name.replace('_', '-')} (gloo, bus)", roofs.collective(name), "collective") for name in COLLECTIVES),
    ]
    return _rows(roofs, named)


def gpu_rows(record: MachineRecord) -> list[Row]:
    """Every GPU figure by its name."""
    found = (measured for measured in record.measurements if measured.probe == "gpu")
    return [
        Row(measured.name.removeprefix("gpu/").replace("/", " "), measured.figure, measured.note) for measured in found
    ]


def state_rows(record: MachineRecord) -> list[Row]:
    """The machine's state over the measurement, in words."""
    return [Row(STATE_NAMES.get(name, name.replace("_", " ")), value) for name, value in record.state.summary.items()]


def largest_latency(roofs: Roofs) -> Sequence[str]:
    """Levels whose latency may be shown."""
    return roofs.levels or (MEMORY,)


def _rows(roofs: Roofs, named: Sequence[tuple[str, Roof, str]]) -> list[Row]:
    asked = {probe.name for probe in roofs.record.probes if probe.why is None and probe.cases}
    return [Row(name, roof.figure, roof.source) for name, roof, probe in named if probe in asked]
