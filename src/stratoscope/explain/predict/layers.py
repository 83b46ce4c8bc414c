"""The time of a layer that was never measured, from how far the nearest measured layers are from their roofs."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from stratoscope.errors import MeasurementError
from stratoscope.spec.performance import Part

#: How far apart layers may be, in factors of e of FLOPs, bytes and intensity, to count as near: the kernel's width.
WIDTH: Final = 0.7
#: What another window, or another operator of the same family, costs in distance.
OTHER_WINDOW: Final = 1.5
OTHER_OPERATOR: Final = 4.0
#: A prediction rests on this many nearest layers at most.
NEIGHBOURS: Final = 12
#: Weight of the prior that the mean of all layers of the operator is, in neighbours.
PRIOR: Final = 0.05
_WINDOW: Final = re.compile(r"_(\d+x\d+s\d+(?:x\d+)*p[\dx]+(?:d\d+)?(?:g\d+)?)")
_ONE: Final = 1.0


@dataclass(frozen=True, slots=True)
class Roof:
    """The two roofs that efficiencies are taken against; any machine's nominal ones do, since they cancel."""

    flops_per_s: float
    bytes_per_s: float
    call_s: float = 1e-6

    def seconds(self, part: Part) -> float:
        """The roofline time of a part, and the cost of dispatching its operators."""
        flops, moved = part.flops_valid or part.flops or 0, part.bytes or 0
        return max(flops / self.flops_per_s, moved / self.bytes_per_s) + self.call_s * len(part.operators)


@dataclass(frozen=True, slots=True)
class Predicted:
    """A predicted time; `neighbours` are those that it rests on, nearest first, `distance` that of the nearest."""

    seconds: float
    neighbours: tuple[str, ...]
    distance: float


class LayerPredictor:
    """Predicts one-operator parts from measured ones of the same operator.

    A layer's time is its roofline time divided by an efficiency; the logarithm of that is the mean of its neighbours',
    weighted by a Gaussian of their distance in (FLOPs, bytes, parameter bytes, rows) and window, with a slope fitted to
    them where there are enough.
    """

    def __init__(self, measured: Sequence[tuple[Part, float]], roof: Roof) -> None:
        self._roof = roof
        self._rows = [(part, seconds) for part, seconds in measured if seconds > 0 and part.bytes]
        if not self._rows:
            raise MeasurementError("no layer has been measured that others could be predicted from")
        self._features = np.array([features(part) for part, _ in self._rows])
        self._windows = [_window(part) for part, _ in self._rows]
        self._operators = np.array([_operator(part) for part, _ in self._rows])
        self._logs = np.array([math.log(seconds / roof.seconds(part)) for part, seconds in self._rows])

    def predict(self, part: Part) -> Predicted:
        """The time of a part of one operator. Raises MeasurementError where its work is not known."""
        if not part.bytes:
            raise MeasurementError(f"the work of {part.slug} is not known: nothing to compare it by")
        same = self._operators == _operator(part)
        gaps = self._features - np.array(features(part))
        window = _window(part)
        penalty = np.array([0.0 if one == window else OTHER_WINDOW for one in self._windows])
        distance = np.sqrt((gaps**2).sum(axis=1) + penalty**2 + np.where(same, 0.0, OTHER_OPERATOR) ** 2)
        order = np.argsort(distance, kind="stable")[:NEIGHBOURS]
        near = distance[order]
        scale = max(WIDTH, float(near[0]))
        weights = np.exp(-((near / scale) ** 2) / 2)
        prior = float(np.median(self._logs[same])) if same.any() else float(np.median(self._logs))
        log = _local(gaps[order], self._logs[order], weights, prior)
        names = tuple(self._rows[int(one)][0].slug for one in order[:3])
        return Predicted(self._roof.seconds(part) * math.exp(log), names, float(near[0]))


def _local(
    gaps: np.ndarray[Any, Any], logs: np.ndarray[Any, Any], weights: np.ndarray[Any, Any], prior: float
) -> float:
    """A weighted mean with a ridge-regularised slope, at gap 0; the prior counts as PRIOR neighbours."""
    mean = float((weights @ logs + PRIOR * prior) / (weights.sum() + PRIOR))
    centred = gaps - (weights @ gaps) / weights.sum()
    gram = centred.T @ (centred * weights[:, None]) + _ONE * np.eye(gaps.shape[1])
    slope = np.linalg.solve(gram, centred.T @ (weights * (logs - mean)))
    low, high = float(logs.min()), float(logs.max())
    return float(np.clip(mean - slope @ ((weights @ gaps) / weights.sum()), low - 0.2, high + 0.2))


def features(part: Part) -> tuple[float, ...]:
    """Logarithms of what decides a layer's efficiency: FLOPs, bytes, parameter bytes, and bytes of activations."""
    moved, parameters = part.bytes or 0, part.parameter_bytes or 0
    flops = part.flops_valid or part.flops or 0
    return (
        math.log1p(flops) / 2,
        math.log1p(moved) / 2,
        math.log1p(parameters) / 4,
        math.log1p(max(moved - parameters, 0)) / 2,
    )


def _operator(part: Part) -> str:
    return part.operators[0] if part.operators else ""


def _window(part: Part) -> str:
    """The kernel, stride and groups of a convolution or pool, as its slug has them."""
    found = _WINDOW.search(part.slug)
    return found[1] if found else ""
