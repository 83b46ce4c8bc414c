"""Two stored runs held against each other: ratio of latencies with a verdict, and what else differs between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stratoscope.errors import StoreError
from stratoscope.spec.hardware import HardwareManifest
from stratoscope.spec.record import Digests, RunRecord
from stratoscope.spec.scenario import ScenarioKind
from stratoscope.spec.software import SoftwareManifest
from stratoscope.stats.compare import Comparison, compare
from stratoscope.store.store import Store

#: Scenarios in which one query waits for another, so that the latencies of a run are not independent.
_QUEUEING: Final = frozenset(
    {ScenarioKind.SERVER, ScenarioKind.CONCURRENCY, ScenarioKind.CONSTANT_RATE, ScenarioKind.REPLAY}
)
_DRIFT: Final = (
    "the runs were not interleaved: whatever drifted between them (clock speed, temperature, other load) is in the "
    "ratio, and the interval does not cover it"
)


@dataclass(frozen=True, slots=True)
class Difference:
    """A field that differs: the aspect (one of the five digests), its path, and both values (None: absent).

    Of two lists of plain values (flags, providers) only what the other has not is kept, unless just the order differs.
    """

    aspect: str
    path: str
    a: Any
    b: Any


@dataclass(frozen=True, slots=True)
class RunComparison:
    """How run `b` compares with run `a`.

    Attributes:
        latency: of the queries, from the intended send time to completion, in s; its ratio is b / a.
        aspects: those of the five digests that differ.
        differences: the fields in which those aspects differ.
        caveats: what the verdict does not cover.
    """

    a: RunRecord
    b: RunRecord
    latency: Comparison
    aspects: tuple[str, ...]
    differences: tuple[Difference, ...]
    caveats: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The comparison as JSON values, with a schema version."""
        return {
            "schema": "stratoscope/comparison/1",
            "a": {"id": self.a.id, "model": self.a.model.id, "key": self.a.key},
            "b": {"id": self.b.id, "model": self.b.model.id, "key": self.b.key},
            "latency": {
                "ratio": self.latency.ratio.model_dump(mode="json"),
                "verdict": self.latency.verdict,
                "p_value": self.latency.p_value,
                "note": self.latency.note,
            },
            "aspects": list(self.aspects),
            "differences": [
                {"aspect": item.aspect, "path": item.path, "a": item.a, "b": item.b} for item in self.differences
            ],
            "caveats": list(self.caveats),
        }


def compare_runs(store: Store, a: str, b: str) -> RunComparison:
    """Compares the query latencies of run `b` with those of run `a`, and says what else differs.

    Raises:
        StoreError: a run is not there, or has no latencies (offline: all its samples were sent at once).
    """
    first, second = store.get(a), store.get(b)
    if first.id == second.id:
        raise StoreError(f"{a!r} and {b!r} are the same run, {first.id}", hint="`stratoscope results` lists the others")
    latencies_a, latencies_b = (latencies_s(store, record) for record in (first, second))
    aspects = differing_aspects(first, second)
    return RunComparison(
        a=first,
        b=second,
        latency=compare(latencies_a, latencies_b),
        aspects=aspects,
        differences=tuple(item for aspect in aspects for item in differences(aspect, first, second)),
        caveats=tuple(_caveats(first, second, aspects)),
    )


def latencies_s(store: Store, record: RunRecord) -> NDArray[np.float64]:
    """Latency of every completed query in s, in the order of issue: from its intended send time to its last sample.

    Raises:
        StoreError: the run is offline, has no samples, or a latency that is not above zero.
    """
    if record.scenario.kind is ScenarioKind.OFFLINE:
        raise StoreError(
            f"run {record.id} is offline: all its samples were sent at once, so it has a throughput and no latencies",
            hint="compare runs of another scenario, or the throughputs that `results show` prints",
        )
    samples = store.samples(record.id)
    if samples is None:
        raise StoreError(
            f"run {record.id} of {record.model.id} has no latencies to compare", hint="`stratoscope run` measures them"
        )
    missing = {"query", "scheduled_ns", "completed_ns"} - set(samples.columns)
    if missing:
        raise StoreError(f"the samples of run {record.id} have no column {', '.join(sorted(missing))}")
    latency_ns = pl.col("completed_ns").max() - pl.col("scheduled_ns").min()
    queries = samples.group_by("query").agg(latency_ns=latency_ns).sort("query")
    seconds: NDArray[np.float64] = queries["latency_ns"].drop_nulls().to_numpy() * 1e-9
    if seconds.size == 0 or seconds.min() <= 0:
        raise StoreError(f"run {record.id} has a query without a latency above zero, or no query at all")
    return seconds


def differing_aspects(a: RunRecord, b: RunRecord) -> tuple[str, ...]:
    """Which of the five digests differ."""
    return tuple(name for name in Digests.model_fields if getattr(a.digests, name) != getattr(b.digests, name))


def differences(aspect: str, a: RunRecord, b: RunRecord) -> tuple[Difference, ...]:
    """The fields in which two records differ within an aspect, sorted by path; empty where the records do not tell."""
    left, right = dict(_flat(_content(aspect, a))), dict(_flat(_content(aspect, b)))
    return tuple(
        Difference(aspect, path, *_apart(left.get(path), right.get(path)))
        for path in sorted(left.keys() | right.keys())
        if left.get(path) != right.get(path)
    )


def _apart(left: Any, right: Any) -> tuple[Any, Any]:
    """Two lists without what they share; anything else, and lists in another order only, as they are."""
    if not (isinstance(left, list | tuple) and isinstance(right, list | tuple)):
        return left, right
    only_left, only_right = [x for x in left if x not in right], [x for x in right if x not in left]
    return (only_left, only_right) if only_left or only_right else (left, right)


def _content(aspect: str, record: RunRecord) -> Mapping[str, Any]:
    """What the digest of an aspect is made of, as far as the record holds it."""
    if aspect == "model":
        return record.model.model_dump(mode="json", exclude=set(record.model.not_content))
    if aspect == "scenario":
        return record.scenario.model_dump(mode="json", exclude=set(record.scenario.not_content))
    if aspect == "software":
        packages = {name: value for name, value in record.software.items() if name not in SoftwareManifest.not_content}
        return {**packages, "backend": record.backend.model_dump(mode="json")}
    if aspect == "hardware":
        return {name: value for name, value in record.hardware.items() if name not in HardwareManifest.not_content}
    inputs = [spec.model_dump(mode="json") for spec in record.model.inputs]
    return {"dataset": record.dataset, "inputs": inputs, "inputs_seed": record.scenario.seeds.inputs}


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf with its path: keys joined by dots, positions in brackets; a list of plain values is one leaf."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flat(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping | list | tuple) for item in value):
        for index, item in enumerate(value):
            yield from _flat(item, f"{path}[{index}]")
    else:
        yield path, value


def _caveats(a: RunRecord, b: RunRecord, aspects: tuple[str, ...]) -> Iterator[str]:
    yield _DRIFT
    if "scenario" in aspects:
        yield "the runs were under different loads"
    elif adapted := _adapted(a, b):
        yield f"the same scenario drove different loads, each adapted to what its run could take: {adapted}"
    for record in (a, b):
        if record.status != "complete":
            yield f"run {record.id} is {record.status}: it has fewer queries than were asked for"
        if record.load is not None and not record.load.validity.valid:
            yield f"run {record.id} is INVALID: {'; '.join(record.load.validity.reasons) or 'no reason given'}"
        if record.load is not None and record.load.noise.quiet is False:
            yield f"run {record.id} was disturbed: {record.load.noise.reason or 'the noise gate refused it'}"
    if {a.scenario.kind, b.scenario.kind} & _QUEUEING:
        yield "queries that wait for each other are not independent: the interval is narrower than the truth"


def _adapted(a: RunRecord, b: RunRecord) -> str:
    """Targets that the scenario left open and that were measured: where the two runs got different ones."""
    if a.load is None or b.load is None:
        return ""
    left, right = (dict(_flat(load.scenario.model_dump(mode="json"))) for load in (a.load, b.load))
    return ", ".join(
        f"{name} {left.get(name)} and {right.get(name)}" for name in left if left.get(name) != right.get(name)
    )
