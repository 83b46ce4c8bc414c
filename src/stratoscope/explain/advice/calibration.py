"""How good the advisor's own predictions are: predicted against achieved, over all advice that was tried."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from stratoscope.spec.record import RunRecord
from stratoscope.stats.estimators import estimate
from stratoscope.stats.quantity import Quantity

#: A predicted speed-up below this promises nothing: parts of so small a gain are noise.
LEAST_GAIN: Final = 1.01


@dataclass(frozen=True, slots=True)
class Tried:
    """A piece of advice with a prediction that was tried: speed-ups of the whole model."""

    run: str
    model: str
    backend: str
    key: str
    predicted: float
    achieved: float

    @property
    def realised(self) -> float | None:
        """The part of the predicted gain that was achieved, both as time saved; None where none was predicted."""
        if self.predicted < LEAST_GAIN:
            return None
        return (1 - 1 / self.achieved) / (1 - 1 / self.predicted)


@dataclass(frozen=True, slots=True)
class Calibration:
    """All of it together.

    Attributes:
        tried: the newest trial of each advice on each model and back end.
        realised: median part of the predicted gain that was achieved, of advice that predicted one.
        error: median of |achieved / predicted - 1|.
        bias: geometric mean of achieved over predicted; below 1: predictions promise too much.
    """

    tried: tuple[Tried, ...]
    realised: Quantity
    error: Quantity
    bias: Quantity


def prediction_error(ratios: Iterable[float], *, prior: float, worth: int) -> float:
    """Root mean square of the log of achieved over predicted speed-ups, with `worth` trials of `prior` among them.

    Few trials say little of how far predictions miss: the prior keeps the figure from being too small or too large.
    """
    logs = [math.log(ratio) for ratio in ratios]
    return math.sqrt((worth * prior**2 + sum(one**2 for one in logs)) / (worth + len(logs)))


def calibration(records: Iterable[RunRecord]) -> Calibration:
    """The calibration over runs with advice, given newest first; a run that repeats an older one replaces it."""
    found: dict[tuple[str, str, str], Tried] = {}
    for record in records:
        if record.advice is None:
            continue
        for one in record.advice.advice:
            achieved = one.trial.speedup.value if one.trial is not None else None
            if one.predicted.value is None or achieved is None:
                continue
            key = (record.digests.model, record.digests.software, one.key)
            entry = Tried(record.id, record.model.id, record.backend.name, one.key, one.predicted.value, achieved)
            found.setdefault(key, entry)
    tried = tuple(found.values())
    realised = [one.realised for one in tried if one.realised is not None]
    ratios = [one.achieved / one.predicted for one in tried]
    none = Quantity.unavailable("1", "no advice with a prediction was tried", "geometric mean")
    return Calibration(
        tried,
        estimate(realised, "1", "median"),
        estimate([abs(ratio - 1) for ratio in ratios], "1", "median"),
        Quantity(value=math.exp(float(np.mean(np.log(ratios)))), unit="1", statistic="geometric mean", n=len(ratios))
        if ratios
        else none,
    )
