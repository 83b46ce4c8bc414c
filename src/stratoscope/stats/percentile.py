"""Percentiles as MLPerf LoadGen takes them, and its early-stopping guarantee for a tail."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from stratoscope.stats.binomial import lower_tail, percentile_ranks
from stratoscope.stats.location import as_samples
from stratoscope.stats.quantity import Quantity

#: LoadGen's confidence that the true percentile lies at or below its early-stopping estimate.
CONFIDENCE: Final = 0.99
#: LoadGen's tolerance: by how much the percentile that is guaranteed may fall short of the one that is asked for.
TOLERANCE: Final = 0.0


def percentile_name(p: float) -> str:
    """`p50`, `p99`, `p99.9`: the key of a percentile in a record."""
    return f"p{round(p * 100, 6):g}"


def percentile_index(n: int, p: float) -> int:
    """The 0-based rank that LoadGen reports for the percentile `p` of `n` ordered samples: n * p, cut off."""
    return int(n * _fraction(p))


def percentile(samples: ArrayLike, p: float, unit: str = "s", confidence: float = 0.95) -> Quantity:
    """LoadGen's percentile with an exact order-statistic interval.

    Unjustified below early stopping's floor (64 samples at the 90th percentile, 662 at the 99th): so few samples bound
    no such tail with confidence 0.99.
    """
    name = percentile_name(p)
    ordered = np.sort(as_samples(samples))
    if ordered.size == 0:
        return Quantity.unavailable(unit, "no samples", name)
    floor = early_stopping_floor(p)
    if ordered.size < floor:
        return Quantity.unjustified(unit, f"{name} needs {floor} samples, got {ordered.size}", name, ordered.size)
    value = float(ordered[percentile_index(ordered.size, p)])
    ranks = percentile_ranks(ordered.size, p, confidence)
    if ranks is None:
        return Quantity(value=value, unit=unit, statistic=name, n=ordered.size)
    return Quantity(
        value=value,
        unit=unit,
        statistic=name,
        n=ordered.size,
        ci_low=min(value, float(ordered[ranks[0]])),
        ci_high=max(value, float(ordered[ranks[1]])),
        confidence=confidence,
    )


def early_stopping_estimate(
    samples: ArrayLike, p: float, confidence: float = CONFIDENCE, tolerance: float = TOLERANCE, unit: str = "s"
) -> Quantity:
    """An upper bound of the percentile `p` that holds with `confidence`, whenever the run was stopped.

    MLPerf's early stopping: the (t)-th largest sample, where t is the largest number of overlatency queries with which
    the run would still pass. Unjustified below the floor. `ci_low` and `ci_high` are absent: the bound is the interval.
    """
    name = f"early_stopping_{percentile_name(p)}"
    ordered = np.sort(as_samples(samples))
    if ordered.size == 0:
        return Quantity.unavailable(unit, "no samples", name)
    discarded = allowed_overlatency(ordered.size, p, confidence, tolerance)
    if discarded < 1:
        floor = early_stopping_floor(p, confidence, tolerance)
        return Quantity.unjustified(unit, f"{name} needs {floor} samples, got {ordered.size}", name, ordered.size)
    return Quantity(
        value=float(ordered[ordered.size - discarded]),
        unit=unit,
        statistic=name,
        n=ordered.size,
        confidence=confidence,
    )


def allowed_overlatency(n: int, p: float, confidence: float = CONFIDENCE, tolerance: float = TOLERANCE) -> int:
    """The largest t for which t overlatency queries of `n` still prove the percentile; -1 where not even none do.

    t overlatency queries prove that a query is in time with probability `p` - `tolerance` when so few would be seen
    with a chance below 1 - `confidence` if it were not.
    """
    late = 1 - _in_time(p, tolerance)
    if n < 1:
        return -1
    # The tail at the mean is about a half, so the answer lies below it unless the confidence is below a half.
    up_to = n if confidence <= 0.5 else min(n, int(n * late) + 1)
    tail = lower_tail(n, late, up_to)
    return int(np.searchsorted(tail, _chance(confidence), side="left")) - 1


@lru_cache(maxsize=256)
def early_stopping_floor(p: float, confidence: float = CONFIDENCE, tolerance: float = TOLERANCE) -> int:
    """The fewest samples from which early stopping gives an estimate: one overlatency query must be allowed."""
    return min_passing_queries(1, p, confidence, tolerance) + 1


def min_passing_queries(
    overlatency: int, p: float, confidence: float = CONFIDENCE, tolerance: float = TOLERANCE
) -> int:
    """The fewest in-time queries that, beside `overlatency` late ones, prove the percentile (LoadGen's finder)."""
    if overlatency < 0:
        raise ValueError(f"a number of queries is not negative: {overlatency}")
    late = 1 - _in_time(p, tolerance)
    chance = _chance(confidence)

    def proves(in_time: int) -> bool:
        return bool(lower_tail(in_time + overlatency, late, overlatency)[-1] < chance)

    high = 1
    while not proves(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if proves(middle) else (middle, high)
    return high


def _fraction(p: float) -> float:
    if not 0 < p < 1:
        raise ValueError(f"a percentile is given as a fraction strictly between 0 and 1, not {p}")
    return p


def _in_time(p: float, tolerance: float) -> float:
    if not 0 <= tolerance < _fraction(p):
        raise ValueError(f"a tolerance lies in [0, {p}), not {tolerance}")
    return p - tolerance


def _chance(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence lies strictly between 0 and 1, not {confidence}")
    return 1 - confidence
