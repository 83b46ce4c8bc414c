"""What a metric of classification is."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from stratoscope.stats.quantity import Quantity


class Metric(Protocol):
    """A figure from scores [n, classes] and true classes int64 [n]."""

    @property
    def name(self) -> str:
        """The key in a record."""
        ...

    @property
    def unit(self) -> str:
        """SI, or "1"."""
        ...

    def compute(self, scores: np.ndarray, labels: np.ndarray) -> Quantity:
        """The figure with its interval; unavailable without samples."""
        ...
