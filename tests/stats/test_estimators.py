"""Estimators and intervals, against SciPy, hand-computed values and their own promise of coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as sps

from stratoscope.stats.bootstrap import interval, paired_difference, ratio_interval, resampled_medians
from stratoscope.stats.estimators import Statistic, estimate, median, trimmed_mean

DURATIONS = st.lists(st.floats(1e-6, 1e4), min_size=1, max_size=60)
STATISTICS: tuple[Statistic, ...] = ("median", "trimmed_mean", "mean")


@given(samples=DURATIONS.filter(lambda x: len(x) != 3), cut=st.sampled_from([0.0, 0.1, 0.2, 0.25]))
def test_trimmed_mean_is_scipys(samples: list[float], cut: float) -> None:
    assert trimmed_mean(samples, cut) == pytest.approx(sps.trim_mean(samples, cut), rel=1e-12)


def test_trimmed_mean_of_ten_leaves_out_two_at_each_end() -> None:
    assert trimmed_mean([1000, 0, 5, 6, 7, 8, 9, 10, -50, 2000]) == pytest.approx((5 + 6 + 7 + 8 + 9 + 10) / 6)
    assert trimmed_mean([1, 2, 30]) == 2
    assert trimmed_mean([1, 2]) == 1.5


@given(samples=DURATIONS, statistic=st.sampled_from(STATISTICS))
def test_an_estimate_lies_in_its_interval_and_in_the_range(samples: list[float], statistic: Statistic) -> None:
    q = estimate(samples, "s", statistic)
    assert q.n == len(samples)
    slack = 1e-9 * max(samples)
    assert min(samples) - slack <= q.require() <= max(samples) + slack
    assert (q.ci_low is None) == (len(samples) < 3)
    if q.ci_low is not None and q.ci_high is not None:
        assert min(samples) - slack <= q.ci_low <= q.ci_high <= max(samples) + slack


@given(samples=st.lists(st.floats(1.0, 2.0), min_size=3, max_size=40), statistic=st.sampled_from(STATISTICS))
def test_intervals_scale_with_the_unit_and_repeat_with_the_seed(samples: list[float], statistic: Statistic) -> None:
    low, high = interval(samples, statistic)
    assert interval(samples, statistic) == (low, high)
    assert interval(np.array(samples) * 1024, statistic) == pytest.approx((low * 1024, high * 1024), rel=1e-9)


def test_no_samples_give_no_value_and_two_no_interval() -> None:
    assert estimate([], "s").status == "unavailable"
    assert estimate([1.0, 2.0], "s").ci_low is None
    with pytest.raises(ValueError, match="3 samples"):
        interval([1.0, 2.0])
    with pytest.raises(ValueError, match="not finite"):
        estimate([1.0, math.nan], "s")
    with pytest.raises(ValueError, match="no samples"):
        median([])


@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize(("n", "runs"), [(30, 600), (2500, 300)])
def test_intervals_cover_the_truth_about_as_often_as_they_say(statistic: Statistic, n: int, runs: int) -> None:
    rng = np.random.default_rng(7)
    true = 5.0  # symmetric, so that the three statistics have the same true value
    hits = 0
    for i in range(runs):
        low, high = interval(rng.normal(true, 1.0, n), statistic, resamples=600, seed=i)
        hits += low <= true <= high
    assert 0.90 <= hits / runs <= 0.985


def test_bca_of_the_mean_agrees_with_scipy() -> None:
    x = np.random.default_rng(3).exponential(size=80)
    theirs = sps.bootstrap((x,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(0))
    ours = interval(x, "mean", resamples=20_000)
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert ours == pytest.approx(tuple(theirs.confidence_interval), abs=0.03 * width)


@pytest.mark.parametrize("n", [9, 10])
def test_resampled_medians_have_the_law_of_resampling(n: int) -> None:
    ordered = np.sort(np.random.default_rng(5).normal(size=n))
    rng = np.random.default_rng(6)
    brute = np.median(ordered[rng.integers(0, n, (40_000, n))], axis=1)
    ours = resampled_medians(ordered, 40_000, rng)
    assert sps.ks_2samp(ours, brute).statistic < 0.015


def test_closed_forms_continue_the_bootstrap() -> None:
    x = np.random.default_rng(8).gamma(3.0, size=1001)
    for statistic in STATISTICS:
        closed = np.array(interval(x, statistic))
        boot = np.array(interval(x[:-1], statistic, resamples=8000))
        assert np.abs(closed - boot).max() < 0.25 * (boot[1] - boot[0])


def test_a_million_samples_have_a_narrow_median_interval() -> None:
    x = np.random.default_rng(9).normal(10.0, 1.0, 1_000_000)
    low, high = interval(x, "median")
    expected = 2 * 1.96 * math.sqrt(math.pi / 2) / 1000
    assert high - low == pytest.approx(expected, rel=0.1)
    assert low <= np.median(x) <= high


def test_constant_samples_have_an_interval_of_no_width() -> None:
    for statistic in STATISTICS:
        assert interval([2.0] * 10, statistic) == (2.0, 2.0)


def test_paired_difference_sees_what_unpaired_noise_hides() -> None:
    rng = np.random.default_rng(10)
    drift = rng.normal(100.0, 20.0, 50)
    q = paired_difference(drift + 1.0 + rng.normal(0, 0.1, 50), drift, "s")
    assert q.ci_low is not None
    assert q.ci_high is not None
    assert 0.9 < q.ci_low < q.ci_high < 1.1
    with pytest.raises(ValueError, match="pairs"):
        paired_difference([1.0], [1.0, 2.0], "s")


def test_ratio_interval_covers_the_true_ratio_and_inverts() -> None:
    rng = np.random.default_rng(11)
    a, b = rng.lognormal(0, 0.1, 200), 1.5 * rng.lognormal(0, 0.1, 200)
    low, high = ratio_interval(a, b)
    assert low < 1.5 < high
    inverse = ratio_interval(b, a)
    assert inverse == pytest.approx((1 / high, 1 / low), rel=0.02)
    with pytest.raises(ValueError, match="above zero"):
        ratio_interval([0.0, 1.0, 2.0], [1.0, 1.0, 2.0])
