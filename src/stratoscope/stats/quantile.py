"""A low percentile of times and its bootstrap interval: what code takes on a machine that others use too."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from stratoscope.stats.binomial import lower_tail
from stratoscope.stats.location import MIN_FOR_INTERVAL, as_samples
from stratoscope.stats.quantity import Quantity

#: The quarter: disturbances only ever add time, and less than three quarters of the calls meet one on a machine that
#: is fit to measure on; the minimum, which meets none, depends on how many calls were made.
LOW_QUARTILE: Final = 0.25


def quantile_rank(n: int, p: float) -> int:
    """The 0-based rank of the `p` quantile of `n` ordered samples: the smallest with at least p * n samples up to it.

    This is the inverse of the empirical distribution (Hyndman & Fan, type 1).
    """
    if n < 1 or not 0 < p < 1:
        raise ValueError(f"a quantile needs a sample and a fraction strictly between 0 and 1, not {n} and {p}")
    return max(0, math.ceil(n * p - 1e-9) - 1)


def bootstrap_ranks(n: int, p: float, confidence: float = 0.95) -> tuple[int, int]:
    """Ranks of the samples that bound the percentile-bootstrap interval of the `p` quantile, without resampling.

    The r-th order statistic of n draws with replacement is at most the j-th sample when at least r + 1 draws fall
    among the first j + 1: a binomial tail (Efron & Tibshirani, An Introduction to the Bootstrap, problem 2.4), so the
    limit of infinitely many resamples is known exactly. Like every percentile bootstrap of few samples it covers a
    little less than it says: at 40 samples 92 % for 95 %.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence lies strictly between 0 and 1, not {confidence}")
    rank = quantile_rank(n, p)
    tail = (1 - confidence) / 2
    return _first(n, rank, tail), _first(n, rank, 1 - tail)


def low_quartile(samples: ArrayLike, unit: str = "s", confidence: float = 0.95) -> Quantity:
    """The 25th percentile (`p25`) with its bootstrap interval; unavailable without samples, bare below three."""
    ordered = np.sort(as_samples(samples))
    if ordered.size == 0:
        return Quantity.unavailable(unit, "no samples", "p25")
    value = float(ordered[quantile_rank(ordered.size, LOW_QUARTILE)])
    if ordered.size < MIN_FOR_INTERVAL:
        return Quantity(value=value, unit=unit, statistic="p25", n=ordered.size)
    low, high = bootstrap_ranks(ordered.size, LOW_QUARTILE, confidence)
    return Quantity(
        value=value,
        unit=unit,
        statistic="p25",
        n=ordered.size,
        ci_low=float(ordered[low]),
        ci_high=float(ordered[high]),
        confidence=confidence,
    )


def _first(n: int, rank: int, probability: float) -> int:
    """The smallest j for which the resampled order statistic is at most sample j with at least `probability`."""
    low, high = 0, n - 1  # the last sample bounds every resample
    while low < high:
        middle = (low + high) // 2
        reached = 1.0 - float(lower_tail(n, (middle + 1) / n, rank)[-1])
        low, high = (low, middle) if reached >= probability else (middle + 1, high)
    return low
