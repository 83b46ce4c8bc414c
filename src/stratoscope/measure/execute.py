"""Carries a plan out: resolves the model, measures each section under the lock, and binds all in one record."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

import polars as pl

from stratoscope.backends.base import Backend, Capabilities, Feeds, Session
from stratoscope.backends.registry import get_backend
from stratoscope.errors import BackendError, StratoscopeError
from stratoscope.host.capture import capture_hardware, capture_software
from stratoscope.host.lock import measurement_lock
from stratoscope.measure.plan import Mode, Plan, Section
from stratoscope.models.resolve import resolve, resolve_manifest, with_batch
from stratoscope.spec.base import digest_of
from stratoscope.spec.dataset import DatasetManifest, GeneratedInputs
from stratoscope.spec.model import LoadableModel, ModelManifest
from stratoscope.spec.record import BackendRecord, Digests, RunRecord, Unavailable
from stratoscope.spec.scenario import ScenarioKind
from stratoscope.store.ids import new_run_id

if TYPE_CHECKING:
    from stratoscope.backends.base import TracingBackend
    from stratoscope.trace.levels import Level

Progress = Callable[[str, float | None], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A record with its raw data: one row a query in `samples`, one a span in `spans`."""

    record: RunRecord
    samples: pl.DataFrame | None
    spans: pl.DataFrame | None


@dataclass(slots=True)
class _Run:
    """What has been measured so far."""

    plan: Plan
    model: LoadableModel
    backend: Backend
    capabilities: Capabilities
    report: Progress
    sections: dict[str, Any] = field(default_factory=dict)
    unavailable: list[Unavailable] = field(default_factory=list)
    samples: pl.DataFrame | None = None
    spans: pl.DataFrame | None = None
    options: dict[str, Any] = field(default_factory=dict)
    interrupted: str | None = None


def execute(plan: Plan, *, on_progress: Progress | None = None) -> Outcome:
    """Measures what `plan` asks for and returns the record.

    A section that cannot be measured is listed under `unavailable` with its reason; the others run. Ctrl-C ends the
    run: what was measured until then is in the record, whose status is "interrupted".

    Raises:
        StratoscopeError: the model, the back end or the scenario is not usable at all.
    """
    report = on_progress or _no_progress
    backend = get_backend(plan.backend)
    capabilities = backend.capabilities()
    if not capabilities.available:
        raise BackendError(f"back end {plan.backend} is not available: {capabilities.reason}")
    report("finding the model", 0.0)
    model = _resolved(plan, report)
    run = _Run(plan, model, backend, capabilities, report)
    steps = _steps(run)
    with measurement_lock(wait=plan.wait, on_wait=lambda text: report(text, None)):
        for number, (title, step) in enumerate(steps):
            report(title, number / len(steps))
            try:
                step(run)
            except KeyboardInterrupt:
                run.interrupted = f"Ctrl-C during: {title}"
            if run.interrupted:
                break
        report("writing the record", 1.0)
    return Outcome(_record(run), run.samples, run.spans)


def resolved_model(plan: Plan, on_progress: Progress | None = None) -> LoadableModel:
    """The model of a plan, every dimension bound, as `execute` runs it; raises ModelError where it is not usable."""
    return _resolved(plan, on_progress or _no_progress)


def _resolved(plan: Plan, report: Progress) -> LoadableModel:
    def say(text: str) -> None:
        report(text, None)

    batch_size = plan.batch_size or (plan.scenario.batch_size if plan.scenario.batch_size > 1 else None)
    if isinstance(plan.model, ModelManifest):
        return resolve_manifest(
            plan.model, plan.model_folder, batch_size=batch_size, shapes=plan.shapes, on_progress=say
        )
    return resolve(
        plan.model,
        batch_size=batch_size,
        shapes=plan.shapes,
        example_inputs=plan.example_inputs,
        on_progress=say,
    )


def _no_progress(text: str, share: float | None) -> None:
    """Progress that nobody watches."""


def _steps(run: _Run) -> list[tuple[str, Callable[[_Run], None]]]:
    """The sections in the order of measuring: cold start first, while nothing of the model is in memory."""
    wanted = run.plan.sections
    steps: list[tuple[str, Callable[[_Run], None]]] = [("reading the graph", _graph)]
    if run.plan.scenario.kind is ScenarioKind.COLD:
        return [*steps, ("cold start", _cold_states)]
    if Section.COLD_START in wanted:
        steps.append(("cold start", _cold_start))
    if Section.LOAD in wanted:
        steps.append((f"load: {run.plan.scenario.kind}", _load))
    if Section.ACCURACY in wanted:
        steps.append(("accuracy", _accuracy))
    if Section.PROFILE in wanted:
        steps.append(("layers", _profile))
    if Section.SWEEP in wanted:
        steps.append(("batch sizes", _sweep))
    return steps


@contextmanager
def _optional(run: _Run, what: str) -> Iterator[None]:
    """A section whose failure is an answer, not the end of the run."""
    try:
        yield
    except MemoryError:
        run.unavailable.append(Unavailable(what=what, why="not enough memory"))
    except StratoscopeError as error:
        run.unavailable.append(Unavailable(what=what, why=str(error)))


def _graph(run: _Run) -> None:
    """What the model is; not measured, so a graph that cannot be read leaves the rest to run."""
    from stratoscope.graph.onnx_reader import read_graph
    from stratoscope.graph.summary import summarize

    if run.model.path is None:
        run.unavailable.append(Unavailable(what="graph", why="the model has no graph file"))
        return
    with _optional(run, "graph"):
        run.sections["graph"] = summarize(read_graph(run.model.path, run.model.bound_shapes()))


def _cold_start(run: _Run) -> None:
    from stratoscope.measure.cold_start import measure_cold_start

    with _optional(run, "cold start"):
        run.sections["cold_start"] = measure_cold_start(run.plan.backend, run.model, run.plan.options)


def _cold_states(run: _Run) -> None:
    """A cold start from every state; it is all of the run, so what hinders it ends it."""
    from stratoscope.measure.cold_states import measure_cold_states

    run.sections["cold_start"], run.spans = measure_cold_states(
        run.plan.backend,
        run.model,
        run.plan.options,
        seed=run.plan.scenario.seeds.inputs,
        on_progress=lambda text: run.report(text, None),
    )


@contextmanager
def _session(run: _Run) -> Iterator[Session]:
    session = run.backend.load(run.model, run.plan.options)
    run.options = dict(session.effective_options)
    try:
        yield session
    finally:
        session.close()


def _load(run: _Run) -> None:
    from stratoscope.measure.inputs import make_inputs
    from stratoscope.measure.load import run_load
    from stratoscope.measure.outputs import outputs_digest

    if run.plan.trace_load:
        _traced_load(run)
        return
    with _session(run) as session:
        result = run_load(
            session,
            run.model,
            run.plan.scenario,
            on_progress=lambda text: run.report(text, None),
            log_dir=run.plan.log_dir,
        )
        feeds = make_inputs(run.model, 1, run.plan.scenario.seeds.inputs)[0]
        run.sections["outputs_sha256"] = outputs_digest(session.run(feeds))
    run.sections["load"] = result.section
    run.samples = result.samples
    if result.interrupted:
        run.interrupted = "Ctrl-C during the load"


def _traced_load(run: _Run) -> None:
    """A load that ends with a trace of its requests, for the attribution of the slow ones."""
    from stratoscope.backends.base import TracingBackend
    from stratoscope.errors import MeasurementError
    from stratoscope.measure.leveled_load import run_traced_load

    if not isinstance(run.backend, TracingBackend):
        raise MeasurementError(
            f"back end {run.backend.name} does not trace layers request by request", hint="leave --trace out"
        )
    result, run.spans = run_traced_load(
        run.backend,
        run.model,
        run.plan.options,
        run.plan.scenario,
        on_progress=lambda text: run.report(text, None),
        log_dir=run.plan.log_dir,
    )
    run.sections["load"] = result.section
    run.samples = result.samples
    if result.interrupted:
        run.interrupted = "Ctrl-C during the load"


def _accuracy(run: _Run) -> None:
    from stratoscope.measure.accuracy import measure_accuracy
    from stratoscope.models.datasets import dataset_for

    dataset = dataset_for(run.model)
    if dataset is None:
        run.unavailable.append(
            Unavailable(
                what="accuracy", why=f"no labelled data set for {run.model.name}: its weights are seeded or unknown"
            )
        )
        return
    with _optional(run, "accuracy"), _session(run) as session:
        run.sections["accuracy"] = measure_accuracy(session, dataset)


def _profile(run: _Run) -> None:
    from stratoscope.measure.inputs import make_inputs
    from stratoscope.measure.leveled import profile_layers
    from stratoscope.trace.levels import Level

    if run.plan.mode is not Mode.INFER or run.plan.profile_level is not None:
        _by_mode(run)
        return
    reason = run.capabilities.levels.get(Level.LAYER, "the back end does not trace layers")
    if reason is not None:
        run.unavailable.append(Unavailable(what="layer profile", why=reason))
        return
    with _optional(run, "layer profile"):
        feeds = make_inputs(run.model, 1, run.plan.scenario.seeds.inputs)[0]
        run.sections["profile"], run.spans = profile_layers(
            run.backend,
            run.model,
            run.plan.options,
            feeds,
            budget_s=run.plan.profile_budget_s,
            on_progress=lambda text: run.report(text, None),
        )


def _by_mode(run: _Run) -> None:
    """Training, generation, or a profile below the layer; what hinders it ends the run, for it is all of the run."""
    from stratoscope.measure.inputs import make_inputs
    from stratoscope.trace.levels import Level

    feeds = make_inputs(run.model, 1, run.plan.scenario.seeds.inputs)[0]
    level = None if run.plan.profile_level is None else Level[run.plan.profile_level.name]
    backend: Any = run.backend
    if run.plan.mode is Mode.GENERATE:
        from stratoscope.measure.generation import NEW_TOKENS, measure_generation

        session = _able(run, "generation")(run.model, run.plan.options)
        run.options = dict(session.effective_options)
        run.sections["generation"], run.spans = measure_generation(
            session, feeds, budget_s=run.plan.profile_budget_s, new_tokens=run.plan.new_tokens or NEW_TOKENS
        )
        return
    if run.plan.mode is Mode.TRAIN:
        from stratoscope.measure.training import measure_training

        backend = _able(run, "training")()
        budget_s = run.plan.profile_budget_s / 2
        section = measure_training(backend, run.model, run.plan.options, feeds, budget_s=budget_s)
        run.sections["training"] = section
    if level is not None:
        _profile_levels(run, backend, feeds, level)


def _able(run: _Run, what: str) -> Callable[..., Any]:
    """The back end's way to do `what`; raises BackendError where it has none."""
    found: Callable[..., Any] | None = getattr(run.backend, what, None)
    if found is None:
        raise BackendError(f"back end {run.backend.name!r} has no {what}", hint="--backend pytorch has")
    return found


def _profile_levels(run: _Run, backend: Backend, feeds: Feeds, level: Level) -> None:
    """A leveled experiment down to `level`."""
    from stratoscope.host.performance_counters import why_no_counters
    from stratoscope.measure.leveled_deep import profile_levels
    from stratoscope.measure.leveled_plan import plan_levels
    from stratoscope.trace.levels import Level

    plan = plan_levels(backend, run.plan.options, level)
    deep = profile_levels(
        cast("TracingBackend", backend),
        run.model,
        run.plan.options,
        feeds,
        plan,
        repeats=run.plan.profile_repeats,
        budget_s=run.plan.profile_budget_s,
        seed=run.plan.scenario.seeds.inputs,
        on_progress=lambda text: run.report(text, None),
    )
    run.sections["profile"], run.spans = deep.section, deep.spans
    if run.plan.mode is Mode.TRAIN and plan.levels[0] == Level.LAYER:
        from stratoscope.measure.training import phases_of

        names = ("forward", "loss", "backward", "optimizer")
        phases = phases_of(deep.spans.filter(pl.col("run") < deep.section.repeats), names)
        run.sections["training"] = run.sections["training"].model_copy(update={"phases": phases})
    run.options = dict(deep.options)
    run.unavailable.extend(deep.missing)
    if level == Level.HARDWARE:
        why = why_no_counters() or "counters of the machine are not joined with spans"
        run.unavailable.append(Unavailable(what="hardware level", why=why))


def _sweep(run: _Run) -> None:
    from stratoscope.measure.sweep import SweepInterrupted, batch_sweep

    if run.model.batch_axis is None:
        run.unavailable.append(Unavailable(what="batch sweep", why="the graph's batch size is fixed"))
        return
    sizes = [1]
    while sizes[-1] * 2 <= run.plan.max_batch:
        sizes.append(sizes[-1] * 2)
    with _optional(run, "batch sweep"):
        try:
            run.sections["sweep"] = batch_sweep(
                run.backend,
                run.model,
                run.plan.options,
                sizes=sizes,
                budget_s=run.plan.sweep_budget_s,
                rebind=with_batch,
                seed=run.plan.scenario.seeds.inputs,
                on_progress=lambda text: run.report(text, None),
            )
        except SweepInterrupted as stopped:
            run.sections["sweep"] = stopped.section
            raise


def _record(run: _Run) -> RunRecord:
    """Binds the sections, the environment and the five digests."""
    hardware = capture_hardware()
    software = capture_software(run.capabilities.distributions)
    requested = run.plan.options.model_dump(mode="json")
    dataset = DatasetManifest(
        id="generated",
        samples=run.plan.scenario.performance_samples,
        generated=GeneratedInputs(seed=run.plan.scenario.seeds.inputs),
    )
    digests = Digests(
        model=run.model.manifest.digest(),
        dataset=dataset.digest(),
        software=digest_of({"software": software.digest(), "backend": run.backend.name, "options": requested}),
        hardware=hardware.digest(),
        scenario=run.plan.scenario.digest(),
    )
    levels = tuple(level.name.lower() for level, reason in run.capabilities.levels.items() if reason is None)
    return RunRecord(
        id=new_run_id(),
        created_at=datetime.now(UTC),
        command=run.plan.command,
        status="interrupted" if run.interrupted else "complete",
        status_reason=run.interrupted,
        digests=digests,
        key=digests.key(),
        model=run.model.manifest,
        scenario=run.plan.scenario,
        software=software.model_dump(mode="json", by_alias=True),
        hardware=hardware.model_dump(mode="json", by_alias=True),
        dataset=dataset.model_dump(mode="json", by_alias=True),
        backend=BackendRecord(
            name=run.backend.name,
            version=run.capabilities.version,
            options=run.options,
            requested=requested,
            levels=levels,
        ),
        unavailable=tuple(run.unavailable),
        **run.sections,
    )
