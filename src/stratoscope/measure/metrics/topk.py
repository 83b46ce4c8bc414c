"""Top-k accuracy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stratoscope.errors import MeasurementError
from stratoscope.stats.proportion import proportion
from stratoscope.stats.quantity import Quantity


@dataclass(frozen=True, slots=True)
class TopK:
    """Share of samples whose true class is among the `k` highest scores.

    Formula: (1/n) * sum over i of [rank of score(i, label(i)) <= k], equal scores ranked by class number. Unit 1, with
    Wilson's interval.
    """

    k: int = 1
    unit: str = "1"

    def __post_init__(self) -> None:
        if self.k < 1:
            raise MeasurementError(f"top-{self.k} accuracy is not defined", hint="k is at least 1")

    @property
    def name(self) -> str:
        """`top1`, `top5`."""
        return f"top{self.k}"

    def compute(self, scores: np.ndarray, labels: np.ndarray) -> Quantity:
        """The share, of scores [n, classes] and labels [n]."""
        own = np.take_along_axis(scores, labels[:, None], axis=1)
        earlier = np.arange(scores.shape[1]) < labels[:, None]
        rank = (scores > own).sum(axis=1) + ((scores == own) & earlier).sum(axis=1)
        return proportion(int((rank < self.k).sum()), int(labels.size), statistic=f"top-{self.k} accuracy")
