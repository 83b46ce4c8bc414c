"""Estimates of many quantities at once, held against those of one at a time."""

from __future__ import annotations

import numpy as np
import pytest

from stratoscope.stats.estimators import trimmed_mean
from stratoscope.stats.rows import estimate_rows, trimmed_means


@pytest.mark.parametrize("repeats", [1, 2, 3, 4, 5, 10, 23])
def test_trimmed_mean_of_each_row_is_that_of_the_row_alone(repeats: int) -> None:
    rows = np.random.default_rng(repeats).lognormal(size=(7, repeats))
    expected = [trimmed_mean(row) for row in rows]
    assert trimmed_means(rows).tolist() == pytest.approx(expected)
    assert [one.value for one in estimate_rows(rows, "s")] == pytest.approx(expected)


def test_interval_holds_the_value_and_shrinks_with_the_root_of_the_repeats() -> None:
    generator = np.random.default_rng(0)
    few = estimate_rows(generator.normal(10, 1, (50, 25)), "s")
    many = estimate_rows(generator.normal(10, 1, (50, 400)), "s")

    def width(rows: list) -> float:  # type: ignore[type-arg]
        return float(np.mean([one.ci_high - one.ci_low for one in rows]))

    assert all(one.ci_low <= one.value <= one.ci_high for one in (*few, *many))
    assert width(few) / width(many) == pytest.approx(4, rel=0.15)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    rows = estimate_rows(np.random.default_rng(1).normal(10, 1, (600, 30)), "s")
    covered = np.mean([one.ci_low <= 10 <= one.ci_high for one in rows])  # type: ignore[operator]
    assert 0.90 <= covered <= 0.98


def test_too_few_repeats_give_no_interval_and_none_no_value() -> None:
    assert estimate_rows([[1.0, 3.0]], "s")[0].model_dump(include={"value", "ci_low"}) == {"value": 2.0, "ci_low": None}
    assert estimate_rows(np.empty((2, 0)), "s")[1].status == "unavailable"
