"""Accuracy: the digits model in every batching, and answers that cannot be scored."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from stratoscope.backends.registry import get_backend
from stratoscope.errors import MeasurementError
from stratoscope.measure.accuracy import measure_accuracy
from stratoscope.measure.metrics.topk import TopK
from stratoscope.models.datasets import dataset_for
from stratoscope.models.resolve import resolve
from stratoscope.spec.model import TensorSpec
from stratoscope.spec.options import BackendOptions
from stratoscope.spec.record import AccuracySection


def digits(batch: int) -> AccuracySection:
    model = resolve("digits", batch_size=batch)
    dataset = dataset_for(model)
    assert dataset is not None
    session = get_backend("onnxruntime").load(model, BackendOptions(threads=1))
    try:
        return measure_accuracy(session, dataset)
    finally:
        session.close()


def test_the_digits_model_is_as_good_in_any_batch() -> None:
    one, seven = digits(1), digits(7)  # 360 does not divide by 7: the last batch is filled up
    assert one.metrics == seven.metrics
    assert one.confusion == seven.confusion
    assert one.samples == 360
    assert one.metrics["top1"].require() > 0.95
    assert one.metrics["top5"].require() >= one.metrics["top1"].require()
    table = np.array(one.confusion)
    assert table.sum() == 360
    assert table.trace() / 360 == pytest.approx(one.metrics["top1"].require())


def data(n: int = 4, classes: int = 3) -> Any:
    names = tuple("abcdefgh"[:classes])
    return SimpleNamespace(
        name="toy", inputs=np.zeros((n, 2), np.float32), labels=np.arange(n) % classes, class_names=names
    )


def session(answer: Any, *shape: int | str) -> Any:
    return SimpleNamespace(
        inputs=[TensorSpec(name="x", element_type="float32", shape=shape or (2, 2))], run=lambda feeds: [answer(feeds)]
    )


def test_a_metric_of_ones_own_takes_the_place_of_the_usual_ones() -> None:
    answer = np.array([[0, 1, 2], [0, 1, 2]], dtype=np.float32)
    section = measure_accuracy(session(lambda feeds: answer), data(), metrics=[TopK(2)])
    assert list(section.metrics) == ["top2"]
    assert section.metrics["top2"].value == 0.5  # labels 0 1 2 0, best two classes 2 and 1
    assert section.confusion == ((0, 0, 2), (0, 0, 1), (0, 0, 1))


@pytest.mark.parametrize(
    ("broken", "dataset", "match"),
    [
        (session(lambda feeds: np.full((2, 3), np.nan)), data(), "not finite"),
        (session(lambda feeds: np.zeros((2, 4))), data(), r"shape \[2, 4\], not with 3 scores"),
        (session(lambda feeds: np.zeros((2, 3)), 2, 5), data(), r"takes \[5\]"),
        (session(lambda feeds: np.zeros((2, 3))), data(0), "0 inputs"),
        (SimpleNamespace(inputs=[1, 2]), data(), "feeds one input"),
    ],
)
def test_answers_that_cannot_be_scored_say_why(broken: Any, dataset: Any, match: str) -> None:
    with pytest.raises(MeasurementError, match=match):
        measure_accuracy(broken, dataset)
