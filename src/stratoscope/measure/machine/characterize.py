"""Measures what this machine can do, under the measurement lock and within a budget, and makes the record of it."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from stratoscope.errors import MeasurementError
from stratoscope.host.capture import capture_hardware, capture_software
from stratoscope.host.lock import measurement_lock
from stratoscope.host.noise import Observation, observe
from stratoscope.host.watch import Watch
from stratoscope.measure.machine.arena import Arena
from stratoscope.measure.machine.bandwidth import stream_unavailable
from stratoscope.measure.machine.collectives import Groups
from stratoscope.measure.machine.compiled import build_kernels
from stratoscope.measure.machine.engine import Job, Limits, Report, run_jobs
from stratoscope.measure.machine.figures import measurement
from stratoscope.measure.machine.probe import Probe, ProbeUnavailable, Setting
from stratoscope.measure.machine.registry import PROBES, select_probes
from stratoscope.measure.machine.workers import WorkerPool
from stratoscope.spec.hardware import HardwareManifest
from stratoscope.spec.machine import MachineRecord, Measurement, ProbeRecord
from stratoscope.spec.record import NoiseRecord, Unavailable
from stratoscope.stats.quantity import Quantity
from stratoscope.store.ids import new_run_id

FRAMEWORKS: Final = ("onnxruntime", "torch")
#: Part of the memory that is left that probes may hold: the rest is the page cache's and other programs'.
MEMORY_SHARE: Final = 0.5
#: Never hold more than this, however much there is: beyond, only the time to touch it grows.
MOST_MEMORY_BYTES: Final = 64 << 30
#: Budget of --full, in seconds, where none is given.
FULL_BUDGET_S: Final = 600.0
QUICK_BUDGET_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Request:
    """What to measure.

    Attributes:
        probes: names; None: all.
        budget_s: seconds for all probes; None: the default of the quick or the full set.
        full: more sizes, thread counts and dtypes.
        wait: wait for another measurement on this machine, or fail at once.
        memory_left_bytes: stands in for what the machine has left, in tests and where it must be bounded.
        command: the command line, for the record.
    """

    probes: tuple[str, ...] | None = None
    budget_s: float | None = None
    full: bool = False
    wait: bool = True
    memory_left_bytes: int | None = None
    command: str = ""

    @property
    def seconds(self) -> float:
        """The budget in effect."""
        if self.budget_s is not None:
            return self.budget_s
        return FULL_BUDGET_S if self.full else QUICK_BUDGET_S


def characterize(
    request: Request,
    on_progress: Report = lambda text, share: None,
    probes: tuple[Probe, ...] = PROBES,
    on_wait: Callable[[str], None] | None = None,
) -> MachineRecord:
    """Measures and returns the record. Ctrl-C ends it early: what was measured is kept, with status "interrupted".

    A name that no probe has is noted in the record's `unavailable`, and the others run.

    Raises:
        MeasurementError: only unknown names were given, a budget is negative, or the machine is busy and waiting was
            not asked for.
    """
    chosen, unknown = select_probes(request.probes, probes)
    if not chosen:
        raise MeasurementError("; ".join(unknown.values()), hint="`stratoscope machine list` shows them")
    if request.seconds < 0:
        raise MeasurementError(f"a budget is not negative: {request.seconds:g} s")
    with ExitStack() as stack:
        on_progress("capturing the machine", None)
        hardware, software = capture_hardware(), capture_software(FRAMEWORKS)
        stack.enter_context(measurement_lock(request.wait, on_wait=on_wait))
        setting = stack.enter_context(make_setting(hardware, request, on_progress))
        watch = Watch()
        start = time.monotonic()
        with observe() as observation:
            jobs, records, interrupted = _run(chosen, setting, request.seconds, on_progress, watch)
        duration = time.monotonic() - start
        state = watch.section()
    measured = [found for found in map(measurement, jobs) if found is not None]
    missing = [Unavailable(what=f"probe {name}", why=line) for name, line in unknown.items()]
    return MachineRecord(
        id=new_run_id(),
        created_at=datetime.now(UTC),
        command=request.command,
        status="interrupted" if interrupted else "complete",
        status_reason="Ctrl-C" if interrupted else None,
        budget_s=request.seconds,
        full=request.full,
        duration=Quantity.exact(duration, "s", "sum"),
        hardware=hardware,
        software=software,
        digests={"hardware": hardware.digest(), "software": software.digest()},
        probes=records,
        measurements=tuple(measured),
        state=state,
        noise=_noise(observation, measured),
        unavailable=(*missing, *_unavailable(chosen, jobs, records, setting, request.seconds, interrupted)),
        notes=_notes(setting),
    )


@contextmanager
def make_setting(hardware: HardwareManifest, request: Request, on_progress: Report) -> Iterator[Setting]:
    """The setting of this machine; ends the workers and removes the folder afterwards."""
    left = memory_left(hardware) if request.memory_left_bytes is None else request.memory_left_bytes
    with ExitStack() as stack:
        on_progress("building the C kernels", None)
        kernels, why = build_kernels()
        workers, groups = WorkerPool(), Groups()
        stack.callback(workers.close)
        stack.callback(groups.close)
        arena = Arena(kernels, hardware.cpu.numa_nodes or 1)
        stack.callback(arena.release)
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="stratoscope-machine-"))
        yield Setting(
            cpus=usable_cpus(hardware),
            caches=hardware.cpu.caches or (),
            memory_bytes=min(MOST_MEMORY_BYTES, int(left * MEMORY_SHARE)),
            memory_left_bytes=left,
            folder=Path(folder),
            arena=arena,
            workers=workers,
            groups=groups,
            numa_nodes=hardware.cpu.numa_nodes or 1,
            full=request.full,
            kernels=kernels,
            no_kernels=why,
        )


def usable_cpus(hardware: HardwareManifest) -> tuple[int, ...]:
    """The CPUs of the affinity mask, at most as many as the cgroup's quota pays for, at least one."""
    cpus = hardware.allowance.cpus or tuple(range(hardware.cpu.logical_cpus or os.cpu_count() or 1))
    quota = hardware.allowance.cpu_quota
    if isinstance(quota, float):
        cpus = cpus[: max(1, int(quota))]
    return cpus


def memory_left(hardware: HardwareManifest) -> int:
    """Bytes that this process may still take: what the machine has available, and no more than the cgroup's limit."""
    available = hardware.state.memory_available_bytes or hardware.memory.total_bytes or 256 << 20
    limit = hardware.allowance.memory_limit_bytes
    return min(available, limit) if isinstance(limit, int) else available


def _run(
    chosen: tuple[Probe, ...], setting: Setting, budget_s: float, on_progress: Report, watch: Watch
) -> tuple[list[Job], tuple[ProbeRecord, ...], bool]:
    """The jobs of all probes after their rounds, a record of each probe, and whether Ctrl-C cut them short."""
    deadline = time.monotonic() + budget_s
    jobs: list[Job] = []
    why: dict[str, str | None] = {}
    interrupted = False
    try:
        for probe in chosen:
            if budget_s == 0:
                why[probe.name] = "the budget of 0 s leaves no time to measure"
                continue
            on_progress(f"checking {probe.name}", None)
            why[probe.name] = _check(probe, setting)
            if why[probe.name] is None:
                jobs += [Job(probe, case) for case in probe.register(setting)]
        limits = Limits(deadline, setting.memory_bytes // 2)
        run_jobs(jobs, setting, limits, on_progress, watch.read)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        for job in jobs:
            job.close()
    records = tuple(
        ProbeRecord(
            name=probe.name,
            title=probe.title,
            cases=sum(job.probe is probe for job in jobs),
            measured=sum(job.probe is probe and bool(job.repeats) for job in jobs),
            why=why.get(probe.name),
        )
        for probe in chosen
    )
    return jobs, records, interrupted


def _check(probe: Probe, setting: Setting) -> str | None:
    try:
        return probe.check(setting)
    except (ProbeUnavailable, OSError) as error:
        return str(error)


def _unavailable(
    chosen: tuple[Probe, ...],
    jobs: list[Job],
    records: tuple[ProbeRecord, ...],
    setting: Setting,
    budget_s: float,
    interrupted: bool,
) -> list[Unavailable]:
    """What was asked for and has no figure: whole probes, then single cases, one line for equal reasons of a probe."""
    found = [Unavailable(what=f"probe {record.name}", why=record.why) for record in records if record.why]
    if any(probe.name == "stream" for probe in chosen) and budget_s > 0:
        short = stream_unavailable(setting)
        if short:
            found.append(Unavailable(what="bandwidth of memory", why=short))
    grouped: dict[tuple[str, str], list[str]] = {}
    for job in jobs:
        if job.repeats and job.why is None:
            continue
        late = (
            "interrupted before its turn" if interrupted else f"the budget of {budget_s:g} s was spent before its turn"
        )
        grouped.setdefault((job.probe.name, job.why or late), []).append(job.case.name)
    for (probe_name, why), names in grouped.items():
        shown = names[0] if len(names) == 1 else f"{len(names)} cases of {probe_name} ({names[0]}, ...)"
        found.append(Unavailable(what=shown, why=why))
    return found


def _noise(observation: Observation, measured: list[Measurement]) -> NoiseRecord:
    """What the machine did over the whole, with the verdicts of all gates together."""
    accepted = sum(len(found.samples_s) for found in measured)
    rejected = sum(found.rejected for found in measured)
    judged = [found.quiet for found in measured if found.quiet is not None]
    loud = judged.count(False)
    quiet = None if not judged else loud <= len(judged) // 10
    reason = f"{loud} of {len(judged)} judged benchmarks were disturbed in more than a tenth of their repeats"
    return observation.record(accepted, rejected, quiet, reason if judged else "no benchmark had a signal to judge by")


def _notes(setting: Setting) -> tuple[str, ...]:
    """What a reader of all figures must know."""
    notes = ["bytes are counted as STREAM counts them: write-allocate traffic is not"]
    if setting.kernels is not None:
        notes.append(f"C kernels built by {setting.kernels.compiler}, {8 * setting.kernels.vector_bytes}-bit vectors")
    else:
        notes.append(f"no C kernels ({setting.no_kernels}): bandwidths are NumPy's, which are lower; no latencies")
    if len(setting.cpus) == 1:
        notes.append("one CPU may be used: there are no figures for several threads")
    return tuple(notes)


def availability(*, full: bool = False, probes: tuple[Probe, ...] = PROBES) -> tuple[ProbeRecord, ...]:
    """Each probe with the number of its cases on this machine, or why it cannot run; measures nothing."""
    found = []
    with make_setting(capture_hardware(), Request(full=full), lambda text, share: None) as setting:
        for probe in probes:
            why = _check(probe, setting)
            cases = 0 if why is not None else sum(1 for _ in probe.register(setting))
            found.append(ProbeRecord(name=probe.name, title=probe.title, cases=cases, why=why))
    return tuple(found)
