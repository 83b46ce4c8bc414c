"""The latency put together from profiled runs: what is subtracted, and when it is said to agree."""

from __future__ import annotations

import json

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratoscope.backends.base import SpanMix
from stratoscope.measure.reconstruction import holds_zero, less_spans, span_mix
from stratoscope.stats.quantity import Quantity
from stratoscope.trace.spans import SPAN_SCHEMA

times = st.floats(0, 1, allow_nan=False)


def seconds(value: float, low: float, high: float) -> Quantity:
    return Quantity(value=value, unit="s", statistic="median", n=9, ci_low=low, ci_high=high, confidence=0.95)


def test_spans_cost_their_number_times_one_and_the_interval_takes_the_worst_of_both() -> None:
    found = less_spans(seconds(0.110, 0.108, 0.113), 1000, seconds(4e-6, 3e-6, 6e-6))
    assert found.require() == pytest.approx(0.106)
    assert (found.ci_low, found.ci_high) == pytest.approx((0.108 - 0.006, 0.113 - 0.003))


def test_what_was_not_measured_stays_so() -> None:
    missing = Quantity.unavailable("s", "no block has accepted inferences of both", "median")
    found = less_spans(missing, 1000, seconds(4e-6, 3e-6, 6e-6))
    assert found.value is None
    assert found.reason == "no block has accepted inferences of both"
    assert holds_zero(found) is None


@given(st.lists(times, min_size=3, max_size=3).map(sorted), st.floats(-1, 1))
def test_it_agrees_where_the_interval_of_the_difference_holds_zero(ends: list[float], shift: float) -> None:
    low, middle, high = (end + shift for end in ends)
    assert holds_zero(seconds(middle, low, high)) is (low <= 0 <= high)


def test_mix_counts_the_first_run_and_what_its_layers_move_outside_of_containers() -> None:
    def span(number: int, level: int, run: int, told: dict[str, object] | None) -> tuple[object, ...]:
        text = None if told is None else json.dumps(told)
        return (number, None, level, "sync", "name", 1, number, number + 1, 0, run, None, text)

    rows = [
        span(0, 20, 0, None),
        span(1, 30, 0, {"container": True, "parameter_bytes": 10**9, "output_bytes": 10**9}),
        span(2, 30, 0, {"container": False, "parameter_bytes": 4000, "output_bytes": 1000}),
        span(3, 30, 0, {"container": False, "output_bytes": 500}),
        span(4, 40, 0, None),
        span(5, 30, 1, {"container": False, "output_bytes": 10**9}),
    ]
    # 4000 + 2 * 1000 + 2 * 500 bytes over three layers.
    assert span_mix(pl.DataFrame(rows, schema=SPAN_SCHEMA, orient="row")) == SpanMix(3, 1, 7000 // 3)
