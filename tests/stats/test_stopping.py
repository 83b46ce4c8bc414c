"""When repeats are enough."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from stratoscope.stats.stopping import StoppingRule, relative_half_width


def test_a_steady_measurement_stops_when_it_is_precise() -> None:
    rule = StoppingRule(min_repeats=10)
    decision = rule.decide(np.linspace(0.99, 1.01, 30), elapsed_s=0.1)
    assert decision.stop
    assert decision.why == "precise"
    assert decision.relative_half_width is not None
    assert decision.relative_half_width <= 0.02


def test_a_wild_measurement_goes_on_until_a_budget_ends_it() -> None:
    rule = StoppingRule(min_repeats=10, max_repeats=1000, max_time_s=5)
    wild = np.random.default_rng(0).lognormal(0, 2, 30)
    assert not rule.decide(wild, 1.0).stop
    assert rule.decide(wild, 5.0).why == "time budget"
    assert rule.decide(np.tile(wild, 40), 1.0).why == "repeat budget"


def test_precision_counts_only_after_the_least_repeats_and_time() -> None:
    steady = np.ones(9) + np.arange(9) * 1e-6
    assert not StoppingRule(min_repeats=10).decide(steady, 1.0).stop
    assert not StoppingRule(min_repeats=5, min_time_s=2.0).decide(steady, 1.0).stop
    assert StoppingRule(min_repeats=5, min_time_s=2.0).decide(steady, 2.0).stop


def test_half_width_is_that_of_the_order_statistics() -> None:
    # Ranks 1 and 8 of ten (see the tabled ranks): (9 - 2) / 2 over the median 5.5.
    assert relative_half_width(np.arange(1, 11)) == pytest.approx(3.5 / 5.5)
    assert relative_half_width([1.0, 1.0, 1.0]) is None
    assert relative_half_width(np.zeros(10)) is None


def test_checks_thin_out_and_end() -> None:
    rule = StoppingRule(min_repeats=10, max_repeats=200)
    checks = [rule.next_check(0)]
    while checks[-1] < 200:
        checks.append(rule.next_check(checks[-1]))
    assert checks[0] == 10
    assert all(b > a for a, b in itertools.pairwise(checks))
    assert len(checks) < 50


@pytest.mark.parametrize(
    "wrong", [{"target": 0.0}, {"min_repeats": 5, "max_repeats": 4}, {"min_time_s": 2.0, "max_time_s": 1.0}]
)
def test_rules_that_cannot_hold_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="stopping rule"):
        StoppingRule(**wrong)  # type: ignore[arg-type]
