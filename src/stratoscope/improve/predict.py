"""Predicts the time of a changed model before it runs: layers that go, and layers that come.

Where the graph changes, the runtime is asked what it would execute. Layers that it executes already keep the time that
they have in the profile of the original; layers that are new are benchmarked one by one. Where layers become other
library calls, each is benchmarked both ways, and the differences are added up. What is between layers stays.
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from stratoscope.backends.registry import get_backend
from stratoscope.graph.ir import Graph, Layer
from stratoscope.graph.onnx_reader import read_graph
from stratoscope.graph.signature import signature
from stratoscope.graph.work_functions.movement import VIEWS
from stratoscope.improve.variants import Variant
from stratoscope.measure.parts.parts import part_of, roofline_work
from stratoscope.spec.record import LayerRow, ProfileSection
from stratoscope.stats.quantity import Quantity

#: Benchmarks new executed layers of a variant: digests of their signatures -> seconds; those it cannot are left out.
PartTimer = Callable[[Variant, frozenset[str]], Mapping[str, Quantity]]
#: A profile whose layers are not all known predicts nothing where the unknown ones take more than this part.
MOST_UNKNOWN: Final = 0.02
BASIS: Final = "executed layers that go and come: those of the original from its profile, new ones benchmarked alone"
CALLS_BASIS: Final = "each layer benchmarked alone both ways, the differences taken from the profile"
#: A layer that was not measured both ways keeps its time; where such layers take more than this part, nothing is told.
MOST_LEFT: Final = 0.05
#: Known layers of an operator from which the time of another one is scaled.
FEWEST_RATES: Final = 3
_ONE_SIGMA_BELOW: Final = 0.158655
_TWO_SIDED_95: Final = 1.959964
#: Log of achieved over predicted speed-up (root mean square) that is assumed where nothing was tried yet, and how many
#: trials that assumption is worth.
PRIOR_ERROR: Final = 0.03
PRIOR_TRIALS: Final = 5


@dataclass(frozen=True, slots=True)
class Pairs:
    """Seconds of layers by digest as they run and by another call, and those that could not be measured yet (`left`).

    A layer that is in neither cannot be computed by the other call, and stays as it is.
    """

    times: Mapping[str, tuple[Quantity, Quantity]]
    left: frozenset[str] = frozenset()


#: Measures layers of a graph both ways: graph, (library, implementation, layout), digests in the order of their worth.
PairTimer = Callable[[Graph, tuple[str, str, str], Sequence[str]], Pairs]


@dataclass(frozen=True, slots=True)
class _Known:
    """The profile's layers by signature: how many, and the mean time with half the width of its interval."""

    count: Mapping[str, int]
    seconds: Mapping[str, float]
    half_width: Mapping[str, float]


def executed_layers(variant: Variant) -> list[Layer] | None:
    """What the runtime would execute, views apart; None where the back end does not tell.

    Raises:
        StratoscopeError: the variant does not load.
    """
    with tempfile.TemporaryDirectory(prefix="stratoscope-executed-") as folder:
        path = get_backend(variant.backend).executed_graph(variant.model, variant.options, Path(folder))
        if path is None:
            return None
        layers = read_graph(path, variant.model.bound_shapes()).layers
        return [layer for layer in layers if layer.domain or layer.op not in VIEWS]


def predict_speedup(profile: ProfileSection, original: Variant, variant: Variant, timer: PartTimer) -> Quantity:
    """Predicted time of the original over that of the variant, with the interval that the layers' intervals give.

    New layers that the timer had no time for are taken from layers of the same operator, in proportion to their work
    (`scaled_times`). Unavailable, with the reason, where the back end does not tell what it executes, too much of the
    profile is not joined with it, or a new layer is of an operator that is not known: it is not taken for zero.
    """
    rows = [row for row in profile.layers if row.op not in VIEWS]
    unknown = sum(row.share or 0.0 for row in rows if row.signature is None or row.time.value is None)
    if unknown > MOST_UNKNOWN:
        return _none(f"layers with {unknown:.0%} of the time are not known in the executed graph")
    whole = profile.model_time.value
    if whole is None:
        return _none(f"the time of an inference is not known: {profile.model_time.reason}")
    layers = executed_layers(variant)
    if layers is None:
        return _none(f"back end {variant.backend} does not tell what it executes")
    wanted = Counter(signature(layer) for layer in layers)
    known = _known(rows)
    new = frozenset(wanted.keys() - known.count.keys())
    times = dict(timer(variant, new)) if new else {}
    missing = {digest for digest in new if digest not in times or times[digest].value is None}
    if missing:
        have = {digest: seconds.require() for digest, seconds in times.items() if digest not in missing}
        times |= scaled_times([*(executed_layers(original) or ()), *layers], {**known.seconds, **have}, missing)
    left = missing - times.keys()
    if left:
        return _none(f"{len(left)} of {len(new)} new layers could not be benchmarked")
    return _speedup(whole, wanted, known, times)


def scaled_times(layers: Iterable[Layer], known: Mapping[str, float], missing: Set[str]) -> dict[str, Quantity]:
    """Seconds of `missing` layers in proportion to their work, at the median rate of known layers of the operator.

    Work is the larger of traffic and of FLOPs at the ridge point. The interval holds 95 % of a normal law with the
    spread of the rates. Layers of unknown work, or of an operator with fewer than `FEWEST_RATES` known layers, are
    left out.

    Args:
        layers: those of the original and of the variant.
        known: seconds by digest of layers that were measured.
    """
    by_digest = {signature(layer): layer for layer in layers}
    work = {digest: roofline_work(part_of(layer, "executed", digest)) for digest, layer in by_digest.items()}
    rates: dict[str, list[float]] = {}
    for digest, seconds in known.items():
        if digest in by_digest and work[digest]:
            rates.setdefault(by_digest[digest].op, []).append(seconds / (work[digest] or 1.0))
    found: dict[str, Quantity] = {}
    for digest in missing & by_digest.keys():
        mine, much = rates.get(by_digest[digest].op, []), work[digest]
        if much is None or len(mine) < FEWEST_RATES:
            continue
        low, middle, high = np.quantile(mine, [_ONE_SIGMA_BELOW, 0.5, 1 - _ONE_SIGMA_BELOW])
        half = _TWO_SIDED_95 * float(high - low) / 2 * much
        value = float(middle) * much
        found[digest] = Quantity(
            value=value,
            unit="s",
            statistic="scaled",
            n=len(mine),
            ci_low=max(0.0, value - half),
            ci_high=value + half,
            confidence=0.95,
        )
    return found


def predict_by_calls(
    profile: ProfileSection,
    graph: Graph,
    call: tuple[str, str, str],
    timer: PairTimer,
    standing_for: Mapping[int, str] | None = None,
) -> Quantity:
    """Predicted time of the original over that with its layers computed by another library call, with an interval.

    Unavailable, with the reason, where layers that could change were not measured both ways for lack of time.

    Args:
        graph: has the layers, to make benchmarks of.
        standing_for: digests of layers of `graph` that profiled layers are, by index, where the profile does not tell.
    """
    whole = profile.model_time.value
    if whole is None:
        return _none(f"the time of an inference is not known: {profile.model_time.reason}")
    known = standing_for or {}
    number: Counter[str] = Counter()
    worth: dict[str, float] = {}
    for row in profile.layers:
        digest = known.get(row.index, row.signature)
        if digest is not None and row.op not in VIEWS:
            number[digest] += 1
            worth[digest] = worth.get(digest, 0.0) + (row.share or 0.0)
    pairs = timer(graph, call, sorted(worth, key=lambda digest: -worth[digest]))
    left = sum(worth[digest] for digest in pairs.left)
    if left > MOST_LEFT:
        return _none(f"layers with {left:.0%} of the time were not benchmarked both ways")
    if not pairs.times:
        return _none("no layer could be benchmarked both ways")
    change = square = 0.0
    for digest, (now, new) in pairs.times.items():
        change += number[digest] * (new.require() - now.require())
        square += number[digest] ** 2 * (half_width(now) ** 2 + half_width(new) ** 2)
    return _ratio(whole, whole + change, math.sqrt(square))


def with_model_error(prediction: Quantity, error: float) -> Quantity:
    """The prediction with its interval widened by how far predictions were off: `error` is the root mean square of the
    log of achieved over predicted. Both errors are independent, so they add in squares. A prediction of no change at
    all (the same layers are executed) keeps its interval."""
    value, low, high = prediction.value, prediction.ci_low, prediction.ci_high
    if value is None or low is None or high is None or low == high:
        return prediction
    wide = _TWO_SIDED_95 * error
    down = math.hypot(math.log(value / low), wide)
    up = math.hypot(math.log(high / value), wide)
    return prediction.model_copy(update={"ci_low": value * math.exp(-down), "ci_high": value * math.exp(up)})


def _known(rows: Sequence[LayerRow]) -> _Known:
    count: Counter[str] = Counter()
    total: dict[str, float] = {}
    width: dict[str, float] = {}
    for row in rows:
        if row.signature is None or row.time.value is None:
            continue
        count[row.signature] += 1
        total[row.signature] = total.get(row.signature, 0.0) + row.time.value
        width[row.signature] = width.get(row.signature, 0.0) + half_width(row.time)
    return _Known(
        count,
        {key: total[key] / number for key, number in count.items()},
        {key: width[key] / number for key, number in count.items()},
    )


def _speedup(whole: float, wanted: Counter[str], known: _Known, times: Mapping[str, Quantity]) -> Quantity:
    """whole / (whole + what comes - what goes); errors of different layers are independent, so they add in squares."""
    change = square = 0.0
    for key in wanted.keys() | known.count.keys():
        number = wanted[key] - known.count.get(key, 0)
        if not number:
            continue
        old = key in known.seconds
        change += number * (known.seconds[key] if old else times[key].require())
        square += (number * (known.half_width[key] if old else half_width(times[key]))) ** 2
    return _ratio(whole, whole + change, math.sqrt(square))


def _ratio(whole: float, after: float, error: float) -> Quantity:
    if after - error <= 0:
        return _none("the layers that go take more than the whole inference")
    return Quantity(
        value=whole / after,
        unit="1",
        statistic="prediction",
        n=1,
        ci_low=whole / (after + error),
        ci_high=whole / (after - error),
        confidence=0.95,
    )


def half_width(quantity: Quantity) -> float:
    """Half the interval's width; 0 where there is none."""
    if quantity.ci_low is None or quantity.ci_high is None:
        return 0.0
    return (quantity.ci_high - quantity.ci_low) / 2


def _none(why: str) -> Quantity:
    return Quantity.unavailable("1", why, "prediction")
