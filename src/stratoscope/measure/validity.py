"""Whether a load satisfied the rules of its scenario: LoadGen's verdict, or the same rules on our own scheduler."""

from __future__ import annotations

import numpy as np

from stratoscope.measure.timeline import Timeline
from stratoscope.spec.record import Validity
from stratoscope.spec.scenario import MLPERF_SCENARIOS, ScenarioKind, ScenarioManifest
from stratoscope.stats.percentile import (
    allowed_overlatency,
    early_stopping_floor,
    min_passing_queries,
    percentile_index,
    percentile_name,
)

#: Scenarios in which a latency bound can be asked for.
_BOUNDED = frozenset({ScenarioKind.SERVER, ScenarioKind.CONSTANT_RATE, ScenarioKind.REPLAY, ScenarioKind.CONCURRENCY})


def judge(timeline: Timeline, scenario: ScenarioManifest) -> Validity:
    """LoadGen's verdict and reasons, or ours by the same rules; an interrupted load is not valid."""
    if timeline.interrupted:
        return Validity(valid=False, reasons=("interrupted before the scenario's end",))
    if timeline.loadgen:
        return _loadgens(timeline)
    reasons = [*timeline.losses, *_too_short(timeline, scenario), *_too_slow(timeline, scenario)]
    reasons += _not_proven(timeline, scenario)
    return Validity(valid=not reasons, reasons=tuple(reasons))


def _loadgens(timeline: Timeline) -> Validity:
    found = timeline.loadgen
    valid = found["summary"].get("Result is") == "VALID"
    if valid:
        return Validity(valid=True, source="loadgen")
    reasons = [str(found.get("result_invalid_reason", "")).strip()]
    if not found.get("early_stopping_met", True):
        reasons.append(
            "early stopping: " + " ".join(str(found.get("early_stopping_result", "")).replace("*", "").split())
        )
    reasons += map(str, found["errors"])
    return Validity(valid=False, reasons=tuple(reason for reason in reasons if reason), source="loadgen")


def _too_short(timeline: Timeline, scenario: ScenarioManifest) -> list[str]:
    """The least duration and number of queries; the duration is that of the sends, offline that of the answers."""
    if timeline.query.size == 0:
        return ["no query was answered"]
    last = timeline.completed_ns if scenario.kind is ScenarioKind.OFFLINE else timeline.scheduled_ns
    lasted = float(last.max()) / 1e9
    reasons = []
    if scenario.kind is not ScenarioKind.REPLAY:
        if lasted < scenario.min_duration_s:
            reasons.append(f"lasted {lasted:.3g} s, less than the {scenario.min_duration_s:g} s of min_duration_s")
        answered = timeline.query.size if scenario.kind is ScenarioKind.OFFLINE else timeline.queries
        if answered < scenario.min_queries:
            reasons.append(f"{answered} queries answered, less than the {scenario.min_queries} of min_queries")
    return reasons


def _too_slow(timeline: Timeline, scenario: ScenarioManifest) -> list[str]:
    if scenario.target_latency_s is None or scenario.kind not in _BOUNDED or timeline.query.size == 0:
        return []
    ordered = np.sort(timeline.sample_latencies_ns())
    seen = int(ordered[percentile_index(ordered.size, scenario.target_percentile)])
    if seen <= round(scenario.target_latency_s * 1e9):
        return []
    name = percentile_name(scenario.target_percentile)
    return [f"{name} latency {seen / 1e9:.3g} s is above target_latency_s {scenario.target_latency_s:g}"]


def _not_proven(timeline: Timeline, scenario: ScenarioManifest) -> list[str]:
    """Early stopping: the tail is guaranteed, or how many more queries it takes."""
    p, queries = scenario.target_percentile, timeline.queries
    if scenario.kind is ScenarioKind.OFFLINE or queries == 0:
        return []
    if scenario.kind in _BOUNDED and scenario.target_latency_s is not None:
        late = int(np.count_nonzero(timeline.sample_latencies_ns() > round(scenario.target_latency_s * 1e9)))
        if allowed_overlatency(queries, p) >= late:
            return []
        more = min_passing_queries(late, p) + late - queries
        return [
            f"early stopping: {late} of {queries} queries were late; {more} more in time would prove the percentile"
        ]
    floor = early_stopping_floor(p)
    if queries >= floor or scenario.kind not in MLPERF_SCENARIOS:
        return []
    return [f"early stopping: {queries} queries, {percentile_name(p)} needs {floor}"]
