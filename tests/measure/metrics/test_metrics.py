"""Top-k and the confusion table, against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, top_k_accuracy_score

from stratoscope.errors import MeasurementError
from stratoscope.measure.metrics.confusion import ConfusionTable
from stratoscope.measure.metrics.topk import TopK


@given(seed=st.integers(0, 10_000), n=st.integers(1, 60), classes=st.integers(3, 12), k=st.integers(1, 5))
def test_top_k_is_scikit_learns(seed: int, n: int, classes: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    scores, labels = rng.normal(size=(n, classes)), rng.integers(0, classes, n)
    k = min(k, classes - 1)
    theirs = top_k_accuracy_score(labels, scores, k=k, labels=np.arange(classes))
    assert TopK(k).compute(scores, labels).require() == pytest.approx(theirs)


@given(seed=st.integers(0, 10_000), n=st.integers(1, 60), classes=st.integers(2, 12))
def test_confusion_is_scikit_learns(seed: int, n: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    scores, labels = rng.normal(size=(n, classes)), rng.integers(0, classes, n)
    theirs = confusion_matrix(labels, scores.argmax(axis=1), labels=np.arange(classes))
    assert (ConfusionTable(classes).compute(scores, labels) == theirs).all()


def test_equal_scores_go_to_the_lower_class_in_both() -> None:
    scores, labels = np.zeros((3, 3)), np.array([0, 1, 2])
    assert TopK(1).compute(scores, labels).value == pytest.approx(1 / 3)
    assert TopK(2).compute(scores, labels).value == pytest.approx(2 / 3)
    assert ConfusionTable(3).compute(scores, labels)[:, 0].tolist() == [1, 1, 1]


def test_names_units_and_a_k_of_nothing() -> None:
    assert (TopK(5).name, TopK(5).unit) == ("top5", "1")
    with pytest.raises(MeasurementError, match="top-0"):
        TopK(0)
