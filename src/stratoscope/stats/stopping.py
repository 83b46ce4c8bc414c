"""When a measurement has been repeated enough: the interval of the median is narrow, or the budget is spent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from stratoscope.stats.binomial import percentile_ranks
from stratoscope.stats.location import as_samples


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether to stop, why, and how narrow the interval is by now (half its width over the median; None: unknown)."""

    stop: bool
    why: Literal["precise", "time budget", "repeat budget", "go on"]
    relative_half_width: float | None


@dataclass(frozen=True, slots=True)
class StoppingRule:
    """Repeats are enough when the median is known to `target` (relative half-width) or a budget is exhausted.

    Attributes:
        target: half the interval's width over the median at which to stop.
        confidence: of the interval, which is the exact order-statistic one: cheap, and free of any distribution.
        min_repeats: never stop for precision before this many.
        max_repeats: stop at this many.
        min_time_s: never stop for precision before this much measured time.
        max_time_s: stop after this much measured time.
    """

    target: float = 0.02
    confidence: float = 0.95
    min_repeats: int = 10
    max_repeats: int = 100_000
    min_time_s: float = 0.0
    max_time_s: float = 10.0

    def __post_init__(self) -> None:
        if self.target <= 0 or not 0 < self.confidence < 1:
            raise ValueError("a stopping rule has a target above 0 and a confidence strictly between 0 and 1")
        if not 1 <= self.min_repeats <= self.max_repeats or not 0 <= self.min_time_s <= self.max_time_s:
            raise ValueError("the least that a stopping rule asks for is at most the most that it allows")

    def decide(self, samples: ArrayLike, elapsed_s: float) -> Decision:
        """The decision after `samples` (any unit) that took `elapsed_s` in all. Budgets win over precision."""
        array = as_samples(samples)
        width = relative_half_width(array, self.confidence)
        if array.size >= self.max_repeats:
            return Decision(True, "repeat budget", width)
        if elapsed_s >= self.max_time_s:
            return Decision(True, "time budget", width)
        enough = array.size >= self.min_repeats and elapsed_s >= self.min_time_s
        if enough and width is not None and width <= self.target:
            return Decision(True, "precise", width)
        return Decision(False, "go on", width)

    def next_check(self, n: int) -> int:
        """How many samples to have before asking again: a tenth more, so that looking is cheap and biases little."""
        return min(self.max_repeats, max(self.min_repeats, n + 1, n + n // 10))


def relative_half_width(samples: ArrayLike, confidence: float = 0.95) -> float | None:
    """Half the width of the exact interval of the median, over the median; None where the samples do not tell."""
    ordered = np.sort(as_samples(samples))
    ranks = percentile_ranks(ordered.size, 0.5, confidence)
    if ranks is None:
        return None
    centre = float(np.median(ordered))
    return float(ordered[ranks[1]] - ordered[ranks[0]]) / (2 * abs(centre)) if centre != 0 else None
