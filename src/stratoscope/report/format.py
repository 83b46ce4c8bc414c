"""Turns quantities into text: a unit that fits, digits that the interval justifies, words where there is no value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from stratoscope.stats.quantity import Quantity, Status

#: For each unit of a record the scales it is shown in, largest first. Sizes are binary and say so (MiB); rates are
#: decimal, as memory bandwidths are quoted.
SCALES: Final[Mapping[str, Sequence[tuple[float, str]]]] = {
    "s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")),
    "byte": ((2.0**40, "TiB"), (2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B")),
    "byte/s": ((1e12, "TB/s"), (1e9, "GB/s"), (1e6, "MB/s"), (1e3, "kB/s"), (1.0, "B/s")),
    "FLOP": ((1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"), (1e3, "kFLOP"), (1.0, "FLOP")),
    "FLOP/s": (
        (1e15, "PFLOP/s"),
        (1e12, "TFLOP/s"),
        (1e9, "GFLOP/s"),
        (1e6, "MFLOP/s"),
        (1e3, "kFLOP/s"),
        (1.0, "FLOP/s"),
    ),
    "Hz": ((1e9, "GHz"), (1e6, "MHz"), (1e3, "kHz"), (1.0, "Hz")),
    "degC": ((1.0, "°C"),),
    "1/s": ((1.0, "/s"),),
    "1": ((1.0, ""),),
}

#: Digits of a value that comes without an interval and is not a count.
PLAIN_DIGITS: Final = 3
#: No estimate is shown with more digits than this, however narrow its interval: clocks are not that good.
MAX_DIGITS: Final = 6
#: Times are read from clocks of whole nanoseconds: nothing is shown below one.
CLOCK_S: Final = 1e-9
#: An interval is written as two ends where one side is this many times the other.
ASYMMETRY: Final = 1.5

UNAVAILABLE: Final = "unavailable"
UNJUSTIFIED: Final = "—"
MINUS: Final = "−"


@dataclass(frozen=True, slots=True)
class Shown:
    """A quantity as text: `value` with its unit, `spread` (the interval, or empty), and `detail` in full words."""

    value: str
    spread: str
    detail: str
    status: Status

    @property
    def text(self) -> str:
        """Value and spread on one line: "30.2 ms ± 0.3"."""
        return f"{self.value} {self.spread}".rstrip()


def show(quantity: Quantity, *, percent: bool = False) -> Shown:
    """The text of a quantity. `percent` shows a fraction (unit "1") as per cent.

    The interval drives the digits: its half width keeps two digits where it begins with 1 or 2, else one, and the
    value ends at the same place. A missing value is never a number.
    """
    if quantity.value is None:
        word = UNJUSTIFIED if quantity.status == "unjustified" else UNAVAILABLE
        return Shown(word, "", f"{statistic_label(quantity.statistic)}: {quantity.reason}", quantity.status)
    low, high = quantity.ci_low, quantity.ci_high
    half = (high - low) / 2 if low is not None and high is not None else None
    factor, suffix = (0.01, "%") if percent else _scale(quantity.value, half, quantity.unit)
    value = quantity.value / factor
    if low is None or high is None or half is None:
        return Shown(_with_unit(_plain(value, quantity), suffix), "", _detail(quantity), "ok")
    decimals = _decimals(value, half / factor)
    if quantity.unit == "s" and not percent:
        decimals = min(decimals, round(math.log10(factor / CLOCK_S)))
    spread = _spread(quantity.value, low, high, factor, decimals)
    return Shown(_with_unit(_fixed(value, decimals), suffix), spread, _detail(quantity), "ok")


def text(quantity: Quantity, *, percent: bool = False) -> str:
    """`show(...)` as one line of text."""
    return show(quantity, percent=percent).text


def bare(value: float, unit: str, digits: int = PLAIN_DIGITS) -> str:
    """A number without an interval (an axis label, a part of a sentence), in a unit that fits."""
    factor, suffix = _scale(value, None, unit)
    return _with_unit(_significant(value / factor, digits), suffix)


def share(fraction: float | None) -> str:
    """A fraction as per cent: whole from 10 %, one decimal below and next to 100 %; a part is never 0 % or 100 %."""
    if fraction is None:
        return UNAVAILABLE
    percent = fraction * 100
    if 0 < percent < 0.05:
        return "<0.1 %"
    if 99.95 <= percent < 100 - 1e-9:
        return ">99.9 %"
    return f"{percent:.1f} %" if percent < 9.95 or 99.5 <= percent < 100 - 1e-9 else f"{percent:.0f} %"


def count(value: int, one: str = "", many: str = "") -> str:
    """A whole number with thousands separated: 25,557,032; with its noun where one is given: "1 query", "2 queries"."""
    noun = one if value == 1 else many or f"{one}s"
    return f"{value:,} {noun}" if one else f"{value:,}"


def magnitude(quantity: Quantity) -> str:
    """A count in millions or billions, for parameters: "25.6 M"; "unavailable" where it is."""
    if quantity.value is None:
        return show(quantity).text
    for factor, suffix in ((1e9, " B"), (1e6, " M"), (1e3, " k")):
        if abs(quantity.value) >= factor:
            return _significant(quantity.value / factor, PLAIN_DIGITS) + suffix
    return _significant(quantity.value, PLAIN_DIGITS)


def shape(dimensions: Sequence[int | str] | None) -> str:
    """A tensor's shape as people write it: 1×64×56×56; "scalar" for rank 0."""
    if dimensions is None:
        return UNAVAILABLE
    return "×".join(str(size) for size in dimensions) or "scalar"


def statistic_label(statistic: str) -> str:
    """The words for a statistic's key: `p99` is "99th percentile"."""
    bound = statistic.removeprefix("early_stopping_")
    if bound != statistic:
        return f"{statistic_label(bound)} (early-stopping estimate)"
    number = statistic.removeprefix("p")
    if number != statistic and number.replace(".", "", 1).isdigit():
        return f"{number}{_ordinal(number)} percentile"
    return statistic.replace("_", " ")


def _ordinal(number: str) -> str:
    if number.endswith(("11", "12", "13")) and "." not in number:
        return "th"
    return {"1": "st", "2": "nd", "3": "rd"}.get(number[-1], "th")


def _scale(value: float, half: float | None, unit: str) -> tuple[float, str]:
    scales = SCALES.get(unit)
    if scales is None:
        return 1.0, unit
    size = max(abs(value), half or 0.0)
    for factor, suffix in scales:
        if float(f"{size / factor:.2e}") >= 1:  # 999.96 µs is shown as 1 ms, so it is scaled as 1 ms
            return factor, suffix
    return scales[-1] if size > 0 else (1.0, dict(scales)[1.0])


def _decimals(value: float, half: float) -> int:
    """Decimal places (negative: tens, hundreds) at which a value with this half width is cut."""
    largest = math.floor(math.log10(abs(value))) if value else 0
    cap = MAX_DIGITS - 1 - largest
    if half <= 0 and value == 0:
        return 0
    if half <= 0:
        return min(PLAIN_DIGITS - largest, cap)
    exponent = math.floor(math.log10(half))
    leading = half / 10.0**exponent
    return min(-exponent + (1 if leading < 2.95 else 0), cap)


def _spread(value: float, low: float, high: float, factor: float, decimals: int) -> str:
    below, above = value - low, high - value
    if min(below, above) < 0 or max(below, above) > ASYMMETRY * min(below, above):
        return f"({_fixed(low / factor, decimals)} – {_fixed(high / factor, decimals)})"
    half = (high - low) / 2 / factor
    if value != 0 and round(half, decimals) == 0:  # a clock ticks: no spread is less than a digit, not none
        return f"± <{_fixed(10.0**-decimals, decimals)}"
    return f"± {_fixed(half, decimals)}" if half > 0 else "± 0"


def _plain(value: float, quantity: Quantity) -> str:
    if quantity.unit in {"1", "byte", "FLOP"} and float(value).is_integer() and abs(value) < 1e15:
        return _fixed(value, 0)
    return _significant(value, PLAIN_DIGITS)


def _significant(value: float, digits: int) -> str:
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits - 1}e}")
    return _fixed(rounded, digits - 1 - math.floor(math.log10(abs(rounded))), keep_whole=True)


def _fixed(value: float, decimals: int, *, keep_whole: bool = False) -> str:
    """A number cut at a decimal place, with thousands separated and a real minus sign; no negative zero."""
    whole = value if keep_whole and decimals < 0 else round(value, decimals)
    result = f"{abs(whole):,.{max(decimals, 0)}f}"
    return MINUS + result if whole < 0 else result


def _with_unit(number: str, suffix: str) -> str:
    return f"{number} {suffix}" if suffix else number


def _detail(quantity: Quantity) -> str:
    parts = [statistic_label(quantity.statistic)]
    if quantity.statistic != "count":
        parts.append(f"n = {count(quantity.n)}")
    if quantity.ci_low is not None and quantity.ci_high is not None:
        level = f"{quantity.confidence * 100:g} % " if quantity.confidence is not None else ""
        ends = " to ".join(bare(end, quantity.unit, 5) for end in (quantity.ci_low, quantity.ci_high))
        parts.append(f"{level}interval {ends}")
    return ", ".join(parts)
