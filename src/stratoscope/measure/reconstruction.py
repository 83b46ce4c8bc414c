"""Puts the unprofiled latency together from profiled runs: what they took, less what their spans cost.

The cost of a span is measured by itself, on a network that computes nothing, so agreement is a finding: nothing of the
unprofiled model goes into the reconstructed time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from stratoscope.backends.base import BackendOptions
from stratoscope.spec.profile import LevelCost, Reconstruction
from stratoscope.spec.record import ProfileSection
from stratoscope.stats.estimators import estimate
from stratoscope.stats.quantity import Quantity
from stratoscope.trace.levels import Level


@runtime_checkable
class SpanCost(Protocol):
    """A back end that can measure what a span of one level costs."""

    def span_cost_samples(self, options: BackendOptions, level: Level) -> Sequence[float] | None:
        """Seconds a span, one sample a repeat; None where it cannot tell for this level."""
        ...


def reconstructions(
    backend: object, options: BackendOptions, spans: Sequence[tuple[Level, float]], section: ProfileSection
) -> tuple[Reconstruction, ...]:
    """For each level whose cost can be measured: profiled time less spans times cost, against the unprofiled time.

    Args:
        spans: (level, spans of one inference below the model) of the levels that were traced.
    """
    if not isinstance(backend, SpanCost):
        return ()
    found = []
    times = {cost.level: cost for cost in section.levels}
    for level, count in spans:
        samples = backend.span_cost_samples(options, level)
        if samples is not None:
            cost = estimate(samples, "s", "median")
            found.append(_reconstructed(times[level.name.lower()], count, cost, section.model_time))
    return tuple(found)


def _reconstructed(level: LevelCost, count: float, cost: Quantity, unprofiled: Quantity) -> Reconstruction:
    time = level.model_time
    if time.value is None or cost.value is None:
        missing = Quantity.unavailable("s", time.reason or cost.reason or "not measured", "median")
        return Reconstruction(level=level.level, time=missing, span_cost=cost, agrees=None)
    change: dict[str, object] = {"value": time.value - count * cost.value, "statistic": "median less cost of spans"}
    if None not in (time.ci_low, time.ci_high, cost.ci_low, cost.ci_high):
        assert time.ci_low is not None
        assert time.ci_high is not None
        assert cost.ci_low is not None
        assert cost.ci_high is not None
        change |= {"ci_low": time.ci_low - count * cost.ci_high, "ci_high": time.ci_high - count * cost.ci_low}
    found = time.model_copy(update=change)
    return Reconstruction(level=level.level, time=found, span_cost=cost, agrees=overlap(found, unprofiled))


def overlap(one: Quantity, other: Quantity) -> bool | None:
    """Whether two intervals have a point in common; None where either has none."""
    if one.ci_low is None or one.ci_high is None or other.ci_low is None or other.ci_high is None:
        return None
    return one.ci_low <= other.ci_high and other.ci_low <= one.ci_high
