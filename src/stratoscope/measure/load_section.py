"""From the raw times of a load to its section of the record: latencies, rate and verdicts, each with its meaning."""

from __future__ import annotations

from typing import Final

import numpy as np

from stratoscope.measure.timeline import Timeline, Times
from stratoscope.measure.validity import judge
from stratoscope.spec.record import ClientVerdict, LoadSection
from stratoscope.spec.scenario import ScenarioKind, ScenarioManifest
from stratoscope.stats.bootstrap import estimate
from stratoscope.stats.percentile import early_stopping_estimate, percentile, percentile_name
from stratoscope.stats.quantity import Quantity

#: LoadGen's percentiles.
PERCENTILES: Final = (0.5, 0.9, 0.95, 0.97, 0.99, 0.999)
#: Completions are cut into so many blocks for the interval of the rate.
RATE_BLOCKS: Final = 20

_NS: Final = 1e9
_BY_RATE = frozenset({ScenarioKind.SERVER, ScenarioKind.OFFLINE, ScenarioKind.CONCURRENCY})
_MANY_SAMPLES = frozenset({ScenarioKind.MULTI_STREAM, ScenarioKind.OFFLINE})


def build_section(timeline: Timeline, scenario: ScenarioManifest, client: ClientVerdict) -> LoadSection:
    """The section; `scenario` is the one in effect, with its targets filled in."""
    inputs = 1 if scenario.kind in _MANY_SAMPLES else scenario.batch_size
    return LoadSection(
        scenario=scenario,
        queries=timeline.queries,
        samples=int(timeline.query.size) * inputs,
        duration_s=Quantity.exact(timeline.duration_s(), "s", "first intended send to last answer"),
        latency=latencies(timeline, scenario),
        throughput=throughput(timeline, scenario),
        headline="throughput" if scenario.kind in _BY_RATE else percentile_name(scenario.target_percentile),
        validity=judge(timeline, scenario),
        client=client,
        noise=timeline.noise,
        loadgen=timeline.loadgen,
        notes=timeline.notes,
    )


def latencies(timeline: Timeline, scenario: ScenarioManifest) -> dict[str, Quantity]:
    """Mean, median, trimmed mean, extremes, percentiles and early-stopping bounds, in seconds.

    Of queries in the multi-stream scenario, else of samples, as LoadGen has them. The mean is LoadGen's: whole
    nanoseconds, cut off. Offline samples share one query, so they are not independent: no intervals, no bounds.
    """
    per_query = scenario.kind is ScenarioKind.MULTI_STREAM
    nanoseconds = timeline.query_latencies_ns() if per_query else timeline.sample_latencies_ns()
    if nanoseconds.size == 0:
        why = "no query was answered"
        return {name: Quantity.unavailable("s", why, name) for name in ("mean", "median", "trimmed_mean", "min", "max")}
    seconds = nanoseconds / _NS
    found = {
        "mean": _whole_nanoseconds(estimate(seconds, "s", "mean"), nanoseconds),
        "median": estimate(seconds, "s", "median"),
        "trimmed_mean": estimate(seconds, "s", "trimmed_mean"),
        "min": Quantity(value=float(seconds.min()), unit="s", statistic="min", n=seconds.size),
        "max": Quantity(value=float(seconds.max()), unit="s", statistic="max", n=seconds.size),
    }
    targets = sorted({*PERCENTILES, scenario.target_percentile})
    found |= {percentile_name(p): percentile(seconds, p) for p in targets}
    if scenario.kind is ScenarioKind.OFFLINE:
        bare = {"ci_low": None, "ci_high": None, "confidence": None}
        return {name: quantity.model_copy(update=bare) for name, quantity in found.items()}
    # LoadGen's single-stream result has a bound of p99 too, from which it infers multi-stream.
    for p in sorted({scenario.target_percentile, 0.99}):
        found[f"early_stopping_{percentile_name(p)}"] = early_stopping_estimate(seconds, p)
    return found


def _whole_nanoseconds(mean: Quantity, nanoseconds: Times) -> Quantity:
    value = int(nanoseconds.sum()) // nanoseconds.size / _NS
    low = None if mean.ci_low is None else min(mean.ci_low, value)
    return mean.model_copy(update={"value": value, "ci_low": low})


def throughput(timeline: Timeline, scenario: ScenarioManifest) -> Quantity:
    """Inputs a second. From LoadGen's summary where it has a rate, to its digits; else by the same definition.

    Single-stream and server leave the first query out (the rate of n queries has n - 1 gaps); offline divides by the
    latency of the whole; the others divide what was answered by the time from the first send to the last answer.
    """
    n, batch = timeline.query.size, 1 if scenario.kind in _MANY_SAMPLES else scenario.batch_size
    duration = timeline.duration_s()
    if n == 0 or duration <= 0:
        return Quantity.unavailable("1/s", "no query was answered", "rate")
    summary = timeline.loadgen.get("summary", {})
    name = {
        ScenarioKind.SINGLE_STREAM: "QPS w/ loadgen overhead",
        ScenarioKind.SERVER: "Completed samples per second",
        ScenarioKind.OFFLINE: "Samples per second",
    }.get(scenario.kind)
    if name in summary:
        rate = float(summary[name])
    elif scenario.kind is ScenarioKind.SINGLE_STREAM and n > 1:
        rate = (n - 1) * _NS / float(timeline.scheduled_ns.max() - timeline.scheduled_ns.min())
    elif scenario.kind is ScenarioKind.SERVER and n > 1:
        rate = (n - 1) / duration
    else:
        rate = n / duration
    interval = _rate_interval(timeline)
    low, high = (None, None) if interval is None else (min(rate, interval[0]) * batch, max(rate, interval[1]) * batch)
    return Quantity(
        value=rate * batch,
        unit="1/s",
        statistic="rate",
        n=n,
        ci_low=low,
        ci_high=high,
        confidence=None if low is None else 0.95,
    )


def _rate_interval(timeline: Timeline) -> tuple[float, float] | None:
    """Interval of the rate of answers by the method of batch means: blocks of equal count, their durations averaged."""
    moments = np.unique(timeline.completed_ns)
    if moments.size < 3 * RATE_BLOCKS:
        return None
    answered = np.sort(timeline.completed_ns)
    edges = moments[np.linspace(0, moments.size - 1, RATE_BLOCKS + 1).astype(int)]
    counts = np.diff(np.searchsorted(answered, edges, side="right"))
    per_answer = np.diff(edges) / _NS / counts
    q = estimate(per_answer, "s", "mean")
    if q.ci_low is None or q.ci_high is None or q.ci_low <= 0:
        return None
    return 1 / q.ci_high, 1 / q.ci_low
