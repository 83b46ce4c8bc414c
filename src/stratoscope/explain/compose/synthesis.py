"""A few bricks that stand for many models: the smallest set whose mix of work is that of a weighted set of models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from stratoscope.errors import SpecError

if TYPE_CHECKING:
    from stratoscope.measure.suite import Suite

#: FLOP a byte: below the first a brick is bound by memory on any machine of today, above the last by compute.
INTENSITIES: Final = (1.0, 4.0, 16.0, 64.0)
_ROUNDS: Final = 400


@dataclass(frozen=True, slots=True)
class Chosen:
    """A brick of the synthetic set: it runs `weight` times for each second of the nominal time of the models."""

    key: str
    slug: str
    weight: float
    share: float


@dataclass(frozen=True, slots=True)
class Synthesis:
    """The bricks, and how far their mix is from that of the models.

    `distance` is the total variation distance over (operators, sizes of work, sizes of data, intensity), each a
    distribution of nominal time, the mean of the four: 0 the same, 1 nothing in common.
    """

    bricks: tuple[Chosen, ...]
    distance: float
    of: int


def synthesize(suite: Suite, size: int, weights: Mapping[str, float] | None = None) -> Synthesis:
    """At most `size` bricks of the suite with weights, chosen one by one for the smallest distance.

    Args:
        weights: model name -> how much it counts; absent ones count 1.

    Raises:
        SpecError: `size` is below 1, or a weight names no model of the suite or is negative.
    """
    if size < 1:
        raise SpecError(f"{size} bricks: at least one is needed")
    names = {model.name for model in suite.index.models}
    for name, weight in (weights or {}).items():
        if name not in names or weight < 0:
            raise SpecError(f"weight {weight} of {name!r}: the suite's models are {', '.join(sorted(names))}")
    keys = list(suite.index.bricks)
    features, groups = _features(suite, keys)
    use = np.zeros(len(keys))
    place = {key: number for number, key in enumerate(keys)}
    for model in suite.index.models:
        total = sum(one.times * suite.index.bricks[one.key].nominal_s for one in model.places)
        for one in model.places:
            use[place[one.key]] += (weights or {}).get(model.name, 1.0) * one.times / (total or 1.0)
    target = use @ features
    chosen: list[int] = []
    found = np.zeros(0)
    best = math.inf
    while len(chosen) < min(size, len(keys)):
        options = [number for number in range(len(keys)) if number not in chosen]
        residual = target - (found @ features[chosen] if chosen else 0.0)
        gains = features[options] @ residual / np.maximum(np.linalg.norm(features[options], axis=1), 1e-30)
        trial = [*chosen, options[int(np.argmax(gains))]]
        fitted = _nonnegative(features[trial].T, target)
        distance = _distance(fitted @ features[trial], target, groups)
        if distance >= best - 1e-9 and len(chosen) > 0 and not gains.max() > 0:
            break
        chosen, found, best = trial, fitted, distance
    shares = np.array([suite.index.bricks[keys[one]].nominal_s for one in chosen]) * found
    rows = [
        Chosen(keys[one], suite.index.bricks[keys[one]].part.slug, float(weight), float(share / (shares.sum() or 1.0)))
        for one, weight, share in zip(chosen, found, shares, strict=True)
        if weight > 0
    ]
    return Synthesis(tuple(sorted(rows, key=lambda one: -one.share)), best, len(keys))


def _features(suite: Suite, keys: Sequence[str]) -> tuple[np.ndarray[Any, Any], list[slice]]:
    """A row a brick: its nominal seconds, by operator, by size of work, of data, and by intensity."""
    operators = sorted({op for key in keys for op in suite.index.bricks[key].part.operators})
    column = {op: number for number, op in enumerate(operators)}
    sizes = 24
    starts = np.cumsum([0, len(operators), sizes, sizes, len(INTENSITIES) + 1])
    matrix = np.zeros((len(keys), int(starts[-1])))
    for row, key in enumerate(keys):
        brick = suite.index.bricks[key]
        part = brick.part
        for op in part.operators:
            matrix[row, column[op]] += brick.nominal_s / len(part.operators)
        flops, moved = part.flops_valid or 0, part.bytes or 0
        matrix[row, starts[1] + _decade(flops, sizes)] = brick.nominal_s
        matrix[row, starts[2] + _decade(moved, sizes)] = brick.nominal_s
        intensity = flops / moved if moved else 0.0
        matrix[row, starts[3] + sum(intensity >= one for one in INTENSITIES)] = brick.nominal_s
    return matrix, [slice(int(a), int(b)) for a, b in pairwise(starts)]


def _decade(value: int, most: int) -> int:
    """Half a decade a bin."""
    return min(most - 1, int(2 * math.log10(value)) if value > 0 else 0)


def _nonnegative(matrix: np.ndarray[Any, Any], target: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Least squares with weights of at least 0, by cyclic coordinate descent."""
    gram, right = matrix.T @ matrix, matrix.T @ target
    found = np.zeros(matrix.shape[1])
    for _ in range(_ROUNDS):
        for one in range(len(found)):
            if gram[one, one] > 0:
                found[one] = max(0.0, found[one] + (right[one] - gram[one] @ found) / gram[one, one])
    return found


def _distance(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any], groups: Sequence[slice]) -> float:
    distances = []
    for group in groups:
        left, right = one[group], other[group]
        distances.append(0.5 * np.abs(left / (left.sum() or 1.0) - right / (right.sum() or 1.0)).sum())
    return float(np.mean(distances))
