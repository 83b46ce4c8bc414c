"""The low quartile and its bootstrap interval, against resampling."""

from __future__ import annotations

import numpy as np
import pytest

from stratoscope.stats.quantile import bootstrap_ranks, low_quartile, quantile_rank


@pytest.mark.parametrize(("n", "rank"), [(1, 0), (2, 0), (4, 0), (5, 1), (8, 1), (9, 2), (100, 24)])
def test_quartile_is_the_smallest_sample_that_a_quarter_does_not_exceed(n: int, rank: int) -> None:
    assert quantile_rank(n, 0.25) == rank


@pytest.mark.parametrize("n", [3, 5, 8, 20, 100])
def test_ranks_are_those_of_a_bootstrap_with_many_resamples(n: int) -> None:
    rng = np.random.default_rng(n)
    draws = np.sort(rng.integers(0, n, (200_000, n)), axis=1)[:, quantile_rank(n, 0.25)]
    resampled = np.quantile(draws, [0.025, 0.975], method="inverted_cdf")
    assert bootstrap_ranks(n, 0.25) == tuple(int(rank) for rank in resampled)


def test_interval_of_the_quartile_holds_the_truth_nearly_as_often_as_it_says() -> None:
    rng = np.random.default_rng(7)
    truth = -np.log(0.75)
    inside = 0
    for _ in range(1000):
        found = low_quartile(rng.exponential(size=40))
        assert found.ci_low is not None
        assert found.ci_high is not None
        inside += found.ci_low <= truth <= found.ci_high
    assert 0.90 <= inside / 1000 <= 0.98


def test_few_samples_give_a_bare_value_and_none_gives_no_value() -> None:
    assert low_quartile([]).status == "unavailable"
    assert low_quartile([2.0, 1.0]).ci_low is None
    assert low_quartile([2.0, 1.0]).value == 1.0
