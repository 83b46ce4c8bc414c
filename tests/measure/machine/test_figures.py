"""Medians, intervals and rates of repeats, against values worked out by hand."""

from __future__ import annotations

import pytest

from stratoscope.measure.machine.figures import judge, median_time, rate
from stratoscope.measure.machine.probe import Repeat
from stratoscope.stats.quantity import Quantity


def test_the_interval_of_six_repeats_is_their_range_and_covers_the_median_with_97_percent() -> None:
    # 1 - 2 * (1/2)^6 = 0.969: the smallest and the largest of six enclose the median.
    found = median_time([6.0, 1.0, 4.0, 2.0, 5.0, 3.0])
    assert (found.value, found.ci_low, found.ci_high, found.n) == (3.5, 1.0, 6.0, 6)


def test_of_nine_repeats_the_second_and_the_eighth() -> None:
    # P(B <= 1) for 9 fair coins is 10/512 = 0.0195, P(B <= 2) = 46/512 = 0.09: ranks 2 and 8.
    found = median_time([float(value) for value in range(1, 10)])
    assert (found.value, found.ci_low, found.ci_high) == (5.0, 2.0, 8.0)


@pytest.mark.parametrize("n", [1, 2])
def test_one_or_two_repeats_give_a_value_without_an_interval(n: int) -> None:
    found = median_time([2.0] * n)
    assert found.value == 2.0
    assert found.ci_low is None
    assert found.n == n


def test_a_rate_swaps_the_ends_of_the_interval() -> None:
    time = Quantity(value=2.0, unit="s", statistic="median", n=6, ci_low=1.0, ci_high=4.0, confidence=0.95)
    found = rate(8.0, time, "byte/s")
    assert (found.value, found.ci_low, found.ci_high, found.unit) == (4.0, 2.0, 8.0, "byte/s")


def test_a_rate_of_no_time_is_unavailable_and_not_zero() -> None:
    found = rate(8.0, Quantity.unavailable("s", "no samples", "median"), "byte/s")
    assert found.value is None
    assert found.status == "unavailable"


def test_repeats_that_waited_for_a_cpu_are_refused() -> None:
    calm, disturbed = Repeat(1000, 1000, 0, 0), Repeat(1500, 1000, 500, 1)
    verdict = judge([calm, calm, disturbed, calm])
    assert list(verdict.accepted) == [True, True, False, True]
    assert verdict.signal == "wait"


def test_without_scheduler_statistics_nothing_is_judged() -> None:
    verdict = judge([Repeat(1000, 1000, None, 0), Repeat(1000, 1000, 3, 0)])
    assert verdict.quiet is None
    assert "not judged" in verdict.reason
