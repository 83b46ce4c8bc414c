"""Was the load generator itself the bottleneck? The same load against a model that takes no time gives the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from stratoscope.measure.timeline import Timeline
from stratoscope.spec.record import ClientVerdict
from stratoscope.spec.scenario import ScenarioKind, ScenarioManifest
from stratoscope.stats.bootstrap import estimate
from stratoscope.stats.percentile import percentile
from stratoscope.stats.quantity import Quantity

Call = Callable[[], object]
Runner = Callable[[Sequence[Call], ScenarioManifest, float], Timeline]

#: The client is the bottleneck when its own time exceeds this part of a measured query.
MAX_SHARE: Final = 0.05
#: ... or when it sends or takes answers at less than this part of the asked-for rate.
MIN_RATE_SHARE: Final = 0.95
#: The null load lasts at most this long; in closed loops, where each query takes a microsecond, a tenth.
NULL_LOAD_S: Final = 0.5
#: A guess of what a null call takes with its harness, from which LoadGen plans.
NULL_CALL_NS: Final = 2_000.0

OPEN_LOOPS: Final = frozenset({ScenarioKind.SERVER, ScenarioKind.CONSTANT_RATE, ScenarioKind.REPLAY})


def null_scenario(scenario: ScenarioManifest) -> ScenarioManifest:
    """The same load, briefly: the same rate, concurrency and batching; fewer queries."""
    longest = NULL_LOAD_S if scenario.kind in OPEN_LOOPS else NULL_LOAD_S / 10
    return scenario.model_copy(
        update={
            "min_duration_s": min(longest, scenario.min_duration_s),
            "max_duration_s": max(10 * longest, 2.0),
            "min_queries": min(scenario.min_queries, 64),
        }
    )


def judge_client(timeline: Timeline, null: Timeline, scenario: ScenarioManifest) -> ClientVerdict:
    """The verdict on `timeline`, from `null`: the same scenario against calls that return at once."""
    lag = _send_lag(timeline, scenario)
    if timeline.query.size == 0 or null.query.size == 0:
        why = "no query was answered" if timeline.query.size == 0 else "the null load has no answered query"
        return ClientVerdict(
            bottleneck=None, overhead_per_query_s=Quantity.unavailable("s", why), send_lag_p99_s=lag, reason=why
        )
    own, measured = _time_per_query(null, scenario), _time_per_query(timeline, scenario)
    share = own.require() / measured.require() if measured.require() > 0 else 1.0
    part = "less than 0.01%" if share < 1e-4 else f"{share:.2%}"
    text = f"the client's own time is {own.require() * 1e6:.3g} us a query, {part} of what a query takes"
    reasons = [] if share <= MAX_SHARE else [f"{text}: more than {MAX_SHARE:.0%}"]
    if scenario.kind in OPEN_LOOPS and null.query.size > 1:
        asked = (null.query.size - 1) * 1e9 / max(1, int(null.scheduled_ns.max()))
        got = (null.query.size - 1) * 1e9 / max(1, int(null.completed_ns.max()))
        if got < MIN_RATE_SHARE * asked:
            reasons.append(f"it reached {got:.4g} of {asked:.4g} queries a second against the null back end")
        text += f"; {got:.4g} of {asked:.4g} queries a second sustained against the null back end"
    return ClientVerdict(
        bottleneck=bool(reasons),
        overhead_per_query_s=own,
        send_lag_p99_s=lag,
        reason="; ".join(reasons) or text,
    )


def _time_per_query(timeline: Timeline, scenario: ScenarioManifest) -> Quantity:
    """Median seconds that a query takes: from send to send in closed loops, so that the gap between two counts; from
    the intended send to the answer in open ones; an even part of the whole offline, a sample there being a query."""
    if scenario.kind in OPEN_LOOPS:
        return estimate(timeline.sample_latencies_ns() / 1e9, "s", "median")
    if scenario.kind is ScenarioKind.OFFLINE:
        return Quantity(
            value=timeline.duration_s() / timeline.query.size, unit="s", statistic="mean", n=timeline.query.size
        )
    first = np.unique(timeline.query, return_index=True)[1]
    gaps = np.diff(timeline.issued_ns[first]) / 1e9
    if scenario.kind is ScenarioKind.CONCURRENCY:
        gaps = gaps * min(scenario.concurrency, gaps.size + 1)
        return estimate(gaps, "s", "mean") if gaps.size else estimate([timeline.duration_s()], "s", "mean")
    return estimate(gaps if gaps.size else timeline.query_latencies_ns() / 1e9, "s", "median")


def _send_lag(timeline: Timeline, scenario: ScenarioManifest) -> Quantity:
    if scenario.kind not in OPEN_LOOPS:
        return Quantity.unavailable("s", "a closed loop has no intended send time", "p99")
    return percentile(timeline.send_lags_ns() / 1e9, 0.99)
