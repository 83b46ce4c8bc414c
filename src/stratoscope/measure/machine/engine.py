"""Runs cases in rounds: each round visits every case once, in random order, so that a drift meets all of them alike.

A repeat of a case is one sample; the repeats of a case lie seconds apart, so they see the machine's changes over the
whole measurement and their interval covers them. Cases stay open between rounds, but for those that depend on where
their pages fall in a cache: these lie elsewhere at each visit, so that their interval covers that, too.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

from stratoscope.measure.machine.probe import Case, Prepared, Probe, ProbeUnavailable, Repeat, Setting

#: A repeat lasts about this long: far above the clock's grain and a call's cost, and no longer than the slices that a
#: scheduler gives, so that on a busy machine some repeats are left alone.
REPEAT_S: Final = 0.005
#: A visit tries again, up to so many times in all, where the thread waited for a CPU during more than this part.
TRIES: Final = 4
MOST_WAIT_SHARE: Final = 0.05
#: Repeats of a case: six give an interval of the median that needs no assumption; beyond forty little is gained.
MOST_REPEATS: Final = 40
#: Part of a repeat's operations that run before it, untimed: caches, page tables and clocks as in the repeat.
WARM_UP: Final = 0.1
#: A case may take so many times the mean time of a case; most take far less than the mean.
GREED: Final = 4
_MOST_WAITED: Final = 4
_MOST_ITERATIONS: Final = 1 << 40

Report = Callable[[str, float | None], None]
Monotonic = Callable[[], float]


@dataclass
class Job:
    """A case on its way: its repeats so far, how many tries were given up for them, or why it has none."""

    probe: Probe
    case: Case
    iterations: int = 0
    repeats: list[Repeat] = field(default_factory=list)
    given_up: int = 0
    note: str = ""
    why: str | None = None
    _stack: ExitStack | None = None
    _prepared: Prepared | None = None

    @property
    def is_open(self) -> bool:
        """Whether it holds its memory and helpers."""
        return self._prepared is not None

    def open(self, setting: Setting) -> Prepared:
        """The prepared case; prepares it where it is not yet."""
        if self._prepared is None:
            with ExitStack() as stack:
                self._prepared = stack.enter_context(self.probe.run(self.case, setting))
                self._stack = stack.pop_all()
            self.note = self._prepared.note
        return self._prepared

    def close(self) -> None:
        """Gives back what it holds; may be called twice."""
        stack, self._stack, self._prepared = self._stack, None, None
        if stack is not None:
            stack.close()


@dataclass(frozen=True, slots=True)
class Limits:
    """What the engine may take: until when on its clock, and bytes of cases that stay open."""

    deadline_s: float
    memory_bytes: int
    most_repeats: int = MOST_REPEATS


def run_jobs(
    jobs: Sequence[Job],
    setting: Setting,
    limits: Limits,
    on_progress: Report,
    between: Callable[[], None],
    *,
    clock: Monotonic = time.monotonic,
    seed: int = 0,
) -> None:
    """Fills the jobs' repeats until the deadline, or until each has `most_repeats`.

    Within the first round the cases come by priority, so that a short budget gives the most important ones a figure.
    A case that fails keeps the reason and what it has; the others go on. A case whose single repeat takes more than
    its share of the time sits out rounds, so that it cannot starve the rest. `between` is called between repeats.

    Args:
        on_progress: gets a case's name and the share of the budget that is used.
        clock: seconds, monotonic; a virtual one in tests.
    """
    rng = random.Random(seed)
    start = clock()
    budget = max(limits.deadline_s - start, 1e-9)
    spent = dict.fromkeys(range(len(jobs)), 0.0)
    for round_number in range(limits.most_repeats):
        order = [index for index, job in enumerate(jobs) if job.why is None]
        rng.shuffle(order)
        if round_number == 0:
            order.sort(key=lambda index: jobs[index].case.priority)
        ran = False
        for index in order:
            job, now = jobs[index], clock()
            if now >= limits.deadline_s:
                return
            if round_number > 0 and spent[index] * len(order) > GREED * (now - start):
                continue
            on_progress(job.case.name, min(1.0, (now - start) / budget))
            spent[index] += _repeat(job, jobs, setting, limits, clock)
            ran = True
            between()
        if not ran:
            return


def _repeat(job: Job, jobs: Sequence[Job], setting: Setting, limits: Limits, clock: Monotonic) -> float:
    """One repeat of a job, and the seconds that it took without its preparation; a failure is noted in the job."""
    start = clock()
    try:
        if not job.is_open:
            _make_room(job, jobs, limits.memory_bytes)
        prepared = job.open(setting)
        start = clock()
        if job.iterations == 0:
            job.iterations = job.case.fixed_iterations or calibrate(prepared.operate)
        if job.case.warm_up and job.iterations > 1:  # one long operation is its own warm-up
            prepared.operate(max(1, int(job.iterations * WARM_UP)))
        tries = _tries(prepared, job.iterations)
        job.repeats.append(min(tries, key=_wait_share))
        job.given_up += len(tries) - 1
        if job.case.reopens:
            job.close()
    except ProbeUnavailable as unavailable:
        job.why = str(unavailable)
        job.close()
    except (MemoryError, OSError) as error:
        job.why = f"{type(error).__name__}: {error}" if str(error) else "not enough memory"
        job.close()
    return clock() - start


def _tries(prepared: Prepared, iterations: int) -> list[Repeat]:
    """Repeats until one was left alone, at most `TRIES`; the visit keeps the one that waited least.

    A long repeat (ten times `REPEAT_S`) is tried once: longer than a slice, it would not be left alone either. The
    choice goes by waiting and never by how long the repeat took, so that it does not favour fast ones.
    """
    tries = [prepared.operate(iterations)]
    long = tries[0].wall_ns > 1e10 * REPEAT_S
    while not long and len(tries) < TRIES and _wait_share(tries[-1]) > MOST_WAIT_SHARE:
        tries.append(prepared.operate(iterations))
    return tries


def _wait_share(repeat: Repeat) -> float:
    """Part of a repeat in which a thread waited for a CPU; none where the kernel does not tell."""
    return 0.0 if repeat.wait_ns is None else repeat.wait_ns / repeat.wall_ns


def _make_room(job: Job, jobs: Sequence[Job], memory_bytes: int) -> None:
    """Closes open jobs, the largest first, until this one fits beside the rest."""
    held = sum(other.case.memory_bytes for other in jobs if other.is_open)
    for other in sorted(jobs, key=lambda other: -other.case.memory_bytes):
        if held + job.case.memory_bytes <= memory_bytes:
            return
        if other.is_open and other.case.memory_bytes:
            other.close()
            held -= other.case.memory_bytes


def calibrate(operate: Callable[[int], Repeat], target_s: float = REPEAT_S) -> int:
    """Operations that take about `target_s` when nothing disturbs them.

    Doubles until a tenth of the target is seen, then scales and looks once more. Time in a run queue is not the
    operations' and is left out, up to three quarters: the kernel books a wait when it ends, so that one may be longer
    than the trial that it ended in. Of all trials the fastest counts.
    """
    iterations, fastest = 1, math.inf
    while iterations < _MOST_ITERATIONS:
        took = operate(iterations)
        took_s = max(took.wall_ns / _MOST_WAITED, took.wall_ns - (took.wait_ns or 0)) * 1e-9
        fastest = min(fastest, took_s / iterations)
        if took_s >= target_s:
            break
        wanted = math.ceil(target_s / fastest)
        if took_s >= target_s / 10 and wanted <= 2 * iterations:
            break
        iterations = max(2 * iterations, min(64 * iterations, wanted))
    return max(1, math.ceil(target_s / fastest))
