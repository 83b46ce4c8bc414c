"""Fits the efficiency curves to measured times without SciPy: a coordinate search on log error."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def log_error(predicted: Floats, measured: Floats) -> float:
    """Mean absolute logarithmic error: half too fast weighs as much as twice too slow."""
    return float(np.abs(np.log(predicted / measured)).mean())


def coordinate_search(
    predict: Callable[[Floats], Floats], measured: Floats, start: Sequence[float], bounds: Sequence[tuple[float, float]]
) -> Floats:
    """Positive parameters within `bounds` that minimise the log error: one at a time, steps shrinking by a half."""
    best = np.array(start, dtype=float)
    error = log_error(predict(best), measured)
    step = 1.0
    while step > 0.01:
        moved = False
        for index, (low, high) in enumerate(bounds):
            for factor in (np.exp(step), np.exp(-step)):
                trial = best.copy()
                trial[index] = np.clip(trial[index] * factor, low, high)
                found = log_error(predict(trial), measured)
                if found < error - 1e-9:
                    best, error, moved = trial, found, True
        if not moved:
            step /= 2.0
    return best


def spread(predicted: Floats, measured: Floats) -> dict[str, float]:
    """p10, p50, p90 of measured over predicted and the mean absolute log error, as curves carry them."""
    ratio = measured / predicted
    low, middle, high = (float(np.quantile(ratio, q)) for q in (0.1, 0.5, 0.9))
    return {"p10": min(low, 1.0), "p50": middle, "p90": max(high, 1.0), "n": len(ratio),
            "mae": log_error(predicted, measured)}  # fmt: skip
