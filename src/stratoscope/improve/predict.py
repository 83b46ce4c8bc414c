"""Predicts the time of a changed model before it runs: executed layers that go, and executed layers that come.

The runtime is asked what it would execute of the changed model. Layers that it executes already keep the time that they
have in the profile of the original; layers that are new are benchmarked one by one. What is between layers stays.
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stratoscope.backends.registry import get_backend
from stratoscope.graph.onnx_reader import read_graph
from stratoscope.graph.signature import signature
from stratoscope.graph.work_functions.movement import VIEWS
from stratoscope.improve.variants import Variant
from stratoscope.spec.record import LayerRow, ProfileSection
from stratoscope.stats.quantity import Quantity

#: Benchmarks new executed layers of a variant: digests of their signatures -> seconds; those it cannot are left out.
PartTimer = Callable[[Variant, frozenset[str]], Mapping[str, Quantity]]
#: A profile whose layers are not all known predicts nothing where the unknown ones take more than this part.
MOST_UNKNOWN: Final = 0.02
BASIS: Final = "executed layers that go and come: those of the original from its profile, new ones benchmarked alone"


@dataclass(frozen=True, slots=True)
class _Known:
    """The profile's layers by signature: how many, and the mean time with half the width of its interval."""

    count: Mapping[str, int]
    seconds: Mapping[str, float]
    half_width: Mapping[str, float]


def executed_signatures(variant: Variant) -> Counter[str] | None:
    """How often the runtime would execute each layer, views apart; None where the back end does not tell.

    Raises:
        StratoscopeError: the variant does not load.
    """
    with tempfile.TemporaryDirectory(prefix="stratoscope-executed-") as folder:
        path = get_backend(variant.backend).executed_graph(variant.model, variant.options, Path(folder))
        if path is None:
            return None
        layers = read_graph(path, variant.model.bound_shapes()).layers
        return Counter(signature(layer) for layer in layers if layer.domain or layer.op not in VIEWS)


def predict_speedup(profile: ProfileSection, variant: Variant, timer: PartTimer) -> Quantity:
    """Predicted time of the original over that of the variant, with the interval that the layers' intervals give.

    Unavailable, with the reason, where the back end does not tell what it executes, too much of the profile is not
    joined with it, or a new layer could not be benchmarked: what is not known is not taken for zero.
    """
    rows = [row for row in profile.layers if row.op not in VIEWS]
    unknown = sum(row.share or 0.0 for row in rows if row.signature is None or row.time.value is None)
    if unknown > MOST_UNKNOWN:
        return _none(f"layers with {unknown:.0%} of the time are not known in the executed graph")
    whole = profile.model_time.value
    if whole is None:
        return _none(f"the time of an inference is not known: {profile.model_time.reason}")
    wanted = executed_signatures(variant)
    if wanted is None:
        return _none(f"back end {variant.backend} does not tell what it executes")
    known = _known(rows)
    new = frozenset(wanted.keys() - known.count.keys())
    times = dict(timer(variant, new)) if new else {}
    missing = [digest for digest in new if digest not in times or times[digest].value is None]
    if missing:
        return _none(f"{len(missing)} of {len(new)} new layers could not be benchmarked")
    return _speedup(whole, wanted, known, times)


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
    error, after = math.sqrt(square), whole + change
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
