"""Times a call in this process as one repeat: wall and CPU time, run-queue wait, involuntary switches."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable

from stratoscope.host.noise import ThreadNoise
from stratoscope.measure.machine.probe import Operate, Repeat

_TASKS = "/proc/self/task"


def operate(call: Callable[[int], object]) -> Operate:
    """`call(iterations)`, which does all the work in the calling thread, as a timed repeat."""

    def run(iterations: int) -> Repeat:
        with ThreadNoise() as noise:
            before = noise.snapshot()
            call(iterations)
            after = noise.snapshot()
        wait = None if before.wait_ns is None or after.wait_ns is None else after.wait_ns - before.wait_ns
        return Repeat(
            after.wall_ns - before.wall_ns, after.cpu_ns - before.cpu_ns, wait, after.involuntary - before.involuntary
        )

    return run


def operate_process(call: Callable[[int], object]) -> Operate:
    """As `operate`, for a call that uses threads of its own: CPU time of the process, the longest wait of a thread."""

    def run(iterations: int) -> Repeat:
        switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
        waits = thread_waits()
        cpu = time.process_time_ns()
        start = time.perf_counter_ns()
        call(iterations)
        wall = time.perf_counter_ns() - start
        cpu = time.process_time_ns() - cpu
        wait = longest_wait(waits, thread_waits())
        return Repeat(wall, cpu, wait, resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - switches)

    return run


def thread_waits() -> dict[str, int] | None:
    """Run-queue wait of each thread of this process so far, in ns; None where the kernel keeps no statistics."""
    waits: dict[str, int] = {}
    try:
        tasks = os.listdir(_TASKS)
    except OSError:
        return None
    for task in tasks:
        try:
            with open(f"{_TASKS}/{task}/schedstat", "rb") as file:
                fields = file.read().split()
        except OSError:  # the thread ended, or there is no such file at all
            continue
        if len(fields) >= 3 and fields[2] != b"0":
            waits[task] = int(fields[1])
    return waits or None


def longest_wait(before: dict[str, int] | None, after: dict[str, int] | None) -> int | None:
    """The largest growth of a thread's wait; None where it is not told."""
    if before is None or after is None:
        return None
    return max(wait - before.get(task, 0) for task, wait in after.items())


def repeated(call: Callable[[], object]) -> Callable[[int], object]:
    """A loop around `call`."""

    def loop(iterations: int) -> None:
        for _ in range(iterations):
            call()

    return loop


def minus_empty(call: Callable[[], object], empty: Callable[[], object]) -> Operate:
    """As `operate` of a loop around `call`, less an equal loop around `empty`: what the loop and the call itself cost.

    The two loops run right after one another. Where the difference drowns in noise (below a tenth of the loop), the
    repeat keeps the loop's own time: a time that is too long is wrong by what is known, one near zero by anything.
    """
    timed, base = operate(repeated(call)), operate(repeated(empty))

    def run(iterations: int) -> Repeat:
        nothing, whole = base(iterations), timed(iterations)
        if whole.wall_ns - nothing.wall_ns < whole.wall_ns // 10:
            return whole
        cpu = max(0, whole.cpu_ns - nothing.cpu_ns)
        return Repeat(whole.wall_ns - nothing.wall_ns, cpu, whole.wait_ns, whole.involuntary)

    return run
