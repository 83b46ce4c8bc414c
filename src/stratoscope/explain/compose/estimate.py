"""The latency of a model from those of its bricks: point, bracket, critical path, coverage, and what it rests on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from stratoscope.spec.base import Document
from stratoscope.spec.performance import PartMeasurement
from stratoscope.stats.quantity import Quantity

CONFIDENCE: Final = 0.95
#: Passes of the model that are drawn from the samples of its bricks, and the part of them that the latency is above.
DRAWS: Final = 2000
QUARTILE: Final = 0.25
#: A sample so many interquartile ranges above the third quartile is far out (Tukey, 1977): something else ran then.
FAR_OUT: Final = 3.0
#: Relative standard deviation of a composed latency from process to process, for where memory happens to lie: median of
#: eleven models at batch size 2, six processes each (`benchmarks/compose.py repeat`; 0.25 to 6.4 %).
RESTARTS: Final = 0.009
_NORMAL: Final = 1.96  # standard deviations of a 95 % interval


@dataclass(frozen=True, slots=True)
class Placed:
    """A brick at one place of a model.

    Attributes:
        times: how often its time counts: 1, or -1 for what two overlapping sequences share.
        nominal_s: about how long it takes on a rough machine; only shares of it are used.
        needs: places in the sequence of those that make its inputs.
    """

    key: str
    slug: str
    times: int
    nominal_s: float
    needs: tuple[int, ...] = ()


class MissingBrick(Document):
    """A brick without a time: why, and what part of the model it stands for."""

    key: str
    slug: str
    places: int
    share: float
    status: Literal["failed", "unsupported", "refused", "wrong", "not measured"]
    reason: str


class Estimate(Document):
    """What a model takes, put together.

    `coverage` is the part of the nominal work whose bricks have a time; the rest is taken to run at the same rate, and
    `missing` lists it. `low` is the smallest and `high` the largest of the sums of bricks as in the model, hot, and
    evicted; `parallel` is the longest path
    through the bricks, if independent ones ran at once.
    """

    latency: Quantity
    low: Quantity
    high: Quantity
    parallel: Quantity
    coverage: float
    bricks: int
    unique: int
    measured: int
    missing: tuple[MissingBrick, ...] = ()


def estimate(
    places: Sequence[Placed],
    point: Mapping[str, PartMeasurement],
    hot: Mapping[str, PartMeasurement],
    evicted: Mapping[str, PartMeasurement],
) -> Estimate:
    """Sums the bricks' times over the places of a model, by key.

    The latency is what p25 of the model's calls would be: p25 of 2,000 passes, each the sum of one sample a place,
    drawn at random, without the cost of its call, and one call. (The sum of the bricks' own p25 would be too small:
    not every brick of a pass is undisturbed at once.) Samples that are far out are not drawn: one among nine would be
    in every pass of a brick with twelve places. Bricks without a time are made up for by the share of nominal work that
    they stand for. Where no brick has a time, the quantities are unavailable.
    """
    whole = sum(one.nominal_s * one.times for one in places)
    unique = dict.fromkeys(one.key for one in places)
    timed = {key for key in unique if key in point and point[key].status == "ok"}
    covered = sum(one.nominal_s * one.times for one in places if one.key in timed)
    coverage = 1.0 if timed == set(unique) else (covered / whole if whole else 0.0)
    latency = _sum(places, point, coverage, "p25 of sums")
    sums = [
        latency,
        _sum(places, hot, coverage, "p25 of hot sums"),
        _sum(places, evicted, coverage, "p25 of evicted sums"),
    ]
    known = [one for one in sums if one.value is not None]
    return Estimate(
        latency=latency,
        low=min(known, key=_value) if sums[1].status == "ok" else sums[1],
        high=max(known, key=_value) if sums[2].status == "ok" else sums[2],
        parallel=_longest(places, point, coverage),
        coverage=coverage,
        bricks=len(places),
        unique=len(unique),
        measured=len(timed),
        missing=_missing(places, point, whole),
    )


def _value(quantity: Quantity) -> float:
    return quantity.require()


def _sum(
    places: Sequence[Placed], measurements: Mapping[str, PartMeasurement], coverage: float, statistic: str
) -> Quantity:
    counts: dict[str, int] = {}
    for place in places:
        counts[place.key] = counts.get(place.key, 0) + place.times
    timed = {key: measurements[key] for key in counts if key in measurements and measurements[key].status == "ok"}
    if not timed or coverage <= 0:
        return Quantity.unavailable("s", "no brick of the model has been measured so", statistic)
    call = min(one.overhead_s for one in timed.values())
    passes, variance, samples = np.full(DRAWS, call), 0.0, 10**9
    generator = np.random.Generator(np.random.PCG64(0))
    for key, one in timed.items():
        seconds = one.seconds()
        if counts[key] > 0:
            drawn = generator.choice(_without_far_out(one.counted_samples_s), (DRAWS, counts[key]))
            passes += drawn.sum(axis=1) - counts[key] * one.overhead_s
        else:  # what overlapping sequences share is taken off them: its own spread would be counted twice
            passes += counts[key] * seconds.require()
        if seconds.ci_low is not None and seconds.ci_high is not None:
            variance += (counts[key] * (seconds.ci_high - seconds.ci_low) / 2) ** 2
        samples = min(samples, len(one.counted_samples_s))
    total = max(call, float(np.quantile(passes, QUARTILE)))
    # Places of one brick err together, bricks independently of each other; where memory lies is common to all.
    half = math.hypot(math.sqrt(variance), _NORMAL * RESTARTS * (total - call))
    return Quantity(
        value=total / coverage,
        unit="s",
        statistic=statistic,
        n=samples,
        ci_low=max(0.0, total - half) / coverage,
        ci_high=(total + half) / coverage,
        confidence=CONFIDENCE,
    )


def _without_far_out(samples: Sequence[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    first, third = np.quantile(samples, (0.25, 0.75))
    return np.array([one for one in samples if one <= third + FAR_OUT * (third - first)])


def _longest(places: Sequence[Placed], point: Mapping[str, PartMeasurement], coverage: float) -> Quantity:
    """The longest path through the bricks. Of overlapping sequences there is none: they are no partition."""
    statistic = "longest path of p25"
    if any(place.times != 1 for place in places):
        return Quantity.unavailable("s", "overlapping sequences have no path", statistic)
    if not any(place.key in point and point[place.key].status == "ok" for place in places):
        return Quantity.unavailable("s", "no brick of the model has been measured so", statistic)
    ends: list[float] = []
    for place in places:
        known = point.get(place.key)
        own = known.seconds().require() if known is not None and known.status == "ok" else 0.0
        ends.append(own + max((ends[one] for one in place.needs), default=0.0))
    return Quantity(value=max(ends) / coverage, unit="s", statistic=statistic)


def _missing(places: Sequence[Placed], point: Mapping[str, PartMeasurement], whole: float) -> tuple[MissingBrick, ...]:
    found: dict[str, MissingBrick] = {}
    for place in places:
        known = point.get(place.key)
        if known is not None and known.status == "ok":
            continue
        before = found.get(place.key)
        found[place.key] = MissingBrick(
            key=place.key,
            slug=place.slug,
            places=(before.places if before else 0) + 1,
            share=(before.share if before else 0.0) + (place.nominal_s * place.times / whole if whole else 0.0),
            status="not measured" if known is None or known.status == "ok" else known.status,
            reason=(known.reason or "") if known is not None else "no measurement of it here",
        )
    return tuple(sorted(found.values(), key=lambda one: -one.share))
