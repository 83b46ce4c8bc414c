"""The confusion table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class ConfusionTable:
    """How often each true class was taken for each class.

    Formula: table[t, p] = number of samples of class t whose highest score is at p (of equal scores, the lowest class).
    Unit 1; rows sum to the samples of their class, the diagonal to the top-1 hits.
    """

    classes: int
    name: str = "confusion"
    unit: str = "1"

    def compute(self, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """int64 [classes, classes], rows: truth, columns: prediction."""
        table = np.zeros((self.classes, self.classes), dtype=np.int64)
        np.add.at(table, (labels, scores.argmax(axis=1)), 1)
        return table
