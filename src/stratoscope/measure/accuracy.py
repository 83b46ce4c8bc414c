"""Accuracy mode: runs a labelled data set through a session and scores the answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np

from stratoscope.backends.base import Session
from stratoscope.errors import MeasurementError
from stratoscope.measure.metrics.base import Metric
from stratoscope.measure.metrics.confusion import ConfusionTable
from stratoscope.measure.metrics.topk import TopK
from stratoscope.spec.record import AccuracySection

#: Batch where the session leaves its batch dimension free.
FREE_BATCH: Final = 64


class LabelledData(Protocol):
    """Inputs [n, ...] as the model wants them, int64 labels [n], and the names of the classes."""

    @property
    def name(self) -> str:
        """The data set's id."""
        ...

    @property
    def inputs(self) -> np.ndarray:
        """Preprocessed inputs, samples first."""
        ...

    @property
    def labels(self) -> np.ndarray:
        """Indices into `class_names`."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name a class."""
        ...


def measure_accuracy(
    session: Session, dataset: LabelledData, *, metrics: Sequence[Metric] | None = None
) -> AccuracySection:
    """Every sample of the data set once, in order, at the session's batch size; top-1, top-5 and a confusion table.

    The last batch is filled up with its first sample, whose extra answers are dropped. LoadGen's accuracy mode is not
    used: it only logs the answers in random order for another program to score, and the score is the same.

    Raises:
        MeasurementError: the model does not take the data set's inputs, or does not give one finite score a class.
    """
    labels, classes = np.asarray(dataset.labels, dtype=np.int64), len(dataset.class_names)
    if labels.size == 0 or len(dataset.inputs) != labels.size:
        raise MeasurementError(f"data set {dataset.name!r} has {len(dataset.inputs)} inputs and {labels.size} labels")
    if labels.min() < 0 or labels.max() >= classes:
        raise MeasurementError(f"data set {dataset.name!r} has labels outside its {classes} classes")
    scores = _scores(session, dataset, classes)
    chosen = metrics if metrics is not None else [TopK(1)] + ([TopK(5)] if classes > 5 else [])
    table = ConfusionTable(classes).compute(scores, labels)
    return AccuracySection(
        dataset=dataset.name,
        samples=int(labels.size),
        metrics={metric.name: metric.compute(scores, labels) for metric in chosen},
        labels=dataset.class_names,
        confusion=tuple(tuple(int(count) for count in row) for row in table),
    )


def _scores(session: Session, dataset: LabelledData, classes: int) -> np.ndarray:
    """Answers [n, classes] of the whole data set."""
    if len(session.inputs) != 1:
        raise MeasurementError(f"data set {dataset.name!r} feeds one input, the model has {len(session.inputs)}")
    spec = session.inputs[0]
    inputs = np.asarray(dataset.inputs)
    wanted = spec.shape[1:]
    fits = len(wanted) == inputs.ndim - 1 and all(
        size == have for size, have in zip(wanted, inputs.shape[1:], strict=True) if isinstance(size, int)
    )
    if not fits:
        raise MeasurementError(
            f"data set {dataset.name!r} has inputs of shape {list(inputs.shape[1:])}, the model's {spec.name!r} takes "
            f"{list(wanted)}"
        )
    batch = spec.shape[0] if isinstance(spec.shape[0], int) else FREE_BATCH
    answers = []
    for start in range(0, len(inputs), batch):
        part = inputs[start : start + batch]
        missing = batch - len(part)
        full = np.concatenate((part, np.repeat(part[:1], missing, axis=0))) if missing else part
        out = np.asarray(session.run({spec.name: np.ascontiguousarray(full, dtype=spec.element_type)})[0])
        if out.ndim != 2 or out.shape != (batch, classes):
            raise MeasurementError(
                f"the model answers with shape {list(out.shape)}, not with {classes} scores for each of {batch} inputs"
            )
        answers.append(out[: len(part)])
    scores = np.concatenate(answers)
    if not np.isfinite(scores).all():
        raise MeasurementError(
            "the model answered with scores that are not finite", hint="its outputs cannot be ranked"
        )
    return scores
