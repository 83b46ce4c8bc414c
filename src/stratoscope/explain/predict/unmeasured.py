"""Models of which layers were never measured here: those are predicted from other models' layers, with the error of it.

What is known is a suite cut by node whose bricks have times. Before it predicts anything it is judged on itself: each
of its models is left out in turn, with every layer that occurs in it, wherever else it occurs too. Batch sizes of one
model are left out together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from stratoscope.errors import MeasurementError
from stratoscope.explain.predict.learned import LEAST_ROWS, LearnedLayers
from stratoscope.explain.predict.placement import LayerFacts, facts_of
from stratoscope.explain.predict.scaling import Resources
from stratoscope.measure.suite import Suite, SuiteModel
from stratoscope.spec.base import Document
from stratoscope.spec.performance import PartMeasurement
from stratoscope.stats.quantity import Quantity

#: Layers below this are mostly dispatch, which no roofline speaks of: they are predicted, but errors leave them out.
LEAST_S: Final = 2e-6
_MOST: Final = 0.9  # so many of the models left out are nearer than the error of a model

Progress = Callable[[str, float | None], None]


@dataclass(frozen=True, slots=True)
class KnownLayer:
    """A measured layer: its facts in the first model that has it, seconds of a call, and all models that have it."""

    key: str
    facts: LayerFacts
    seconds: float
    models: frozenset[str]


class LeftOut(Document):
    """How far layers of models that were left out were predicted from their times.

    Medians are of |predicted / measured - 1| over `layers` of at least 2 us in `models`; `roofline` is plain roofline's
    on the same rows. `model_error` is what nine of ten models' sums stayed within.
    """

    models: int
    layers: int
    median: float
    p90: float
    roofline: float
    model_median: float
    model_error: float


class PredictedLayer(Document):
    """A layer that was never measured: how often the model has it, seconds of one."""

    key: str
    slug: str
    times: int
    seconds: float


class UnmeasuredModel(Document):
    """A model put together of layers, measured or predicted. `share` is the predicted ones' part of the latency.

    `refused` are layers of which nothing is known (no network could be built of them): they are not in the latency.
    `left_out` is how far such predictions were off.
    """

    model: str
    batch_size: int | None
    latency: Quantity
    layers: int
    measured: int
    share: float
    predicted: tuple[PredictedLayer, ...]
    refused: tuple[str, ...] = ()
    left_out: LeftOut


def known_layers(suite: Suite, times: Mapping[str, PartMeasurement]) -> list[KnownLayer]:
    """The layers of a suite that have a time.

    Raises MeasurementError where it was not cut by node, or fewer than LEAST_ROWS layers have one.
    """
    if suite.index.rule != "node":
        raise MeasurementError(
            "layers are learned from a suite that was cut by node",
            hint="`stratoscope compose build zoo --by node -o F`",
        )
    having: dict[str, set[str]] = {}
    for model in suite.index.models:
        for place in model.places:
            having.setdefault(place.key, set()).add(model.name)
    found = []
    for key, facts in _facts(suite).items():
        one = times.get(key)
        seconds = one.seconds().value if one is not None and one.status == "ok" else None
        if seconds:
            found.append(KnownLayer(key, facts, seconds, frozenset(having[key])))
    if len(found) < LEAST_ROWS:
        raise MeasurementError(
            f"{len(found)} layers of the suite have a time here: at least {LEAST_ROWS} are needed to learn from",
            hint="`stratoscope compose run` measures them",
        )
    return found


def leave_one_out(
    suite: Suite, known: Sequence[KnownLayer], here: Resources, progress: Progress | None = None
) -> LeftOut:
    """Judges what is known on itself. Raises MeasurementError where there are fewer than two models to leave out."""
    layers: list[tuple[float, float]] = []
    models: list[float] = []
    for number, model in enumerate(suite.index.models):
        if progress is not None:
            progress(f"without {model.name}", number / len(suite.index.models))
        counts = Counter(place.key for place in model.places)
        own = [one for one in known if model.name in one.models and one.key in counts]
        others = [(one.facts, one.seconds) for one in known if model.name not in one.models]
        if not own or len(others) < LEAST_ROWS:
            continue
        predicted = LearnedLayers(others, here).predict([one.facts for one in own])
        both = [
            (counts[one.key] * told, counts[one.key] * one.seconds) for one, told in zip(own, predicted, strict=True)
        ]
        models.append(abs(sum(told for told, _ in both) / sum(seconds for _, seconds in both) - 1))
        layers += [
            (abs(told / one.seconds - 1), abs(roofline(one.facts, here) / one.seconds - 1))
            for one, told in zip(own, predicted, strict=True)
            if one.seconds >= LEAST_S
        ]
    if len(models) < 2 or not layers:
        raise MeasurementError(
            "the suite has too few different models to be judged by leaving one out", hint="build it of more models"
        )
    errors = np.array(layers)
    return LeftOut(
        models=len(models),
        layers=len(layers),
        median=float(np.median(errors[:, 0])),
        p90=float(np.quantile(errors[:, 0], _MOST)),
        roofline=float(np.median(errors[:, 1])),
        model_median=float(np.median(models)),
        model_error=float(np.quantile(models, _MOST)),
    )


def roofline(facts: LayerFacts, here: Resources) -> float:
    """Seconds by the plain roofline: FLOPs at the peak or all bytes at the bandwidth of the level that holds them."""
    part = facts.part
    moved = part.bytes or 0
    return max((part.flops_valid or part.flops or 0) / here.flops_per_s, moved / here.bandwidth(moved))


def predict_unmeasured(
    suite: Suite,
    times: Mapping[str, PartMeasurement],
    known: Sequence[KnownLayer],
    here: Resources,
    judged: LeftOut,
) -> list[UnmeasuredModel]:
    """Each model of a suite cut by node: measured layers at their time, the others as learned from `known`.

    The interval is the predicted share's, by the error that nine of ten models left out stayed within.
    """
    learned = LearnedLayers([(one.facts, one.seconds) for one in known], here)
    facts = _facts(suite)
    seconds = {key: one.seconds().require() for key, one in times.items() if one.status == "ok"}
    unknown = [key for key in facts if key not in seconds]
    predicted = dict(zip(unknown, learned.predict([facts[key] for key in unknown]), strict=True))
    return [_put_together(model, suite, seconds, predicted, judged) for model in suite.index.models]


def _put_together(
    model: SuiteModel, suite: Suite, seconds: Mapping[str, float], predicted: Mapping[str, float], judged: LeftOut
) -> UnmeasuredModel:
    counts = Counter(place.key for place in model.places)
    slugs = {key: suite.index.bricks[key].part.slug for key in counts}
    guessed = [
        PredictedLayer(key=key, slug=slugs[key], times=count, seconds=float(predicted[key]))
        for key, count in counts.items()
        if key in predicted
    ]
    guessed.sort(key=lambda one: -one.seconds * one.times)
    told = sum(one.seconds * one.times for one in guessed)
    total = told + sum(seconds[key] * count for key, count in counts.items() if key in seconds)
    half = told * judged.model_error
    return UnmeasuredModel(
        model=model.name,
        batch_size=model.batch_size,
        latency=Quantity(
            value=total,
            unit="s",
            statistic="sum of layers, measured or predicted",
            ci_low=max(0.0, total - half),
            ci_high=total + half,
            confidence=_MOST,
        ),
        layers=len(counts),
        measured=sum(key in seconds for key in counts),
        share=told / total if total > 0 else 0.0,
        predicted=tuple(guessed),
        refused=tuple(slugs[key] for key in counts if key not in seconds and key not in predicted),
        left_out=judged,
    )


def _facts(suite: Suite) -> dict[str, LayerFacts]:
    """Key -> facts in the first model that has the layer; none for layers that cannot be built."""
    found: dict[str, LayerFacts] = {}
    for group in suite.groups():
        for facts, brick in zip(facts_of(group), group, strict=True):
            if facts is not None and brick.wanted:
                found[brick.part.digest] = facts
    return found
