"""Estimates of many quantities that were measured together: one bootstrap for all, over the same resamples."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stratoscope.stats.location import MIN_FOR_INTERVAL, TRIM
from stratoscope.stats.quantity import Quantity

#: Elements of one block of resamples: memory stays below 32 MB.
BLOCK: Final = 1 << 22

Floats = NDArray[np.float64]


def estimate_rows(
    matrix: ArrayLike, unit: str, *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> list[Quantity]:
    """The 20 % trimmed mean of each row [quantities, repeats], with a percentile bootstrap interval over the repeats.

    All rows share their resamples, so quantities of one repeat stay together; a row at a time the result is that of a
    bootstrap of its own. Below three repeats there is no interval, without repeats no value.
    """
    rows = np.atleast_2d(np.asarray(matrix, dtype=np.float64))
    count, repeats = rows.shape
    if repeats == 0:
        return [Quantity.unavailable(unit, "no samples", "trimmed_mean") for _ in range(count)]
    centre = trimmed_means(rows)
    if repeats < MIN_FOR_INTERVAL:
        return [Quantity(value=float(value), unit=unit, statistic="trimmed_mean", n=repeats) for value in centre]
    chosen = np.random.default_rng(seed).integers(0, repeats, (resamples, repeats))
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    result: list[Quantity] = []
    step = max(1, BLOCK // (resamples * repeats))
    for start in range(0, count, step):
        part = rows[start : start + step]
        drawn = trimmed_means(part[:, chosen].reshape(-1, repeats)).reshape(len(part), resamples)
        low, high = np.quantile(drawn, tails, axis=1)
        for value, one, other in zip(centre[start : start + step], low, high, strict=True):
            result.append(
                Quantity(
                    value=float(value),
                    unit=unit,
                    statistic="trimmed_mean",
                    n=repeats,
                    ci_low=float(one),
                    ci_high=float(other),
                    confidence=confidence,
                )
            )
    return result


def trimmed_means(rows: Floats) -> Floats:
    """The 20 % trimmed mean of each row; the median of three (as in `stats.location`)."""
    repeats = rows.shape[1]
    ordered = np.sort(rows, axis=1)
    if repeats == 3:
        return np.asarray(ordered[:, 1])
    drop = int(TRIM * repeats)
    return np.asarray(ordered[:, drop : repeats - drop].mean(axis=1))
