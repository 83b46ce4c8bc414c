"""Fills the performance database with what is missing for models, and says what is known of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self, cast, get_args

from stratoscope.errors import MeasurementError
from stratoscope.graph.onnx_reader import read_graph
from stratoscope.graph.signature import signature
from stratoscope.host.lock import measurement_lock
from stratoscope.measure.parts.candidates import MODULES, default_candidates
from stratoscope.measure.parts.parts import Level, RunnablePart, executed_parts, layer_parts, roofline_work
from stratoscope.measure.parts.protocol import CLEANED
from stratoscope.measure.parts.runner import FillSummary, OnProgress, run_parts
from stratoscope.spec.model import LoadableModel
from stratoscope.spec.performance import CacheState, Candidate, Environment, Part, PartMeasurement, Protocol
from stratoscope.store.performance import PerformanceDatabase


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be known of models: of their layers, and of the nodes executed at each of `levels`."""

    libraries: tuple[str, ...] | None = None
    precisions: tuple[str, ...] = ("float32",)
    caches: tuple[CacheState, ...] = ("hot", "flushed")
    threads: tuple[int, ...] = (1,)
    layers: bool = True
    levels: tuple[Level, ...] = ()

    @classmethod
    def parse(
        cls,
        libraries: Sequence[str] | None = None,
        precisions: Sequence[str] | None = None,
        caches: Sequence[str] | None = None,
        threads: Sequence[int] | None = None,
        parts: Sequence[str] | None = None,
    ) -> Self:
        """From the words of a command line; None or nothing: the default. `parts`: layers, executed:LEVEL.

        Raises:
            MeasurementError: a cache state or kind of part is not known.
        """
        for state in caches or ():
            if state not in CLEANED:
                raise MeasurementError(
                    f"no cache state of a part is called {state!r}", hint=f"there are {', '.join(CLEANED)}"
                )
        levels = [word.removeprefix("executed:") for word in parts or () if word != "layers"]
        for word, level in zip([word for word in parts or () if word != "layers"], levels, strict=True):
            if not word.startswith("executed:") or level not in get_args(Level):
                kinds = ", ".join(f"executed:{one}" for one in get_args(Level))
                raise MeasurementError(f"no parts are called {word!r}", hint=f"there are layers, {kinds}")
        default = cls()
        return cls(
            libraries=tuple(libraries) if libraries else None,
            precisions=tuple(precisions or default.precisions),
            caches=cast(tuple[CacheState, ...], tuple(caches or default.caches)),
            threads=tuple(threads or default.threads),
            layers=not parts or "layers" in parts,
            levels=cast(tuple[Level, ...], tuple(levels)),
        )

    def protocols(self) -> list[Protocol]:
        """Every cache state with every number of threads."""
        return [Protocol(cache=cache, threads=threads) for threads in self.threads for cache in self.caches]


@dataclass(frozen=True, slots=True)
class Group:
    """Parts of one kind with the candidates that they are measured with."""

    parts: tuple[RunnablePart, ...]
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class ModelParts:
    """The parts of one model; `uses` says how many of its layers a part is, by digest."""

    name: str
    uses: Mapping[str, int]
    groups: tuple[Group, ...]


@dataclass(slots=True)
class Plan:
    """Parts of several models, each once; those with the most work first, so that a budget covers the most."""

    models: tuple[ModelParts, ...]
    protocols: tuple[Protocol, ...]
    groups: tuple[Group, ...] = field(init=False)

    def __post_init__(self) -> None:
        merged: dict[tuple[Candidate, ...], dict[str, RunnablePart]] = {}
        for model in self.models:
            for group in model.groups:
                parts = merged.setdefault(group.candidates, {})
                for part in group.parts:
                    parts.setdefault(part.part.digest, part)
        uses = Counter[str]()
        for model in self.models:
            uses.update(model.uses)

        def work(one: RunnablePart) -> float:
            return (roofline_work(one.part) or 0.0) * max(1, uses[one.part.digest])

        self.groups = tuple(
            Group(tuple(sorted(parts.values(), key=work, reverse=True)), candidates)
            for candidates, parts in merged.items()
        )

    def missing(
        self, database: PerformanceDatabase, environment: Environment, retry: Collection[str] = ()
    ) -> list[tuple[Part, Candidate, Protocol]]:
        """What has no measurement here."""
        return [
            one
            for group in self.groups
            for one in database.missing(
                [part.part for part in group.parts], group.candidates, environment, self.protocols, retry=retry
            )
        ]


def plan_of(models: Sequence[LoadableModel], wanted: Wanted) -> Plan:
    """The parts of models with the candidates of this machine; nothing is measured.

    Raises:
        ModelError: a model cannot be read.
        BackendError: ONNX Runtime cannot load a model whose executed nodes are wanted.
        MeasurementError: a library is not known or not installed.
    """
    return Plan(tuple(_model_parts(model, wanted) for model in models), tuple(wanted.protocols()))


def _model_parts(model: LoadableModel, wanted: Wanted) -> ModelParts:
    groups: list[Group] = []
    uses: dict[str, int] = {}
    if wanted.layers and model.path is not None:
        graph = read_graph(model.path, model.bound_shapes())
        parts = layer_parts(graph, model)
        uses.update(Counter(signature(layer) for layer in graph.layers))
        candidates = default_candidates("layer", wanted.libraries, wanted.precisions)
        groups.append(Group(tuple(parts), tuple(candidates)))
    for level in wanted.levels:
        nodes = executed_parts(model, level)
        candidates = default_candidates("executed", wanted.libraries, wanted.precisions)
        groups.append(Group(tuple(nodes), tuple(candidates)))
    return ModelParts(model.name, uses, tuple(groups))


def fill(
    plan: Plan,
    database: PerformanceDatabase,
    environment: Environment,
    *,
    budget_s: float | None = None,
    retry: Collection[str] = (),
    wait: bool = True,
    on_wait: Callable[[str], None] | None = None,
    on_result: Callable[[PartMeasurement], None] | None = None,
    progress: OnProgress | None = None,
    modules: Mapping[str, str] = MODULES,
) -> FillSummary:
    """Measures what the database does not have; each result is kept at once, so that nothing is lost at an end.

    Where nothing is missing no library is loaded and the measurement lock is not taken.

    Raises:
        MeasurementError: the machine is busy and `wait` is false.
        StoreError: the database cannot be read or written.
    """
    missing = {
        (part.digest, candidate, protocol) for part, candidate, protocol in plan.missing(database, environment, retry)
    }
    total = FillSummary()

    def keep(measurement: PartMeasurement) -> None:
        database.record(measurement, replace=bool(retry))  # what is measured is missing, or to be measured again
        if on_result is not None:
            on_result(measurement)

    def known(part: Part, candidate: Candidate, protocol: Protocol) -> bool:
        return (part.digest, candidate, protocol) not in missing

    if not missing:
        total.known = sum(len(g.parts) * len(g.candidates) * len(plan.protocols) for g in plan.groups)
        return total
    with measurement_lock(wait, on_wait=on_wait):
        for group in plan.groups:
            left = None if budget_s is None else max(0.0, budget_s - total.seconds)
            done = run_parts(
                group.parts,
                group.candidates,
                plan.protocols,
                environment=environment,
                budget_s=left,
                on_result=keep,
                progress=progress,
                known=known,
                modules=modules,
            )
            total.add(done)
            if done.interrupted:
                break
    return total
