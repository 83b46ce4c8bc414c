"""Machine records to test on: plausible, small, with figures that are easy to check by hand."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from stratoscope.spec.hardware import Allowance, Cache, CpuHardware, HardwareManifest, Memory
from stratoscope.spec.machine import MachineRecord, Measurement, ProbeRecord, StateReading, StateSection
from stratoscope.spec.record import NoiseRecord, Unavailable
from stratoscope.spec.software import SoftwareManifest
from stratoscope.stats.quantity import Quantity

KIB, MIB = 1 << 10, 1 << 20

HARDWARE = HardwareManifest(
    hostname="bench<1>",
    cpu=CpuHardware(
        model="Test CPU",
        physical_cores=2,
        logical_cpus=2,
        caches=(
            Cache(level=1, type="data", size_bytes=32 * KIB, shared_by=1, instances=2),
            Cache(level=2, type="unified", size_bytes=1 * MIB, shared_by=1, instances=2),
            Cache(level=3, type="unified", size_bytes=32 * MIB, shared_by=2, instances=1),
        ),
    ),
    memory=Memory(total_bytes=8 << 30),
    allowance=Allowance(cpus=(0, 1), cpu_quota="unlimited", memory_limit_bytes="unlimited"),
)


def seconds(value: float, spread: float = 0.1, n: int = 6) -> Quantity:
    """A median with an interval of `spread` to each side."""
    low, high = value * (1 - spread), value * (1 + spread)
    return Quantity(value=value, unit="s", statistic="median", n=n, ci_low=low, ci_high=high, confidence=0.95)


def measured(
    name: str,
    time_s: float,
    unit: str = "s",
    work: float | None = None,
    spread: float = 0.1,
    samples: int = 6,
    **parameters: Any,
) -> Measurement:
    """A benchmark whose repeats lie evenly within the interval."""
    time = seconds(time_s, spread, samples)
    figure, best = time, Quantity(value=time_s * (1 - spread), unit="s", statistic="minimum", n=samples)
    if work is not None:
        ends = (work / (time_s * (1 + spread)), work / (time_s * (1 - spread)))
        figure = Quantity(
            value=work / time_s,
            unit=unit,
            statistic="median",
            n=samples,
            ci_low=ends[0],
            ci_high=ends[1],
            confidence=0.95,
        )
        best = Quantity(value=ends[1], unit=unit, statistic="maximum", n=samples)
    none = Quantity.unavailable("byte", "this case counts none", "count")
    steps = [time_s * (1 - spread + 2 * spread * index / (samples - 1)) for index in range(samples)]
    return Measurement(
        name="/".join((name, *(f"{key}:{value}" for key, value in parameters.items()))),
        probe=name.partition("/")[0],
        parameters=parameters,
        figure=figure,
        best=best,
        time=time,
        cpu_time=time,
        bytes=Quantity.exact(work, "byte") if unit == "byte/s" and work is not None else none,
        flops=Quantity.exact(work, "FLOP") if unit == "FLOP/s" and work is not None else none,
        iterations=1000,
        samples_s=tuple(steps),
        cpu_samples_s=tuple(steps),
        quiet=True,
        gate="all repeats pass",
    )


def bandwidth(level: str, threads: int, gb_per_s: float, kernel: str = "triad", method: str = "c") -> Measurement:
    """A STREAM figure."""
    size = {"L1": 16 * KIB, "L2": 512 * KIB, "L3": 16 * MIB, "memory": 384 * MIB}[level]
    return measured(
        f"stream/{kernel}",
        size / (gb_per_s * 1e9),
        "byte/s",
        size,
        method=method,
        level=level,
        threads=threads,
        bytes=size,
    )


def peak(dtype: str, threads: int, gflop_per_s: float, isa: str = "avx2") -> Measurement:
    """Arithmetic in registers."""
    return measured(
        "peak/multiply-add", 1e9 / (gflop_per_s * 1e9), "FLOP/s", 1e9, dtype=dtype, isa=isa, threads=threads
    )


def product(dtype: str, threads: int, gflop_per_s: float, library: str = "numpy", n: int = 1024) -> Measurement:
    """A matrix product."""
    work = 2.0 * n**3
    return measured(
        "gemm/square",
        work / (gflop_per_s * 1e9),
        "FLOP/s",
        work,
        library=library,
        kind="mm",
        dtype=dtype,
        n=n,
        threads=threads,
    )


def default_measurements() -> tuple[Measurement, ...]:
    """Two threads, four levels, two dtypes, and a little of everything else."""
    levels = {"L1": 200, "L2": 100, "L3": 80, "memory": 25}
    return (
        *(bandwidth(level, 1, rate) for level, rate in levels.items()),
        *(bandwidth(level, 2, 2 * rate) for level, rate in levels.items()),
        bandwidth("memory", 1, 40, kernel="copy", method="c-nt"),
        *(
            measured("sweep/read", size / 5e10, "byte/s", size, method="c", threads=threads, bytes=size)
            for threads in (1, 2)
            for size in (8 * KIB, MIB, 128 * MIB)
        ),
        measured("chase/load", 1e-9, level="L1", bytes=16 * KIB),
        measured("chase/load", 1e-7, level="memory", bytes=128 * MIB),
        peak("fp32", 1, 120),
        peak("fp32", 2, 240),
        product("fp32", 1, 100),
        product("fp32", 1, 110, library="torch"),
        product("bf16", 1, 200, library="torch"),
        measured("faults/first-touch", 1e-6, page_bytes=4096),
        measured("forkjoin/pthread", 2e-5, threads=2),
        measured("forkjoin/process", 1e-3),
        measured("dispatch/numpy", 3e-7),
        measured("transport/pipe", 5e-6, what="round-trip"),
        measured("transport/pipe", 1e-4, "byte/s", 2e5, what="one-way", bytes=200_000),
        measured("file/read", 1e-2, "byte/s", 2e7, state="cold", bytes=20_000_000, block=MIB),
        measured("collective/all_reduce", 1e-3, "byte/s", 4e6, backend="gloo", ranks=2, bytes=4_000_000),
    )


def make_machine(**overrides: Any) -> MachineRecord:
    """A record with every probe that needs no GPU."""
    measurements = overrides.get("measurements", default_measurements())
    names = dict.fromkeys(m.probe for m in measurements)
    probes = tuple(ProbeRecord(name=name, title=f"about {name}", cases=1, measured=1) for name in names)
    gpu = ProbeRecord(name="gpu", title="GPU", why="no nvidia-smi on the PATH: no NVIDIA GPU, or no driver")
    zero = Quantity.exact(0.0, "s", "sum")
    fields: dict[str, Any] = {
        "id": "m1",
        "created_at": datetime(2026, 3, 1, 12, 0, tzinfo=UTC),
        "command": "stratoscope machine",
        "budget_s": 60.0,
        "duration": Quantity.exact(59.0, "s", "sum"),
        "hardware": HARDWARE,
        "software": SoftwareManifest(),
        "digests": {"hardware": HARDWARE.digest(), "software": SoftwareManifest().digest()},
        "probes": (*probes, gpu),
        "measurements": measurements,
        "state": StateSection(
            readings=(StateReading(at_s=0.0), StateReading(at_s=59.0, steal_s=0.5)),
            summary={
                "cpu_clock": Quantity(value=3e9, unit="Hz", statistic="median", n=4, ci_low=2e9, ci_high=3.5e9),
                "power": Quantity.unavailable("W", "no permission to read the energy counters", "mean"),
                "steal": Quantity.exact(0.5, "s", "sum over all CPUs"),
            },
        ),
        "noise": NoiseRecord(
            wall_s=Quantity.exact(59.0, "s", "sum"),
            thread_cpu_s=zero,
            run_queue_wait_s=zero,
            involuntary_switches=Quantity.exact(0, "1"),
            steal_s=zero,
            load_average=Quantity.exact(0.5, "1"),
            throttled=Quantity.exact(0, "1"),
            accepted=100,
            rejected=0,
            quiet=True,
            reason="0 of 20 judged benchmarks were disturbed",
        ),
        "unavailable": (Unavailable(what="probe gpu", why="no nvidia-smi on the PATH: no NVIDIA GPU, or no driver"),),
        "notes": ("bytes are counted as STREAM counts them: write-allocate traffic is not",),
    }
    return MachineRecord(**(fields | overrides))
