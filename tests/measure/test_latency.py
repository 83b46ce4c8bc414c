"""Steady-state latency on a virtual clock."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from stratoscope.measure.latency import measure_latency
from stratoscope.stats.stopping import StoppingRule

MS = 1_000_000


def test_a_steady_call_is_measured_exactly_and_stops_when_it_is_known(virtual_clock: Any) -> None:
    run = measure_latency(lambda: virtual_clock.work(3 * MS), rule=StoppingRule(min_repeats=10), clock=virtual_clock)
    assert run.decision.why == "precise"
    assert run.samples_ns.size == 10
    assert set(run.samples_ns.tolist()) == {3 * MS}
    assert run.accepted.size == run.samples_ns.size
    assert run.noise.accepted + run.noise.rejected == 10  # a call longer than a block is a block


def test_the_warm_up_is_in_no_figure(virtual_clock: Any) -> None:
    durations = itertools.chain([500 * MS, 100 * MS], itertools.repeat(2 * MS))
    run = measure_latency(
        lambda: virtual_clock.work(next(durations)), warmup=2, rule=StoppingRule(), clock=virtual_clock
    )
    assert run.samples_ns.max() == 2 * MS


def test_a_wild_call_is_repeated_until_the_time_is_spent(virtual_clock: Any) -> None:
    durations = itertools.cycle([1 * MS, 9 * MS, 2 * MS, 30 * MS])
    rule = StoppingRule(max_time_s=1.0)
    run = measure_latency(lambda: virtual_clock.work(next(durations)), rule=rule, clock=virtual_clock)
    assert run.decision.why == "time budget"
    assert run.samples_ns.sum() == pytest.approx(1e9, rel=0.05)


def test_short_calls_share_a_block_and_long_ones_beyond_the_budget_still_give_one_sample(virtual_clock: Any) -> None:
    short = measure_latency(
        lambda: virtual_clock.work(10_000), rule=StoppingRule(min_repeats=1000), clock=virtual_clock
    )
    assert short.noise.accepted + short.noise.rejected == 10
    long = measure_latency(
        lambda: virtual_clock.work(5000 * MS), warmup=1, rule=StoppingRule(max_time_s=1.0), clock=virtual_clock
    )
    assert long.samples_ns.size == 1


def test_what_the_call_raises_is_raised(virtual_clock: Any) -> None:
    def fail() -> None:
        raise OSError("broken")

    with pytest.raises(OSError, match="broken"):
        measure_latency(fail, clock=virtual_clock)
