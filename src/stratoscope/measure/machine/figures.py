"""Turns the repeats of a case into a measurement: the gate's verdict, the median with its interval, the best repeat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from stratoscope.measure.machine.engine import Job
from stratoscope.measure.machine.probe import Repeat
from stratoscope.spec.machine import Measurement
from stratoscope.stats.binomial import percentile_ranks
from stratoscope.stats.bootstrap import estimate
from stratoscope.stats.noise import MAX_REFUSED, GateResult, gate
from stratoscope.stats.quantity import Quantity

CONFIDENCE: Final = 0.95


def median_time(samples_s: Sequence[float]) -> Quantity:
    """The median in seconds with its 95 % interval.

    From six samples on, the exact interval of order statistics: a bootstrap of six covers the truth in some 90 % only.
    With three to five samples the bootstrap; below, a bare value.
    """
    ordered = sorted(samples_s)
    ranks = percentile_ranks(len(ordered), 0.5, CONFIDENCE)
    if ranks is None:
        return estimate(ordered, "s", "median", CONFIDENCE)
    return Quantity(
        value=float(np.median(ordered)),
        unit="s",
        statistic="median",
        n=len(ordered),
        ci_low=ordered[ranks[0]],
        ci_high=ordered[ranks[1]],
        confidence=CONFIDENCE,
    )


def rate(work: float, time: Quantity, unit: str) -> Quantity:
    """`work` over a time: the interval's ends change places."""
    if time.value is None:
        return Quantity.unavailable(unit, time.reason or "no time", time.statistic)
    low, high = time.ci_low, time.ci_high
    return Quantity(
        value=work / time.value,
        unit=unit,
        statistic=time.statistic,
        n=time.n,
        ci_low=None if high is None else work / high,
        ci_high=None if low is None else work / low,
        confidence=time.confidence,
    )


def judge(repeats: Sequence[Repeat]) -> GateResult:
    """The gate on the run-queue waits of the repeats, where all tell theirs."""
    waits = [repeat.wait_ns for repeat in repeats]
    known = [wait for wait in waits if wait is not None]
    return gate(
        [repeat.wall_ns for repeat in repeats],
        None,
        known if len(known) == len(waits) and known else None,
        [repeat.involuntary for repeat in repeats],
    )


def measurement(job: Job) -> Measurement | None:
    """The measurement of a job; None where it has no repeats."""
    if not job.repeats:
        return None
    case, verdict = job.case, judge(job.repeats)
    rejected = job.given_up + int((~verdict.accepted).sum())
    tries = len(job.repeats) + job.given_up
    quiet = verdict.quiet and rejected <= MAX_REFUSED * tries
    given_up = f"; {job.given_up} of {tries} tries were given up for waiting" if job.given_up else ""
    kept = [repeat for repeat, accepted in zip(job.repeats, verdict.accepted, strict=True) if accepted]
    walls = [repeat.wall_ns / job.iterations * 1e-9 for repeat in kept]
    cpus = [repeat.cpu_ns / job.iterations * 1e-9 for repeat in kept]
    time = median_time(walls)
    work = {"byte/s": case.bytes, "FLOP/s": case.flops}.get(case.unit)
    fastest = Quantity(value=min(walls), unit="s", statistic="minimum", n=len(walls))
    best = fastest
    if work is not None:
        best = rate(work, fastest, case.unit).model_copy(update={"statistic": "maximum"})
    return Measurement(
        name=case.name,
        probe=job.probe.name,
        parameters=dict(case.parameters),
        figure=time if work is None else rate(work, time, case.unit),
        best=best,
        time=time,
        cpu_time=median_time(cpus),
        bytes=_exact(case.bytes, "byte"),
        flops=_exact(case.flops, "FLOP"),
        iterations=job.iterations,
        samples_s=tuple(walls),
        cpu_samples_s=tuple(cpus),
        rejected=rejected,
        quiet=quiet,
        gate=verdict.reason + given_up,
        note="; ".join(part for part in (case.note, job.note) if part),
    )


def _exact(work: float | None, unit: str) -> Quantity:
    if work is None:
        return Quantity.unavailable(unit, "this case counts none", "count")
    return Quantity.exact(work, unit)
