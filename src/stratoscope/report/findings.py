"""What a record says in plain sentences, true by construction: each states figures of the record, and no guess."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from stratoscope.explain.layers import by_type, layers_for_share, top
from stratoscope.report import wording
from stratoscope.report.format import bare, count, share, text
from stratoscope.report.wording import Tone
from stratoscope.spec.record import RunRecord
from stratoscope.spec.scenario import ScenarioKind
from stratoscope.stats.quantity import Quantity

#: More sentences than this are not read.
MOST = 6

#: From this share of an inference on, repacking weights is worth a sentence.
_MUCH_REPACKING = 0.02

#: The load's and the profile's time of an inference differ in earnest beyond this ratio (or below its inverse).
_SAME_TIME = 1.15


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence; `tone` says whether it calls for attention ("unknown" for a plain statement)."""

    sentence: str
    tone: Tone = "unknown"


def findings(record: RunRecord) -> tuple[Finding, ...]:
    """At most `MOST` findings: first what limits the trust in the numbers, then where the time goes, then the rest."""
    every = [finding for rule in _RULES for finding in rule(record)]
    urgent = [finding for finding in every if finding.tone in {"bad", "warn"}]
    rest = [finding for finding in every if finding.tone not in {"bad", "warn"}]
    return tuple([*urgent, *rest][:MOST])


def _status(record: RunRecord) -> Iterator[Finding]:
    verdict = wording.validity(record)
    if verdict is not None and verdict.tone == "bad":
        yield Finding(wording.sentence(f"This result is {verdict.word}: {verdict.reason}"), "bad")


def _where_the_time_goes(record: RunRecord) -> Iterator[Finding]:
    profile = record.profile
    if profile is None or not profile.layers:
        return
    group, slowest = by_type(profile)[0], top(profile, 1)[0].layer
    parts = []
    if group.share is not None:
        number = f"{count(len(group.layers))} of {_layers(len(profile.layers))}"
        parts.append(f"{share(group.share)} of the layer time is in {group.op} ({number})")
    if slowest.time.value is not None and slowest.share is not None:
        parts.append(f"the slowest layer is {slowest.name} ({text(slowest.time)}, {share(slowest.share)})")
    if parts:
        yield Finding(wording.sentence("; ".join(parts)))


def _how_spread(record: RunRecord) -> Iterator[Finding]:
    profile = record.profile
    if profile is None or len(profile.layers) < 10:
        return
    enough = layers_for_share(profile, 0.9)
    if enough is not None:
        yield Finding(f"{_layers(enough)} of {count(len(profile.layers))} make up 90 % of the layer time.")


def _between_layers(record: RunRecord) -> Iterator[Finding]:
    profile = record.profile
    if profile is None or profile.gap.value is None or not profile.profiled_model_time.value:
        return
    part = profile.gap.value / profile.profiled_model_time.value
    if part >= 0.1:
        yield Finding(f"{share(part)} of the profiled model time ({text(profile.gap)}) passes between layers.", "warn")


def _weight_reorders(record: RunRecord) -> Iterator[Finding]:
    """Constants that are brought into another layout at every inference: work that need not be done."""
    reorders = None if record.profile is None else record.profile.reorders
    if reorders is None or reorders.weights_share is None or reorders.weights_share < _MUCH_REPACKING:
        return
    calls = count(round(reorders.weights_count), "call")
    part = f"{text(reorders.weights)} ({share(reorders.weights_share)}) in {calls}"
    yield Finding(f"Weights are brought into another layout at every inference: {part}.", "warn")


def _two_times(record: RunRecord) -> Iterator[Finding]:
    """The load and the profile time the same inference; where both intervals lie apart, neither time is general."""
    single = record.load is not None and record.load.scenario.kind is ScenarioKind.SINGLE_STREAM
    if record.load is None or record.profile is None or not single:
        return
    load, profile = record.load.latency.get("median"), record.profile.model_time
    if load is None or not load.value or not profile.value or not _apart(load, profile):
        return
    if not 1 / _SAME_TIME < profile.value / load.value < _SAME_TIME:
        sentence = f"An inference took {text(profile)} around the profile but {text(load)} under the load"
        yield Finding(f"{sentence}: compare shares, not times.", "warn")


def _apart(first: Quantity, second: Quantity) -> bool:
    """Whether two intervals share no value; False where one is not given."""
    if first.ci_low is None or first.ci_high is None or second.ci_low is None or second.ci_high is None:
        return False
    return first.ci_high < second.ci_low or second.ci_high < first.ci_low


def _checks(record: RunRecord) -> Iterator[Finding]:
    failed = [name for name, holds in (record.profile.checks if record.profile else {}).items() if not holds]
    if failed:
        yield Finding(f"The profile fails a conservation check: {'; '.join(failed).replace('_', ' ')}.", "bad")


def _client(record: RunRecord) -> Iterator[Finding]:
    if record.load is None:
        return
    verdict, cost = record.load.client, record.load.client.overhead_per_query_s
    each = f" ({text(cost)} a query)" if cost.value is not None else ""
    if verdict.bottleneck is None:
        yield Finding(wording.sentence(f"Whether the load generator was the bottleneck is not known: {verdict.reason}"))
    elif verdict.bottleneck:
        yield Finding(wording.sentence(f"The load generator was the bottleneck{each}: {verdict.reason}"), "bad")
    else:
        yield Finding(f"The load generator was not the bottleneck{each}.", "good")


def _noise(record: RunRecord) -> Iterator[Finding]:
    quiet_told = False
    for what, section in (("load", record.load), ("profile", record.profile)):
        if section is None:
            continue
        verdict = wording.noise(section.noise)
        if verdict.tone == "warn" or (verdict.tone == "good" and not quiet_told):
            told = f"The machine was {verdict.word} during the {what} measurement: {verdict.reason}"
            yield Finding(wording.sentence(told), verdict.tone)
        quiet_told = quiet_told or verdict.tone == "good"


def _batch(record: RunRecord) -> Iterator[Finding]:
    if record.sweep is None:
        return
    rates = {point.batch_size: point.throughput for point in record.sweep.points}
    first, best = rates.get(1), rates.get(record.sweep.optimal_batch or 1)
    gain = ""
    if first is not None and best is not None and best is not first and first.value and best.value:
        gain = f" It gives {text(best)}, {best.value / first.value:.2f} times the throughput of batch 1."
    yield Finding(wording.batch(record.sweep) + gain)


def _cold_start(record: RunRecord) -> Iterator[Finding]:
    cold = record.cold_start
    if cold is None:
        return
    first = [cold.import_s.value, cold.load_s.value, cold.first_inference_s.value]
    if cold.steady_s.value and all(part is not None for part in first):
        total = sum(part for part in first if part is not None)
        times = bare(total / cold.steady_s.value, "1", 2)
        yield Finding(f"Import, load and first inference take {bare(total, 's')}: {times} times a steady inference.")


def _accuracy(record: RunRecord) -> Iterator[Finding]:
    if record.accuracy is None or not record.accuracy.metrics:
        return
    name, metric = next(iter(record.accuracy.metrics.items()))
    if metric.value is not None:
        shown = text(metric, percent=metric.unit == "1")
        yield Finding(f"{name} is {shown} on {count(record.accuracy.samples)} samples of {record.accuracy.dataset}.")


def _layers(number: int) -> str:
    return count(number, "layer")


_RULES: tuple[Callable[[RunRecord], Iterator[Finding]], ...] = (
    _status,
    _where_the_time_goes,
    _weight_reorders,
    _how_spread,
    _client,
    _noise,
    _batch,
    _cold_start,
    _accuracy,
    _checks,
    _between_layers,
    _two_times,
)
