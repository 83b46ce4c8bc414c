"""Estimates of one site's samples and their sums: XSP's trimmed mean with the interval that it lacked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from stratoscope.stats.estimators import MIN_FOR_INTERVAL, estimate, trimmed_mean

NS: Final = 1e-9


class Estimate(NamedTuple):
    """A 20 % trimmed mean with the ends of its 95 % interval and the number of samples; `value` None without any.

    Of three samples it is the median, of fewer the plain mean (XSP's rule), and without samples nothing, where XSP had
    zero. The interval needs three samples.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int

    def times(self) -> tuple[float | None, float | None, float | None]:
        """Value, low and high, as `result.estimate_columns` declares them."""
        return self.value, self.low, self.high


NOTHING: Final = Estimate(None, None, None, 0)


def estimate_s(durations_ns: Sequence[int]) -> Estimate:
    """The estimate, in seconds, of durations in nanoseconds."""
    if not durations_ns:
        return NOTHING
    if len(durations_ns) < MIN_FOR_INTERVAL:
        return Estimate(sum(durations_ns) / len(durations_ns) * NS, None, None, len(durations_ns))
    found = estimate([duration * NS for duration in durations_ns], "s", "trimmed_mean")
    return Estimate(found.value, found.ci_low, found.ci_high, found.n)


def typical(values: Iterable[float | None]) -> float | None:
    """The trimmed mean of the values that are known; None where none is."""
    known = [value for value in values if value is not None]
    return trimmed_mean(known) if known else None


def total(parts: Iterable[Estimate]) -> Estimate:
    """The sum, never of a part: unknown where a member is. Ends are added, which is no narrower than the sum's own.

    The sum of nothing is zero, and known.
    """
    members = list(parts)
    if any(part.value is None for part in members):
        return NOTHING
    value = sum(part.value for part in members if part.value is not None)
    n = min((part.n for part in members), default=0)
    lows = [part.low for part in members if part.low is not None]
    highs = [part.high for part in members if part.high is not None]
    if members and len(lows) == len(highs) == len(members):
        return Estimate(value, sum(lows), sum(highs), n)
    return Estimate(value, None, None, n)


def difference(a: Estimate, b: Estimate) -> Estimate:
    """a - b with the widest interval that the two allow; unknown where either is."""
    if a.value is None or b.value is None:
        return NOTHING
    value, n = a.value - b.value, min(a.n, b.n)
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return Estimate(value, None, None, n)
    return Estimate(value, a.low - b.high, a.high - b.low, n)


def share(part: float | None, whole: float | None) -> float | None:
    """part / whole; None where either is unknown or the whole is not above zero."""
    return None if part is None or whole is None or whole <= 0 else part / whole
