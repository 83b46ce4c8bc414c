"""Puts the unprofiled latency together from profiled runs: what they took, less what their spans cost.

The cost of a span is measured by itself, on a network that computes nothing but moves as much memory between spans, so
agreement is a finding: no time of the unprofiled model goes into the one that is put together. The two are compared in
pairs, block by block of the interleaved runs: what the machine did in a block, it did to both.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import polars as pl

from stratoscope.backends.base import BackendOptions, SpanMix
from stratoscope.spec.profile import LevelCost, Reconstruction
from stratoscope.spec.record import ProfileSection
from stratoscope.stats.estimators import estimate
from stratoscope.stats.quantity import Quantity
from stratoscope.trace.levels import Level


@runtime_checkable
class SpanCost(Protocol):
    """A back end that can measure what a span of one level costs."""

    def span_cost_samples(self, options: BackendOptions, level: Level, mix: SpanMix) -> Sequence[float] | None:
        """Seconds a span in a call with spans like `mix`, one sample a repeat; None where it cannot tell."""
        ...


def reconstructions(
    backend: object, options: BackendOptions, runs: Sequence[tuple[Level, pl.DataFrame]], section: ProfileSection
) -> tuple[Reconstruction, ...]:
    """For each level whose cost can be measured: profiled time less spans times cost, against the unprofiled time.

    Args:
        runs: the levels that were traced, with the spans (trace.spans.SPAN_SCHEMA) of their runs.
    """
    if not isinstance(backend, SpanCost):
        return ()
    found = []
    times = {cost.level: cost for cost in section.levels}
    for level, spans in runs:
        mix = span_mix(spans)
        samples = backend.span_cost_samples(options, level, mix)
        if samples is not None:
            cost = estimate(samples, "s", "median")
            found.append(_reconstructed(times[level.name.lower()], cost))
    return tuple(found)


def span_mix(spans: pl.DataFrame) -> SpanMix:
    """The spans of the first run, and what a layer moves: its parameters, its output, and as much as that of input."""
    run = spans.filter(pl.col("run") == spans["run"].min())
    layers = run.filter(pl.col("level") == Level.LAYER.value)
    moved = 0
    for text in layers["attributes"].drop_nulls():
        told = json.loads(text)
        if not told.get("container"):
            moved += int(told.get("parameter_bytes", 0)) + 2 * int(told.get("output_bytes", 0))
    operators = run.filter(pl.col("level") == Level.OPERATOR.value).height
    return SpanMix(layers.height, operators, moved // max(layers.height, 1))


def _reconstructed(level: LevelCost, cost: Quantity) -> Reconstruction:
    time = less_spans(level.model_time, level.spans, cost)
    difference = less_spans(level.total, level.spans, cost)
    return Reconstruction(
        level=level.level, time=time, span_cost=cost, difference=difference, agrees=holds_zero(difference)
    )


def less_spans(time: Quantity, count: float, cost: Quantity) -> Quantity:
    """`time` without `count` times `cost`; the ends of the interval take the worst of both."""
    if time.value is None or cost.value is None:
        return Quantity.unavailable("s", time.reason or cost.reason or "not measured", "median")
    change: dict[str, object] = {"value": time.value - count * cost.value, "statistic": "median less cost of spans"}
    if time.ci_low is not None and time.ci_high is not None and cost.ci_low is not None and cost.ci_high is not None:
        change |= {"ci_low": time.ci_low - count * cost.ci_high, "ci_high": time.ci_high - count * cost.ci_low}
    return time.model_copy(update=change)


def holds_zero(difference: Quantity) -> bool | None:
    """Whether zero lies in the interval; None where there is none."""
    if difference.ci_low is None or difference.ci_high is None:
        return None
    return difference.ci_low <= 0 <= difference.ci_high
