"""What the performance database knows of models on this machine: coverage, and what `bench fill` would measure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from stratoscope.measure.parts.fill import ModelParts, Plan
from stratoscope.measure.parts.parts import roofline_work
from stratoscope.spec.performance import Candidate, Environment, Part, PartMeasurement, Protocol
from stratoscope.store.performance import PerformanceDatabase


@dataclass(frozen=True, slots=True)
class Coverage:
    """Of one model under one protocol: the parts with a time of at least one candidate, by number and by work.

    `share` is by roofline time (the larger of FLOPs over peak and bytes over bandwidth, each part as often as it is
    used); parts of unknown work cannot be in it and are counted in `unknown_work`.
    """

    protocol: Protocol
    measured: int
    parts: int
    share: float | None
    unknown_work: int


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One model: its layers (or executed nodes), how many of them are unique, and how many combinations are missing."""

    name: str
    uses: int
    parts: int
    missing: int
    combinations: int
    coverage: tuple[Coverage, ...]


@dataclass(frozen=True, slots=True)
class Hole:
    """A part that has measurements missing: how many, and its share of the work of all parts with a hole."""

    part: Part
    uses: int
    missing: int
    roofline: float | None


@dataclass(frozen=True, slots=True)
class Status:
    """Models, what is missing for them on this machine, and why some combinations have no time."""

    environment: Environment
    candidates: tuple[Candidate, ...]
    models: tuple[ModelStatus, ...]
    holes: tuple[Hole, ...]
    statuses: dict[str, int]
    reasons: tuple[tuple[str, str, int], ...]

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {
            "schema": "stratoscope/bench-status/1",
            "environment": self.environment.model_dump(mode="json"),
            "candidates": [one.model_dump(mode="json") for one in self.candidates],
            "models": [
                {
                    "name": one.name,
                    "layers": one.uses,
                    "unique": one.parts,
                    "combinations": one.combinations,
                    "missing": one.missing,
                    "coverage": [
                        {
                            **found.protocol.model_dump(mode="json"),
                            "measured": found.measured,
                            "parts": found.parts,
                            "roofline_share": found.share,
                            "unknown_work": found.unknown_work,
                        }
                        for found in one.coverage
                    ],
                }
                for one in self.models
            ],
            "missing": [
                {"digest": one.part.digest, "slug": one.part.slug, "uses": one.uses, "missing": one.missing}
                for one in self.holes
            ],
            "statuses": self.statuses,
            "without_a_time": [
                {"candidate": name, "reason": reason, "parts": count} for name, reason, count in self.reasons
            ],
        }


def status_of(plan: Plan, database: PerformanceDatabase, environment: Environment) -> Status:
    """What is known and what is missing; reads the database only. Raises StoreError where it cannot be read."""
    missing = Counter(part.digest for part, _, _ in plan.missing(database, environment))
    candidates = tuple(dict.fromkeys(one for group in plan.groups for one in group.candidates))
    parts = {one.part.digest: one.part for group in plan.groups for one in group.parts}
    found = database.find(parts, candidates=candidates, environment=environment, protocols=plan.protocols)
    uses: Counter[str] = Counter()
    for model in plan.models:
        uses.update(model.uses)
    holes = [Hole(parts[key], uses[key], count, roofline_work(parts[key])) for key, count in missing.items()]
    holes.sort(key=lambda hole: -(hole.roofline or 0.0) * hole.uses)
    return Status(
        environment=environment,
        candidates=candidates,
        models=tuple(_model_status(model, plan, missing, found) for model in plan.models),
        holes=tuple(holes),
        statuses=dict(Counter(one.status for one in found)),
        reasons=_reasons(found),
    )


def _model_status(
    model: ModelParts, plan: Plan, missing: Counter[str], found: Iterable[PartMeasurement]
) -> ModelStatus:
    parts = {one.part.digest: one.part for group in model.groups for one in group.parts}
    timed = {
        protocol: {one.part.digest for one in found if one.protocol == protocol and one.status == "ok"}
        for protocol in plan.protocols
    }
    return ModelStatus(
        name=model.name,
        uses=sum(model.uses.values()),
        parts=len(parts),
        missing=sum(missing[key] for key in parts),
        combinations=sum(len(g.parts) * len(g.candidates) * len(plan.protocols) for g in model.groups),
        coverage=tuple(_coverage(protocol, parts, model, timed[protocol]) for protocol in plan.protocols),
    )


def _coverage(protocol: Protocol, parts: dict[str, Part], model: ModelParts, timed: set[str]) -> Coverage:
    work = {key: roofline_work(part) for key, part in parts.items()}
    weights = {key: value * model.uses.get(key, 1) for key, value in work.items() if value is not None}
    whole = sum(weights.values())
    covered = sum(value for key, value in weights.items() if key in timed)
    return Coverage(
        protocol=protocol,
        measured=len(parts.keys() & timed),
        parts=len(parts),
        share=covered / whole if whole else None,
        unknown_work=len(parts) - len(weights),
    )


def _reasons(found: Iterable[PartMeasurement]) -> tuple[tuple[str, str, int], ...]:
    """(candidate, reason, parts) of what has no time, failures before what is not supported; a part counts once."""
    seen = {(one.candidate.name, f"{one.status}: {one.reason}", one.part.digest) for one in found if one.status != "ok"}
    counts = Counter((name, reason) for name, reason, _ in seen)
    ordered = sorted(counts.items(), key=lambda item: (item[0][1].startswith("unsupported"), -item[1], item[0]))
    return tuple((name, reason, count) for (name, reason), count in ordered)
