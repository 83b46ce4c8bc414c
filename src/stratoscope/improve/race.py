"""Times several ways to run one model against each other: interleaved in random order, speed-ups paired by round."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stratoscope.host.noise import Observation, ThreadNoise, observe
from stratoscope.measure.clock import Clock, RealClock
from stratoscope.measure.leveled_runs import Runs, block_medians
from stratoscope.spec.record import NoiseRecord
from stratoscope.stats.estimators import estimate
from stratoscope.stats.quantity import Quantity

#: Rounds in which each way runs once or more; their medians make the pairs.
ROUNDS: Final = 15
FEWEST_ROUNDS: Final = 6
MOST_CALLS_A_ROUND: Final = 50
#: Calls that settle caches after a change of way, before any is kept.
DROPPED: Final = 1
_WARMUP_S: Final = 0.1
_LEAST_WARMUP: Final = 2
_MOST_WARMUP: Final = 100

Call = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Lap:
    """One way: its time, and how much faster it is than the baseline (1 for the baseline itself)."""

    time: Quantity
    speedup: Quantity


@dataclass(frozen=True, slots=True)
class Race:
    """The result: laps by name, and the noise of the whole."""

    laps: Mapping[str, Lap]
    noise: NoiseRecord


@dataclass(slots=True)
class _Way:
    call: Call
    seconds: float = 0.0
    repeats: int = 1
    runs: Runs = field(default_factory=Runs)


def race(
    baseline: str, ways: Mapping[str, Call], *, budget_s: float, seed: int = 0, clock: Clock | None = None
) -> Race:
    """Runs all ways for about `budget_s` seconds together, each at least `FEWEST_ROUNDS` times.

    A round has every way once, in random order, each for as many calls as give it its share of the budget. A way's
    speed-up is the median over the rounds of the baseline's median time by its own, of calls that the noise gate
    accepted: what drifts over a round is in both. Raises KeyError where `baseline` is not among the ways.
    """
    entered = {name: _Way(call) for name, call in ways.items()}
    base = entered[baseline]
    now = (clock or RealClock()).now_ns
    for way in entered.values():
        way.seconds = _warm_up(way.call, now)
    rounds = _plan(entered, budget_s)
    order, noise = random.Random(seed), ThreadNoise()
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        with noise, observe() as observation:
            for number in range(rounds):
                for name in order.sample(sorted(entered), len(entered)):
                    _lap(entered[name], number, noise, now)
    finally:
        if collecting:
            gc.enable()
    return _judge(base, entered, observation)


def _warm_up(call: Call, now: Callable[[], int]) -> float:
    times: list[int] = []
    while len(times) < _MOST_WARMUP and (len(times) < _LEAST_WARMUP or sum(times) < _WARMUP_S * 1e9):
        start = now()
        call()
        times.append(now() - start)
    return max(float(np.median(times[1:])) * 1e-9, 1e-9)


def _plan(ways: Mapping[str, _Way], budget_s: float) -> int:
    """Sets the calls a round of each way; returns the number of rounds."""
    least = sum(way.seconds for way in ways.values()) * (1 + DROPPED)
    rounds = max(FEWEST_ROUNDS, min(ROUNDS, int(budget_s / max(least, 1e-9))))
    share = budget_s / rounds / len(ways)
    for way in ways.values():
        way.repeats = max(1, min(MOST_CALLS_A_ROUND, int(share / way.seconds) - DROPPED))
    return rounds


def _lap(way: _Way, number: int, noise: ThreadNoise, now: Callable[[], int]) -> None:
    for _ in range(DROPPED):
        way.call()
    runs = way.runs
    for _ in range(way.repeats):
        before = noise.snapshot()
        start = now()
        way.call()
        end = now()
        runs.before.append(before)
        runs.after.append(noise.snapshot())
        runs.duration_ns.append(end - start)
        runs.block.append(number)


def _judge(base: _Way, ways: Mapping[str, _Way], observation: Observation) -> Race:
    verdicts = {name: way.runs.gate() for name, way in ways.items()}
    seconds = {name: np.asarray(way.runs.duration_ns) * 1e-9 for name, way in ways.items()}
    medians = {name: block_medians(way.runs, seconds[name], verdicts[name].accepted) for name, way in ways.items()}
    first = next(name for name, way in ways.items() if way is base)
    laps = {
        name: Lap(estimate(seconds[name][verdicts[name].accepted], "s", "median"), _speedup(medians[first], own))
        for name, own in medians.items()
    }
    accepted = sum(int(verdict.accepted.sum()) for verdict in verdicts.values())
    total = sum(verdict.accepted.size for verdict in verdicts.values())
    quiet = [verdict.quiet for verdict in verdicts.values()]
    worst = False if False in quiet else None if None in quiet else True
    reason = next((verdict.reason for verdict in verdicts.values() if verdict.quiet is worst), "")
    return Race(laps, observation.record(accepted, total - accepted, worst, reason))


def _speedup(base: Mapping[int, float], own: Mapping[int, float]) -> Quantity:
    both: list[int] = sorted(base.keys() & own.keys())
    ratios: NDArray[np.float64] = np.array([base[one] / own[one] for one in both if own[one] > 0])
    if ratios.size == 0:
        return Quantity.unavailable("1", "no round has accepted calls of both", "median")
    return estimate(ratios, "1", "median")
