"""Axes of the charts: round ticks, and positions as parts of the plot's width or height."""

from __future__ import annotations

import math
from dataclasses import dataclass

from stratoscope.report.format import SCALES, bare

#: An axis turns logarithmic where its largest value is this many times its smallest.
LOG_RATIO = 30.0


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis: where it stands (0 to 1 along the axis) and what is written there."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Axis:
    """A range of values laid on 0..1, linear or logarithmic, with its ticks."""

    low: float
    high: float
    ticks: tuple[Tick, ...]
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """Position of a value, 0 at the low end; outside 0..1 where the value is outside the range."""
        return _position(value, self.low, self.high, self.logarithmic)


def linear_axis(low: float, high: float, unit: str, *, ticks: int = 5) -> Axis:
    """An axis over exactly [low, high] with about `ticks` round marks, all in one unit."""
    if not high > low:
        low, high = (low - abs(low) * 0.5, high + abs(high) * 0.5) if low else (0.0, 1.0)
    factor, suffix = unit_of(high, unit)
    step = _nice_step((high - low) / factor / ticks)
    first = math.ceil(low / factor / step - 1e-9)
    marks = []
    index = first
    while index * step * factor <= high + 1e-9 * (high - low):
        value = index * step
        label = f"{value:,.{_decimals(step)}f}" + (f" {suffix}" if suffix else "")
        marks.append(Tick(_position(value * factor, low, high, False), label))
        index += 1
    return Axis(low, high, tuple(marks))


def axis_from_zero(high: float, unit: str, *, ticks: int = 5) -> Axis:
    """A linear axis from 0 to the first round mark at or above `high`: for bars, which need their zero."""
    if high <= 0:
        return linear_axis(0.0, 1.0, unit, ticks=ticks)
    factor, _ = unit_of(high, unit)
    step = _nice_step(high / factor / ticks) * factor
    return linear_axis(0.0, math.ceil(high / step - 1e-9) * step, unit, ticks=ticks)


def log_axis(low: float, high: float, unit: str) -> Axis:
    """A logarithmic axis over [low, high] (low > 0) with marks at 1, 2 and 5 times the powers of ten."""
    if not 0 < low < high:
        raise ValueError(f"a logarithmic axis goes from above zero upwards, not from {low} to {high}")
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    multiples = (1, 2, 5) if math.log10(high / low) < 3 else (1,)
    values = [multiple * 10.0**decade for decade in decades for multiple in multiples]
    inside = [value for value in values if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]
    ticks = tuple(Tick(_position(value, low, high, True), bare(value, unit, 1)) for value in inside)
    return Axis(low, high, ticks, logarithmic=True)


def spread_axis(low: float, high: float, unit: str) -> Axis:
    """An axis for points, which need no zero: a little beyond [low, high]; logarithmic beyond `LOG_RATIO`."""
    if low > 0 and high / low > LOG_RATIO:
        return log_axis(low * 0.9, high * 1.1, unit)
    margin = 0.08 * (high - low) or 0.05 * abs(high)
    return linear_axis(max(0.0, low - margin) if low >= 0 else low - margin, high + margin, unit)


def unit_of(largest: float, unit: str) -> tuple[float, str]:
    """The scale in which an axis up to `largest` is written: (factor, suffix)."""
    scales = SCALES.get(unit)
    if scales is None:
        return 1.0, unit
    return next((scale for scale in scales if abs(largest) >= scale[0]), scales[-1])


def _position(value: float, low: float, high: float, logarithmic: bool) -> float:
    if logarithmic:
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)


def _nice_step(raw: float) -> float:
    exponent = math.floor(math.log10(raw))
    fraction = raw / 10.0**exponent
    return next(nice for nice in (1.0, 2.0, 5.0, 10.0) if fraction <= nice * (1 + 1e-9)) * 10.0**exponent


def _decimals(step: float) -> int:
    return max(0, -math.floor(math.log10(step) + 1e-9))
