"""Axes: round ticks inside the range, positions that run from 0 to 1."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratoscope.report.axes import axis_from_zero, linear_axis, log_axis, spread_axis


def test_linear_ticks_are_round_and_share_one_unit() -> None:
    axis = linear_axis(0.0097, 0.0151, "s", ticks=5)
    assert [tick.label for tick in axis.ticks] == ["10 ms", "12 ms", "14 ms"]
    assert axis.at(0.0097) == 0
    assert axis.at(0.0151) == 1
    assert axis.ticks[1].at == pytest.approx((0.012 - 0.0097) / 0.0054)


def test_bars_stand_on_zero_and_fit() -> None:
    axis = axis_from_zero(187.0, "1/s", ticks=4)
    assert [tick.label for tick in axis.ticks] == ["0 /s", "50 /s", "100 /s", "150 /s", "200 /s"]
    assert axis.at(0) == 0
    assert axis.at(187.0) == pytest.approx(187 / 200)


def test_logarithmic_ticks_stand_at_one_two_and_five() -> None:
    axis = log_axis(1e-3, 0.1, "s")
    assert [tick.label for tick in axis.ticks] == ["1 ms", "2 ms", "5 ms", "10 ms", "20 ms", "50 ms", "100 ms"]
    assert axis.at(1e-2) == pytest.approx(0.5)


def test_a_logarithm_needs_a_range_above_zero() -> None:
    with pytest.raises(ValueError, match="above zero"):
        log_axis(0.0, 1.0, "s")


def test_points_of_widely_different_size_get_a_logarithmic_axis() -> None:
    assert spread_axis(0.001, 0.1, "s").logarithmic
    assert not spread_axis(0.01, 0.02, "s").logarithmic


@given(low=st.floats(0, 1e3), width=st.floats(1e-9, 1e3))
def test_every_tick_lies_on_the_axis(low: float, width: float) -> None:
    if low + width <= low * (1 + 1e-9):
        width = max(low, 1.0)
    axis = linear_axis(low, low + width, "s")
    assert 1 <= len(axis.ticks) <= 12
    assert all(-1e-6 <= tick.at <= 1 + 1e-6 for tick in axis.ticks)
    assert [tick.at for tick in axis.ticks] == sorted(tick.at for tick in axis.ticks)


def test_a_range_of_one_value_still_has_an_axis() -> None:
    axis = linear_axis(0.01, 0.01, "s")
    assert 0 < axis.at(0.01) < 1
