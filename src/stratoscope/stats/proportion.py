"""A share of successes with Wilson's interval, which stays within 0 and 1 and holds for few samples."""

from __future__ import annotations

import math
from statistics import NormalDist

from stratoscope.stats.quantity import Quantity


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """(low, high) of a proportion (Wilson 1927; Brown, Cai & DasGupta 2001); raises ValueError without trials."""
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"{successes} of {n} is no proportion")
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence lies strictly between 0 and 1, not {confidence}")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, weight = successes / n, z * z / n
    centre = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(share * (1 - share) / n + weight / (4 * n))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high


def proportion(successes: int, n: int, confidence: float = 0.95, statistic: str = "proportion") -> Quantity:
    """successes / n, unit "1", with Wilson's interval; unavailable without trials."""
    if n == 0:
        return Quantity.unavailable("1", "no samples", statistic)
    low, high = wilson_interval(successes, n, confidence)
    return Quantity(
        value=successes / n,
        unit="1",
        statistic=statistic,
        n=n,
        ci_low=low,
        ci_high=high,
        confidence=confidence,
    )
