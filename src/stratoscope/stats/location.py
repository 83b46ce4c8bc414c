"""Location estimators: median, trimmed mean, mean; each a bare number."""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Statistic = Literal["median", "trimmed_mean", "mean"]

#: Part cut off each end by XSP's estimator (arXiv 1908.06869), kept so that figures compare with published ones.
TRIM: Final = 0.2
#: Fewer samples than this give a value without an interval.
MIN_FOR_INTERVAL: Final = 3


def as_samples(samples: ArrayLike) -> NDArray[np.float64]:
    """The samples as a flat float64 array; raises ValueError where one is not finite."""
    array = np.asarray(samples, dtype=np.float64).ravel()
    if not np.isfinite(array).all():
        raise ValueError("samples hold a value that is not finite")
    return array


def median(samples: ArrayLike) -> float:
    """The middle sample, or the mean of the two middle ones."""
    return float(np.median(_some(samples)))


def mean(samples: ArrayLike) -> float:
    """The arithmetic mean."""
    return float(np.mean(_some(samples)))


def trimmed_mean(samples: ArrayLike, cut: float = TRIM) -> float:
    """The mean without the `int(cut * n)` smallest and the as many largest samples; of three samples, the median.

    The same as XSP's estimator (plain mean below three samples, median of three) with `cut` at its default.
    """
    if not 0 <= cut < 0.5:
        raise ValueError(f"the part cut off each end lies in [0, 0.5), not {cut}")
    array = np.sort(_some(samples))
    if array.size == 3 and cut > 0:
        return float(array[1])
    drop = int(cut * array.size)
    return float(np.mean(array[drop : array.size - drop]))


def point(samples: ArrayLike, statistic: Statistic) -> float:
    """The value of `statistic` on the samples."""
    return {"median": median, "trimmed_mean": trimmed_mean, "mean": mean}[statistic](samples)


def _some(samples: ArrayLike) -> NDArray[np.float64]:
    array = as_samples(samples)
    if array.size == 0:
        raise ValueError("no samples")
    return array
