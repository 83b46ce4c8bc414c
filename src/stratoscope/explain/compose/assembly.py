"""From a suite and the database to the latency of each model, what the suite saves, and what it cannot tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from stratoscope.explain.compose.estimate import Estimate, Placed, estimate
from stratoscope.measure.sequence import protocol_of
from stratoscope.spec.base import Document
from stratoscope.spec.performance import CacheState, Environment, PartMeasurement
from stratoscope.stats.quantity import Quantity

if TYPE_CHECKING:
    from stratoscope.measure.suite import Suite, SuiteModel
    from stratoscope.store.performance import PerformanceDatabase

#: The state of the point estimate, and those of the bracket's ends.
POINT: CacheState = "sequence"
LOW: CacheState = "hot"
HIGH: CacheState = "evicted"
STATES: tuple[CacheState, ...] = (POINT, LOW, HIGH)
Times = Mapping[CacheState, Mapping[str, PartMeasurement]]


class ModelEstimate(Document):
    """What one model of a suite takes."""

    model: str
    batch_size: int | None
    layers: int
    threads: int
    estimate: Estimate


class Saving(Document):
    """What a suite saves, as DLBricks counts it: the models' latencies over the latencies of the unique bricks.

    `saved` is sum of the models' estimates / sum of the unique bricks' times, one call each.
    """

    places: int
    unique: int
    models: Quantity
    bricks: Quantity
    saved: Quantity


def placed(suite: Suite, model: SuiteModel) -> list[Placed]:
    """The places of a model of the suite, for `estimate`."""
    bricks = suite.index.bricks
    return [
        Placed(place.key, bricks[place.key].part.slug, place.times, bricks[place.key].nominal_s, place.needs)
        for place in model.places
    ]


def times_of(suite: Suite, database: PerformanceDatabase, environment: Environment, threads: int = 1) -> Times:
    """The measurements of the suite's bricks in this environment by cache state and key."""
    protocols = {protocol_of(state, threads).digest: state for state in STATES}
    found: dict[CacheState, dict[str, PartMeasurement]] = {state: {} for state in STATES}
    held = database.find(
        list(suite.index.bricks),
        candidates=[suite.index.candidate],
        environment=environment,
        protocols=[protocol_of(state, threads) for state in STATES],
    )
    for one in held:
        found[protocols[one.protocol.digest]][one.part.digest] = one
    return found


def with_problems(suite: Suite, times: Mapping[str, PartMeasurement]) -> dict[str, str]:
    """Key -> why there is no network of a brick, for those that were not even recorded."""
    return {
        key: brick.problem
        for key, brick in suite.index.bricks.items()
        if brick.problem is not None and key not in times
    }


def estimates(suite: Suite, times: Times, threads: int = 1) -> list[ModelEstimate]:
    """Each model of the suite, in its order."""
    problems = with_problems(suite, times[POINT])
    rows = []
    for model in suite.index.models:
        found = estimate(placed(suite, model), times[POINT], times[LOW], times[HIGH])
        missing = tuple(
            one.model_copy(update={"status": "unsupported", "reason": problems[one.key]})
            if one.key in problems
            else one
            for one in found.missing
        )
        found = found.model_copy(update={"missing": missing})
        rows.append(
            ModelEstimate(
                model=model.name,
                batch_size=model.batch_size,
                layers=model.layers,
                threads=threads,
                estimate=found,
            )
        )
    return rows


def on_lines(rows: list[ModelEstimate]) -> list[ModelEstimate]:
    """The rows, where batch sizes without a single measured brick lie on the line through two that are known in full.

    Work is linear in the batch, times nearly: two batch sizes of a model tell the others. Such a latency says so in its
    statistic, and its interval is that of the line. Extrapolation is no better than that model.
    """
    known: dict[tuple[str, int], list[ModelEstimate]] = {}
    for row in rows:
        if row.batch_size is not None and row.estimate.coverage == 1.0 and row.estimate.latency.value is not None:
            known.setdefault((row.model, row.threads), []).append(row)
    found = []
    for row in rows:
        ends = sorted(known.get((row.model, row.threads), []), key=lambda one: one.batch_size or 0)[:2]
        if row.estimate.latency.value is None and row.batch_size is not None and len(ends) == 2:
            latency = _on_line(row.batch_size, *ends)
            row = row.model_copy(update={"estimate": row.estimate.model_copy(update={"latency": latency})})
        found.append(row)
    return found


def _on_line(batch: int, one: ModelEstimate, other: ModelEstimate) -> Quantity:
    first, second = one.batch_size or 0, other.batch_size or 0
    weight = (batch - first) / (second - first)
    ends = [(1 - weight, one.estimate.latency), (weight, other.estimate.latency)]
    value = sum(factor * latency.require() for factor, latency in ends)
    halves = [
        abs(factor) * (latency.ci_high - latency.ci_low) / 2
        for factor, latency in ends
        if latency.ci_low is not None and latency.ci_high is not None
    ]
    return Quantity(
        value=value,
        unit="s",
        statistic=f"line through batch {first} and {second}",
        n=min(latency.n for _, latency in ends),
        ci_low=max(0.0, value - sum(halves)),
        ci_high=value + sum(halves),
        confidence=ends[0][1].confidence,
    )


def saving(suite: Suite, rows: list[ModelEstimate], times: Times) -> Saving:
    """What the suite's repetition saves."""
    places = sum(len(model.places) for model in suite.index.models)
    whole = [row.estimate.latency.value for row in rows]
    point = times[POINT]
    timed = [one.seconds().require() for one in point.values() if one.status == "ok"]
    reason = "not every model has an estimate"
    if not timed or any(value is None for value in whole):
        nothing = Quantity.unavailable("s", reason, "sum")
        saved = Quantity.unavailable("1", reason, "ratio")
        return Saving(places=places, unique=len(suite.index.bricks), models=nothing, bricks=nothing, saved=saved)
    models, bricks = sum(value for value in whole if value is not None), sum(timed)
    return Saving(
        places=places,
        unique=len(suite.index.bricks),
        models=Quantity(value=models, unit="s", statistic="sum", n=len(whole)),
        bricks=Quantity(value=bricks, unit="s", statistic="sum", n=len(timed)),
        saved=Quantity(value=models / bricks, unit="1", statistic="ratio"),
    )
