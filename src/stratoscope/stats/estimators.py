"""The estimators in one place: location, and the estimate with its interval that goes into a record."""

from __future__ import annotations

from stratoscope.stats.bootstrap import estimate
from stratoscope.stats.location import (
    MIN_FOR_INTERVAL,
    TRIM,
    Statistic,
    as_samples,
    mean,
    median,
    point,
    trimmed_mean,
)

__all__ = ["MIN_FOR_INTERVAL", "TRIM", "Statistic", "as_samples", "estimate", "mean", "median", "point", "trimmed_mean"]
