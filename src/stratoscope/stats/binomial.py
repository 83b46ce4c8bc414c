"""Lower tails of the binomial distribution: the base of early stopping and of exact intervals for percentiles."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

#: Terms further than this from the mean are below the smallest double.
SIGMAS: Final = 40
#: ... and this many counts beside, where the law is too narrow for its spread to tell.
FEW: Final = 200


def lower_tail(n: int, probability: float, up_to: int) -> NDArray[np.float64]:
    """P(B <= k) for k = 0..`up_to`, where B counts successes of `n` trials of `probability`.

    Terms are built outwards from the most likely count by the ratio of neighbours and scaled to the sum 1, so that they
    neither under- nor overflow nor lose digits for large `n` (1e-11 against SciPy at a million trials). Shape
    (up_to + 1,).
    """
    if not 0 < probability < 1:
        raise ValueError(f"a probability lies strictly between 0 and 1, not {probability}")
    if not 0 <= up_to <= n:
        raise ValueError(f"a count of successes lies in 0..{n}, not {up_to}")
    odds = probability / (1 - probability)
    mode = min(n, int((n + 1) * probability))
    reach = int(SIGMAS * (n * probability * (1 - probability)) ** 0.5) + FEW
    first, last = max(0, mode - reach), min(n, mode + reach)
    above = np.arange(mode + 1, last + 1, dtype=np.float64)
    below = np.arange(mode, first, -1, dtype=np.float64)
    rising = np.cumsum(np.log((n - above + 1) / above * odds))
    falling = np.cumsum(np.log(below / (n - below + 1) / odds))
    terms = np.exp(np.concatenate((falling[::-1], [0.0], rising)))
    tail = np.ones(n + 1 if up_to > last else last + 1)
    tail[:first] = 0.0
    tail[first : last + 1] = np.minimum(np.cumsum(terms) / np.sum(terms), 1.0)
    return tail[: up_to + 1]


def percentile_ranks(n: int, p: float, confidence: float) -> tuple[int, int] | None:
    """Ranks (0-based, both ends included) of the order statistics that enclose the `p` quantile with `confidence`.

    Distribution-free (Hahn & Meeker, Statistical Intervals, section 5.2): each tail holds at most half of what is left
    of `confidence`. None where `n` samples are too few for such an interval.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence lies strictly between 0 and 1, not {confidence}")
    if n < 1:
        return None
    tail = (1 - confidence) / 2
    below = lower_tail(n, p, n)
    low = int(np.searchsorted(below, tail, side="right")) - 1  # the largest l with P(B <= l) <= tail
    # The smallest u with P(B > u) <= tail; summed from the other end, where 1 - P(B <= u) would lose its digits.
    above = lower_tail(n, 1 - p, n)
    high = n - int(np.searchsorted(above, tail, side="right"))
    return (low, high) if low >= 0 and high <= n - 1 else None
