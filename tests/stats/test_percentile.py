"""LoadGen's percentiles and early stopping, against published floors and the binomial law of SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from stratoscope.stats import percentile as pc
from stratoscope.stats.binomial import lower_tail, percentile_ranks

FRACTIONS = st.sampled_from([0.5, 0.75, 0.9, 0.95, 0.97, 0.99, 0.999])


@pytest.mark.parametrize(("p", "floor"), [(0.5, 11), (0.75, 24), (0.9, 64), (0.95, 130), (0.99, 662), (0.999, 6636)])
def test_early_stopping_floors_are_those_of_mlperf(p: float, floor: int) -> None:
    assert pc.early_stopping_floor(p) == floor
    samples = np.arange(floor, dtype=float)
    assert pc.early_stopping_estimate(samples, p).value == floor - 1
    below = pc.early_stopping_estimate(samples[1:], p)
    assert below.status == "unjustified"
    assert str(floor) in (below.reason or "")
    assert pc.percentile(samples, p).status == "ok"
    assert pc.percentile(samples[1:], p).status == "unjustified"


def test_no_late_query_needs_as_many_in_time_as_the_power_law_says() -> None:
    for p in (0.5, 0.9, 0.99, 0.999):
        assert pc.min_passing_queries(0, p) == int(np.ceil(np.log(0.01) / np.log(p)))


@given(n=st.integers(1, 400), p=FRACTIONS)
def test_percentile_index_is_cut_off_and_never_outside(n: int, p: float) -> None:
    index = pc.percentile_index(n, p)
    assert 0 <= index < n
    assert index <= n * p < index + 1


def test_percentile_index_follows_double_arithmetic_not_decimal() -> None:
    # 10000 * 0.97 is 9700 in doubles; 0.29 * 100 is 28.999999999999996 and is cut to 28, as C++ does.
    assert pc.percentile_index(10_000, 0.97) == 9700
    assert pc.percentile_index(100, 0.29) == 28


@given(n=st.integers(1, 3000), p=FRACTIONS, tolerance=st.sampled_from([0.0, 0.01]))
def test_allowed_overlatency_is_the_largest_that_the_binomial_law_allows(n: int, p: float, tolerance: float) -> None:
    late = 1 - (p - tolerance)
    allowed = pc.allowed_overlatency(n, p, tolerance=tolerance)
    tails = binom.cdf(np.arange(0, n + 1), n, late)
    assert allowed == int(np.count_nonzero(tails < 0.01)) - 1


@given(t=st.integers(0, 60), p=FRACTIONS)
def test_min_passing_queries_is_where_the_run_starts_to_pass(t: int, p: float) -> None:
    h = pc.min_passing_queries(t, p)
    assert binom.cdf(t, h + t, 1 - p) < 0.01
    assert binom.cdf(t, h - 1 + t, 1 - p) >= 0.01
    assert pc.allowed_overlatency(h + t, p) >= t
    assert pc.allowed_overlatency(h + t - 1, p) < t


@given(
    samples=st.lists(st.floats(1e-6, 1e3), min_size=64, max_size=300),
    seed=st.integers(0, 2**32 - 1),
)
def test_early_stopping_bounds_the_percentile_and_ignores_order(samples: list[float], seed: int) -> None:
    bound = pc.early_stopping_estimate(samples, 0.9)
    assert bound.require() >= pc.percentile(samples, 0.9).require()
    shuffled = np.random.default_rng(seed).permutation(samples)
    assert pc.early_stopping_estimate(shuffled, 0.9) == bound


def test_early_stopping_bound_covers_the_true_percentile_as_often_as_promised() -> None:
    rng = np.random.default_rng(0)
    true = -np.log(0.1)
    covered = sum(pc.early_stopping_estimate(rng.exponential(size=200), 0.9).require() >= true for _ in range(2000))
    assert covered / 2000 >= 0.985


def test_percentile_interval_covers_the_true_percentile() -> None:
    rng = np.random.default_rng(1)
    true = -np.log(0.1)
    hits = 0
    for _ in range(1000):
        q = pc.percentile(rng.exponential(size=300), 0.9)
        assert q.ci_low is not None
        assert q.ci_high is not None
        hits += q.ci_low <= true <= q.ci_high
    assert 0.94 <= hits / 1000 <= 0.985


@pytest.mark.parametrize(("n", "p"), [(10, 0.3), (1000, 0.01), (100_000, 0.5), (1_000_000, 0.9), (1_000_000, 0.001)])
def test_lower_tail_is_the_binomial_law(n: int, p: float) -> None:
    up_to = min(n, int(n * p * 1.2) + 5)
    ours = lower_tail(n, p, up_to)
    assert np.abs(ours - binom.cdf(np.arange(up_to + 1), n, p)).max() < 1e-11


def test_ranks_of_the_median_of_ten_are_the_tabled_ones() -> None:
    # Conover, Practical Nonparametric Statistics: n = 10, 95 %: second smallest to second largest (coverage 97.9 %).
    assert percentile_ranks(10, 0.5, 0.95) == (1, 8)
    assert percentile_ranks(6, 0.5, 0.95) == (0, 5)
    assert percentile_ranks(5, 0.5, 0.95) is None
    assert percentile_ranks(0, 0.5, 0.95) is None


@pytest.mark.parametrize("p", [0.0, 1.0, -0.1, 90.0])
def test_a_percentile_is_a_fraction(p: float) -> None:
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        pc.percentile([1.0], p)


def test_names_and_empty_samples() -> None:
    assert [pc.percentile_name(p) for p in (0.5, 0.9, 0.99, 0.999, 0.9999)] == ["p50", "p90", "p99", "p99.9", "p99.99"]
    assert pc.percentile([], 0.9).status == "unavailable"
    assert pc.early_stopping_estimate([], 0.9).status == "unavailable"
