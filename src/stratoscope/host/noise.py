"""Says what the machine did to a measurement: cheap per-repeat readings of a thread, and a record of the whole.

Wall time that a thread did not get is run-queue wait (second field of schedstat, Documentation/scheduler/sched-stats
of the kernel) or its own blocking; the first is the machine's doing and is what a noise gate judges.
"""

from __future__ import annotations

import os
import resource
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import NamedTuple, Self

from stratoscope.errors import MeasurementError
from stratoscope.host.counters import MachineCounters, read_counters
from stratoscope.host.watch import Watch
from stratoscope.spec.record import NoiseRecord
from stratoscope.stats.quantity import Quantity

SCHEDSTAT = "/proc/thread-self/schedstat"
_NS_PER_S = 1e9


class NoiseSnapshot(NamedTuple):
    """Counters of one thread at one moment; subtract two of them. Nanoseconds and counts.

    `wait_ns` is the time spent runnable but not running; None where the kernel keeps no scheduler statistics.
    """

    wall_ns: int
    cpu_ns: int
    wait_ns: int | None
    voluntary: int
    involuntary: int


class ThreadNoise:
    """Reads the counters of the thread that opened it, in a few microseconds each time.

    Use as a context manager, or call `close`. Only the opening thread may take snapshots: the scheduler's file is
    bound to it.
    """

    def __init__(self, schedstat: str = SCHEDSTAT) -> None:
        self._thread = threading.get_ident()
        self._closed = False
        self.reason: str | None = None  # why wait_ns is None
        self._fd = self._open(schedstat)

    def _open(self, schedstat: str) -> int | None:
        try:
            fd = os.open(schedstat, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            self.reason = f"{schedstat}: {error.strerror}"
            return None
        # A kernel that has the file but keeps no statistics answers "0 0 0"; a thread that runs has had a time slice.
        if os.pread(fd, 80, 0).split()[2:3] in ([], [b"0"]):
            os.close(fd)
            self.reason = "the kernel keeps no scheduler statistics (schedstat reads 0 0 0)"
            return None
        return fd

    def snapshot(self) -> NoiseSnapshot:
        """The counters now. The wall clock is read last, nearest to what follows.

        Raises:
            MeasurementError: in another thread than the one that opened this, or after `close`.
        """
        if self._closed or threading.get_ident() != self._thread:
            state = "is closed" if self._closed else "belongs to another thread"
            raise MeasurementError(f"this ThreadNoise {state}", hint="open one in the thread that measures")
        usage = resource.getrusage(resource.RUSAGE_THREAD)
        wait_ns = None if self._fd is None else int(os.pread(self._fd, 80, 0).split()[1])
        cpu_ns = time.thread_time_ns()  # schedstat's own CPU time is a tick old while the thread runs
        return NoiseSnapshot(time.perf_counter_ns(), cpu_ns, wait_ns, usage.ru_nvcsw, usage.ru_nivcsw)

    def close(self) -> None:
        """Releases the file; may be called twice."""
        self._closed = True
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Observation:
    """What happened to the calling thread and to the machine between entering and leaving; made by `observe`.

    `record` may be called after the block has ended, also where it ended by an exception.
    """

    def __init__(self) -> None:
        self._noise: ThreadNoise | None = None
        self._before: tuple[MachineCounters, NoiseSnapshot] | None = None
        self._after: tuple[MachineCounters, NoiseSnapshot] | None = None
        self._wait_reason: str | None = None
        self._watch: Watch | None = None
        self._state: Mapping[str, Quantity] = {}

    def __enter__(self) -> Self:
        self._watch = Watch(gpus=False)
        counters = read_counters()
        self._noise = ThreadNoise()
        self._wait_reason = self._noise.reason
        self._before = (counters, self._noise.snapshot())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._noise is not None
        snapshot = self._noise.snapshot()
        self._after = (read_counters(), snapshot)
        if self._watch is not None:
            self._state = self._watch.section().summary
        self._noise.close()

    def record(
        self, accepted: int = 0, rejected: int = 0, quiet: bool | None = None, reason: str | None = None
    ) -> NoiseRecord:
        """The noise record of the block, with the gate's counts and verdict as the caller has them.

        Raises:
            MeasurementError: the block has not ended.
        """
        if self._before is None or self._after is None:
            raise MeasurementError(
                "the observation has not ended", hint="call record() after the `with observe()` block"
            )
        return noise_record(
            self._before,
            self._after,
            self._wait_reason,
            state=self._state,
            accepted=accepted,
            rejected=rejected,
            quiet=quiet,
            reason=reason,
        )


def observe() -> Observation:
    """A context manager around a whole measurement, in the thread that drives it; `record()` gives the NoiseRecord."""
    return Observation()


def noise_record(
    before: tuple[MachineCounters, NoiseSnapshot],
    after: tuple[MachineCounters, NoiseSnapshot],
    wait_reason: str | None = None,
    *,
    state: Mapping[str, Quantity] | None = None,
    accepted: int = 0,
    rejected: int = 0,
    quiet: bool | None = None,
    reason: str | None = None,
) -> NoiseRecord:
    """Differences of two readings as quantities; `wait_reason` says why the run-queue wait is missing, where it is.

    `state` is a watch's summary, for clock, temperature and power.
    """
    state = state or {}
    (machine0, thread0), (machine1, thread1) = before, after
    wait = Quantity.unavailable("s", wait_reason or "the kernel keeps no scheduler statistics", "sum")
    if thread0.wait_ns is not None and thread1.wait_ns is not None:
        wait = Quantity.exact((thread1.wait_ns - thread0.wait_ns) / _NS_PER_S, "s", "sum")
    load = Quantity.unavailable(
        "1", machine0.reasons.get("load_average", "not read"), "one-minute average at the start"
    )
    if machine0.load_average is not None:
        load = Quantity.exact(machine0.load_average, "1", "one-minute average at the start")
    return NoiseRecord(
        wall_s=Quantity.exact((thread1.wall_ns - thread0.wall_ns) / _NS_PER_S, "s", "sum"),
        thread_cpu_s=Quantity.exact((thread1.cpu_ns - thread0.cpu_ns) / _NS_PER_S, "s", "sum"),
        run_queue_wait_s=wait,
        involuntary_switches=Quantity.exact(thread1.involuntary - thread0.involuntary, "1"),
        steal_s=_difference(machine0, machine1, "steal_s", "s", "sum over all CPUs"),
        load_average=load,
        throttled=_throttled(machine0, machine1),
        foreign_cpu_s=_foreign(machine0, machine1),
        cpu_clock=state.get("cpu_clock"),
        temperature=state.get("temperature"),
        power=state.get("power"),
        accepted=accepted,
        rejected=rejected,
        quiet=quiet,
        reason=reason,
    )


def _difference(before: MachineCounters, after: MachineCounters, name: str, unit: str, statistic: str) -> Quantity:
    """Growth of one counter, or why it is not known, as when it went backwards (a machine that was suspended)."""
    low, high = getattr(before, name), getattr(after, name)
    if low is None or high is None:
        return Quantity.unavailable(unit, (before.reasons | after.reasons).get(name, "not read"), statistic)
    if high < low:
        return Quantity.unavailable(unit, "the kernel's counter went backwards during the measurement", statistic)
    return Quantity.exact(high - low, unit, statistic)


def _throttled(before: MachineCounters, after: MachineCounters) -> Quantity:
    statistic = "count of " + " + ".join(after.throttle_sources) if after.throttle_sources else "count"
    if before.throttle_sources != after.throttle_sources:
        return Quantity.unavailable("1", "the throttle counters changed during the measurement", statistic)
    return _difference(before, after, "throttled", "1", statistic)


def _foreign(before: MachineCounters, after: MachineCounters) -> Quantity:
    """CPU time of everything but this process: growth of the machine's busy time minus our own.

    The kernel counts busy time in ticks, so the difference is uncertain by some ticks; below zero it is zero.
    """
    statistic = "machine's busy time minus our own, in clock ticks"
    busy = _difference(before, after, "busy_s", "s", statistic)
    if busy.value is None:
        return busy
    return Quantity.exact(max(0.0, busy.value - (after.own_cpu_s - before.own_cpu_s)), "s", statistic)
