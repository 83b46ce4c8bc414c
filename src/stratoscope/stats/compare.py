"""Whether one set of durations differs from another: ratio of medians, rank test, and a verdict that can be "no"."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stratoscope.stats.bootstrap import ratio_interval
from stratoscope.stats.location import MIN_FOR_INTERVAL, as_samples, median
from stratoscope.stats.quantity import Quantity

Verdict = Literal["faster", "slower", "no difference seen"]

#: Products of sample sizes up to which the rank test is exact (without ties); above it the normal law is as good.
EXACT_UP_TO: Final = 900
#: A change below 1 % is within what layout, clocks and caches do between two runs of the same program.
MINIMUM_EFFECT: Final = 0.01


@dataclass(frozen=True, slots=True)
class Comparison:
    """How `b` compares with `a`, both durations.

    Attributes:
        ratio: median(b) / median(a) with its interval; below 1, b is faster.
        verdict: about b.
        p_value: two-sided Mann-Whitney U test; None with too few samples.
        note: why the verdict is what it is.
    """

    ratio: Quantity
    verdict: Verdict
    p_value: float | None
    note: str


def compare(
    a: ArrayLike,
    b: ArrayLike,
    *,
    minimum_effect: float = MINIMUM_EFFECT,
    confidence: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Compares the durations `b` with the baseline `a`.

    b is faster or slower only when three things agree: the interval of the ratio of medians excludes 1, the rank test
    rejects at 1 - `confidence`, and the ratio is at least `minimum_effect` away from 1. Raises ValueError for durations
    that are not above zero.
    """
    first, second = as_samples(a), as_samples(b)
    if minimum_effect < 0:
        raise ValueError(f"a minimum effect is not negative: {minimum_effect}")
    if min(first.size, second.size) < MIN_FOR_INTERVAL:
        few = f"{first.size} and {second.size} samples are too few to compare"
        ratio = Quantity.unjustified("1", few, "ratio of medians", min(first.size, second.size))
        return Comparison(ratio, "no difference seen", None, few)
    low, high = ratio_interval(first, second, confidence, seed=seed)
    value = median(second) / median(first)
    ratio = Quantity(
        value=value,
        unit="1",
        statistic="ratio of medians",
        n=min(first.size, second.size),
        ci_low=min(low, value),
        ci_high=max(high, value),
        confidence=confidence,
    )
    p_value = mann_whitney(first, second)
    reasons = []
    if low <= 1 <= high:
        reasons.append(f"the {confidence:.0%} interval of the ratio covers 1")
    if p_value >= 1 - confidence:
        reasons.append(f"the rank test does not reject (p = {p_value:.2g})")
    if abs(value - 1) < minimum_effect:
        reasons.append(f"the change is below {minimum_effect:.1%}")
    if reasons:
        return Comparison(ratio, "no difference seen", p_value, "; ".join(reasons))
    note = f"interval [{low:.3f}, {high:.3f}] excludes 1, rank test p = {p_value:.2g}"
    return Comparison(ratio, "faster" if value < 1 else "slower", p_value, note)


def mann_whitney(a: ArrayLike, b: ArrayLike) -> float:
    """Two-sided p-value of the Mann-Whitney U test that neither set tends to be larger.

    Exact for small sets without ties; else normal, with tie and continuity corrections (Hollander, Wolfe & Chicken,
    Nonparametric Statistical Methods, section 4.1).
    """
    first, second = as_samples(a), as_samples(b)
    n, m = first.size, second.size
    if min(n, m) == 0:
        raise ValueError("a rank test needs samples on both sides")
    values, inverse, counts = np.unique(np.concatenate((first, second)), return_inverse=True, return_counts=True)
    last_rank = np.cumsum(counts)
    ranks = (last_rank - (counts - 1) / 2)[inverse.ravel()]
    u = float(ranks[:n].sum()) - n * (n + 1) / 2
    if values.size == n + m and n * m <= EXACT_UP_TO:
        return _exact_p(min(u, n * m - u), n, m)
    total = n + m
    ties = float(np.sum(counts.astype(np.float64) ** 3 - counts))
    variance = n * m / 12 * ((total + 1) - ties / (total * (total - 1)))
    if variance <= 0:
        return 1.0
    distance = max(0.0, abs(u - n * m / 2) - 0.5)
    return min(1.0, 2 * NormalDist().cdf(-distance / math.sqrt(variance)))


def _exact_p(u: float, n: int, m: int) -> float:
    """Twice the chance of a U statistic of at most `u`, at most 1."""
    chances = _u_law(n, m)
    return min(1.0, 2 * float(chances[: int(u) + 1].sum()))


def _u_law(n: int, m: int) -> NDArray[np.float64]:
    """P(U = u) for u = 0..n*m without ties: coefficients of the Gaussian binomial, as a product of polynomials."""
    size = n * m + 1
    law = np.zeros(size)
    law[0] = 1.0
    for i in range(1, n + 1):  # times (1 - q^(m + i)) / (1 - q^i), scaled by i / (m + i) so that the sum stays 1
        law[m + i :] -= law[: max(0, size - m - i)].copy()
        for start in range(i):
            law[start::i] = np.cumsum(law[start::i])
        law *= i / (m + i)
    return law
