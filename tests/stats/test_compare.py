"""The comparison's verdicts and the rank test, against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from stratoscope.stats.compare import compare, mann_whitney

DISTINCT = st.lists(st.integers(1, 10_000), min_size=2, max_size=40, unique=True)


@given(values=DISTINCT, data=st.data())
def test_exact_rank_test_is_scipys(values: list[int], data: st.DataObject) -> None:
    cut = data.draw(st.integers(1, len(values) - 1))
    a, b = values[:cut], values[cut:]
    assert mann_whitney(a, b) == pytest.approx(mannwhitneyu(a, b, method="exact").pvalue, rel=1e-9)


@given(
    a=st.lists(st.integers(1, 6), min_size=2, max_size=50),
    b=st.lists(st.integers(1, 6), min_size=2, max_size=50),
)
def test_rank_test_with_ties_is_scipys_normal_one(a: list[int], b: list[int]) -> None:
    if len(set(a + b)) in (1, len(a + b)):  # no variance, or no ties
        return
    assert mann_whitney(a, b) == pytest.approx(mannwhitneyu(a, b, method="asymptotic").pvalue, rel=1e-9)


def test_rank_test_of_large_samples_is_scipys_normal_one() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=500), rng.normal(0.1, size=700)
    assert mann_whitney(a, b) == pytest.approx(mannwhitneyu(a, b, method="asymptotic").pvalue, rel=1e-9)
    assert mann_whitney([1.0] * 5, [1.0] * 5) == 1.0


def test_a_fifth_less_time_is_faster_and_the_other_way_slower() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.lognormal(0, 0.05, 60), 0.8 * rng.lognormal(0, 0.05, 60)
    forward, back = compare(a, b), compare(b, a)
    assert forward.verdict == "faster"
    assert forward.ratio.require() == pytest.approx(0.8, rel=0.05)
    assert back.verdict == "slower"
    assert back.ratio.require() == pytest.approx(1 / forward.ratio.require(), rel=1e-12)
    assert back.p_value == pytest.approx(forward.p_value)


def test_the_same_distribution_is_rarely_called_different() -> None:
    rng = np.random.default_rng(2)
    wrong = sum(
        compare(rng.lognormal(0, 0.2, 30), rng.lognormal(0, 0.2, 30), seed=i).verdict != "no difference seen"
        for i in range(400)
    )
    assert wrong / 400 < 0.06


def test_a_certain_but_tiny_change_is_not_called_a_difference() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(100, 0.1, 1000), rng.normal(100.2, 0.1, 1000)
    seen = compare(a, b)
    assert seen.verdict == "no difference seen"
    assert "below 1.0%" in seen.note
    assert compare(a, b, minimum_effect=0.001).verdict == "slower"


def test_too_few_samples_say_so() -> None:
    few = compare([1.0, 2.0], [1.0, 2.0, 3.0])
    assert few.ratio.status == "unjustified"
    assert few.p_value is None
    assert "too few" in few.note
