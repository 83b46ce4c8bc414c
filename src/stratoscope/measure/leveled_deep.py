"""Leveled profiling below the layer: M, M/L, M/L/O, M/L/O/Lib, interleaved in random blocks beside a control.

Each level's times come only from the runs whose deepest level it is, for deeper tracing inflates what contains the
deeper events (XSP, section III-C). What each level costs is measured against the runs one level less deep and against
the unprofiled ones, with an interval, or is called below the noise.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stratoscope.backends.base import BackendOptions, Feeds, TracingBackend
from stratoscope.errors import MeasurementError
from stratoscope.host.noise import Observation, observe
from stratoscope.measure.leveled import (
    below_noise,
    checks_of,
    gap_between_layers,
    judged,
    paired_by_block,
    sum_of_layers,
)
from stratoscope.measure.leveled_below import operator_rows, primitive_rows, reorders_of
from stratoscope.measure.leveled_join import executed_model
from stratoscope.measure.leveled_plan import LeveledSessions, LevelPlan, name_of, open_level, open_leveled
from stratoscope.measure.leveled_rows import ProfiledRuns, closest_to_median, layer_rows
from stratoscope.measure.leveled_runs import (
    CONTROL,
    PLAIN,
    Runs,
    Schedule,
    block_medians,
    interleave,
    kept_spans,
    warm_up,
    with_waits,
)
from stratoscope.measure.leveled_serialised import with_serialised_parents
from stratoscope.measure.reconstruction import reconstructions
from stratoscope.spec.model import LoadableModel
from stratoscope.spec.profile import LevelCost
from stratoscope.spec.record import LayerRow, ProfileSection, Unavailable
from stratoscope.stats.estimators import estimate
from stratoscope.stats.noise import GateResult, gate
from stratoscope.stats.quantity import Quantity
from stratoscope.trace.check import check_conservation
from stratoscope.trace.levels import Level
from stratoscope.trace.spans import SPAN_SCHEMA

BLOCKS: Final = 12
BUDGET_S: Final = 20.0
_SERIAL_REPEATS: Final = 2
_NS: Final = 1e-9

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LevelRuns:
    """The accepted inferences of one level: their spans, runs counted from 0, model times, and medians by block."""

    level: Level
    spans: pl.DataFrame
    model_s: Floats
    medians: Mapping[int, float]
    all_recorded: bool
    unplaced: int

    @property
    def spans_a_run(self) -> float:
        """Spans of one inference below the model."""
        return self.spans.height / max(1, len(self.model_s)) - 1


@dataclass(frozen=True, slots=True)
class DeepProfile:
    """A profile with its spans (of all levels; each model span tells its run's deepest) and the levels it lacks."""

    section: ProfileSection
    spans: pl.DataFrame
    missing: tuple[Unavailable, ...]
    options: Mapping[str, object]


def profile_levels(
    backend: TracingBackend,
    model: LoadableModel,
    options: BackendOptions,
    feeds: Feeds,
    plan: LevelPlan,
    *,
    repeats: int | None = None,
    blocks: int = BLOCKS,
    budget_s: float = BUDGET_S,
    seed: int = 0,
    on_progress: Callable[[str], None] | None = None,
) -> DeepProfile:
    """The profile of `model` at the levels of `plan`.

    Args:
        plan: from `leveled_plan.plan_levels`.
        repeats: inferences of each configuration; None: as many as `budget_s` has room for.
        blocks: rounds of all configurations; order within each is random, from `seed`.
        budget_s: seconds for the inferences, loading apart.

    Raises:
        MeasurementError: a trace holds no spans at a level.
        BackendError: the model does not load or run.
    """
    if blocks < 1 or (repeats is not None and repeats < 1) or budget_s <= 0:
        raise MeasurementError("a profile needs at least one block and one repeat, and a budget above zero")
    report = on_progress or _silent
    report("profile: reading the executed graph")
    executed = executed_model(backend, model, options)
    report("profile: loading")
    with open_leveled(backend, model, options, feeds, plan.levels, executed.size_bytes) as sessions:
        measured = _measure(sessions, (repeats, blocks, budget_s, seed), report)
    runs, verdicts = measured.runs, {name: one.gate() for name, one in measured.runs.items()}
    serial = _serialiser(backend, model, options, feeds)
    levels = [
        _level_runs(level, spans, runs[name_of(level)], verdicts[name_of(level)], model.name, serial(level))
        for level, spans in measured.traces.items()
    ]
    unprofiled = _Unprofiled(runs, verdicts)
    costs = _costs(levels, unprofiled)
    section = _section(backend.name, levels, unprofiled, costs, measured.observation, verdicts)
    shallow = levels[0]
    if shallow.level == Level.LAYER:
        profiled = ProfiledRuns.of(shallow.spans)
        rows = layer_rows(profiled, executed, closest_to_median(profiled.model_s()), "trimmed_mean")
        section = section.model_copy(update=_layer_fields(shallow, profiled, rows))
    report("profile: cost of a span")
    section = section.model_copy(
        update=_below(levels)
        | {
            "reconstructions": reconstructions(backend, options, [(one.level, one.spans) for one in levels], section),
            "note": _note(measured.schedule, seed, levels, sessions.separate_control),
        }
    )
    spans = _all_spans(levels, unprofiled, model)
    return DeepProfile(section, spans, (*plan.missing, *sessions.lost), sessions.effective_options)


@dataclass(frozen=True, slots=True)
class _Measured:
    """The runs of all configurations, the traces of the levels, and how they were made."""

    runs: dict[str, Runs]
    traces: dict[Level, pl.DataFrame]
    schedule: Schedule
    observation: Observation


def _measure(
    sessions: LeveledSessions, plan: tuple[int | None, int, float, int], report: Callable[[str], None]
) -> _Measured:
    """Warms up and runs all configurations; `plan` is repeats, blocks, budget in seconds and seed."""
    repeats, blocks, budget_s, seed = plan
    # `Schedule` plans for three configurations: ours share the budget.
    shared_s = budget_s * 3 / len(sessions.calls)
    schedule = Schedule.plan(warm_up(sessions), shared_s, blocks=blocks, repeats=repeats)
    with observe() as observation:
        runs = interleave(sessions, schedule, seed, report)
    report("profile: reading the traces")
    traces = {level: session.finish() for level, session in sessions.traces.items()}
    return _Measured(runs, traces, schedule, observation)


class _Unprofiled:
    """The unprofiled inferences and their control."""

    def __init__(self, runs: Mapping[str, Runs], verdicts: Mapping[str, GateResult]) -> None:
        plain, control = runs[PLAIN], runs[CONTROL]
        accepted = verdicts[PLAIN].accepted
        durations = np.asarray(plain.duration_ns)
        self.model_s: Floats = durations[accepted] * _NS
        self.starts = [snapshot.wall_ns for snapshot, ok in zip(plain.before, accepted, strict=True) if ok]
        self.medians = block_medians(plain, durations * _NS, accepted)
        beside = block_medians(control, np.asarray(control.duration_ns) * _NS, verdicts[CONTROL].accepted)
        self.control: Quantity = paired_by_block(beside, self.medians)


def _level_runs(
    level: Level,
    spans: pl.DataFrame,
    runs: Runs,
    verdict: GateResult,
    name: str,
    serialised: Callable[[], pl.DataFrame],
) -> LevelRuns:
    calls = np.asarray(runs.call)
    recorded = np.isin(calls, spans["run"].unique().to_numpy())
    accepted = _own_gate(spans, calls, verdict).accepted & recorded
    watched = with_waits(kept_spans(spans, calls[accepted].tolist()), runs, accepted)
    kept, unplaced = with_serialised_parents(watched, serialised)
    models = kept.filter(pl.col("level") == Level.MODEL.value).sort("run")
    if models.height != int(accepted.sum()) or models.height == 0:
        raise MeasurementError(f"the {name_of(level)} trace of model {name!r} has not one model span an inference")
    if kept.filter(pl.col("level") > Level.MODEL.value).height == 0:
        raise MeasurementError(f"the {name_of(level)} trace of model {name!r} holds no spans below the model")
    model_s = (models["end_ns"] - models["start_ns"]).to_numpy().astype(np.float64) * _NS
    durations = np.zeros(accepted.size)
    durations[accepted] = model_s  # the back end's own span: without what tracing does around it
    return LevelRuns(level, kept, model_s, block_medians(runs, durations, accepted), bool(recorded.all()), unplaced)


def _own_gate(spans: pl.DataFrame, calls: NDArray[np.int64], verdict: GateResult) -> GateResult:
    """The verdict on what disturbed the thread that did the work, where that was in another process and tells it."""
    models = spans.filter(pl.col("level") == Level.MODEL.value).select("run", "attributes")
    told = {run: json.loads(text or "{}").get("noise") for run, text in models.iter_rows()}
    found = [told.get(int(call)) for call in calls]
    if not found or any(one is None for one in found):
        return verdict
    waits = [one["wait_ns"] for one in found if one is not None]
    return gate(
        [one["wall_ns"] for one in found if one is not None],
        [one["cpu_ns"] for one in found if one is not None],
        None if None in waits else waits,
    )


def _serialiser(
    backend: TracingBackend, model: LoadableModel, options: BackendOptions, feeds: Feeds
) -> Callable[[Level], Callable[[], pl.DataFrame]]:
    """Traces a few inferences in which nothing runs side by side."""
    serial = options.model_copy(update={"threads": 1, "inter_threads": 1})

    def at(level: Level) -> Callable[[], pl.DataFrame]:
        def trace() -> pl.DataFrame:
            session = open_level(backend, model, serial, level)
            try:
                call = session.bind(feeds)
                for _ in range(_SERIAL_REPEATS):
                    call()
                spans = session.finish()
            finally:
                session.close()
            return spans.filter(pl.col("run") == _SERIAL_REPEATS - 1)

        return trace

    return at


def _costs(levels: list[LevelRuns], unprofiled: _Unprofiled) -> tuple[LevelCost, ...]:
    result = []
    before: Mapping[int, float] = unprofiled.medians
    for one in levels:
        total = paired_by_block(dict(one.medians), dict(unprofiled.medians))
        result.append(
            LevelCost(
                level=name_of(one.level),
                repeats=len(one.model_s),
                spans=one.spans_a_run,
                model_time=estimate(one.model_s, "s", "median"),
                added=paired_by_block(dict(one.medians), dict(before)),
                total=total,
                below_noise=below_noise(total, unprofiled.control),
            )
        )
        before = one.medians
    return tuple(result)


def _section(
    backend: str,
    levels: list[LevelRuns],
    unprofiled: _Unprofiled,
    costs: tuple[LevelCost, ...],
    observation: Observation,
    verdicts: dict[str, GateResult],
) -> ProfileSection:
    first, why = costs[0], "no runs have the layer as their deepest level"
    return ProfileSection(
        backend=backend,
        repeats=first.repeats,
        model_time=estimate(unprofiled.model_s, "s", "median"),
        profiled_model_time=first.model_time,
        overhead=first.total,
        overhead_below_noise=first.below_noise,
        control=unprofiled.control,
        layers_sum=Quantity.unavailable("s", why, "trimmed_mean"),
        gap=Quantity.unavailable("s", why, "trimmed_mean"),
        layers=(),
        checks=_checks(levels),
        noise=observation.record(*judged(verdicts)),
        levels=costs,
    )


def _layer_fields(runs: LevelRuns, profiled: ProfiledRuns, rows: list[LayerRow]) -> dict[str, object]:
    return {"layers_sum": sum_of_layers(profiled), "gap": gap_between_layers(profiled), "layers": tuple(rows)}


def _checks(levels: list[LevelRuns]) -> dict[str, bool]:
    """Conservation at each level, and that the levels see the same layers; the layer level's keep their plain names."""
    checks: dict[str, bool] = {}
    layer_sites: set[str] | None = None
    for one in levels:
        found = check_conservation(one.spans)
        if one.level == Level.LAYER:
            checks |= checks_of(found, ProfiledRuns.of(one.spans), one.all_recorded)
        else:
            where = f"at_{name_of(one.level)}_level"
            checks |= {f"{name}_{where}": holds for name, holds in found.holds.items()}
            checks[f"all_repeats_recorded_{where}"] = one.all_recorded
            checks[f"every_span_placed_{where}"] = one.unplaced == 0
        sites = set(one.spans.filter(pl.col("level") == Level.LAYER.value)["site"].to_list())
        if layer_sites is not None and layer_sites:
            checks[f"same_layers_at_{name_of(one.level)}_level"] = sites == layer_sites
        layer_sites = sites if layer_sites is None else layer_sites
    return checks


def _below(levels: list[LevelRuns]) -> dict[str, object]:
    """Operators, primitives and reorders, each from the runs of its own level."""
    fields: dict[str, object] = {}
    for one in levels:
        if one.level == Level.OPERATOR:
            fields["operators"] = tuple(operator_rows(one.spans))
        elif one.level in (Level.LIBRARY, Level.KERNEL):
            fields["primitives"] = tuple(primitive_rows(one.spans, one.level, one.model_s))
            fields["reorders"] = reorders_of(one.spans, one.model_s)
    return fields


def _note(schedule: Schedule, seed: int, levels: list[LevelRuns], separate: bool) -> str:
    names = ", ".join(name_of(one.level) for one in levels)
    parts = [
        f"Unprofiled, control and {names} runs in {schedule.blocks} blocks of {schedule.repeats} each, in random order "
        f"(seed {seed}), {schedule.dropped or 'none'} dropped at each change. Model times are medians, times of "
        "layers, operators and primitives 20 % trimmed means, each from the runs whose deepest level is its own; "
        "overheads are medians of the blocks' differences."
    ]
    if any('"container": true' in (text or "") for text in levels[0].spans["attributes"].to_list()):
        parts.append("A module that contains others counts with its own time.")
    if any(one.level == Level.LIBRARY for one in levels):
        parts.append("Primitives are traced in a process of their own.")
    if not separate:
        parts.append("The control is the unprofiled session once more: memory has no room for another copy.")
    for one in levels:
        details = check_conservation(one.spans).details
        parts.extend(f"At the {name_of(one.level)} level check {name} fails: {why}." for name, why in details.items())
    return " ".join(parts)


def _all_spans(levels: list[LevelRuns], unprofiled: _Unprofiled, model: LoadableModel) -> pl.DataFrame:
    """The spans of all levels in one table: runs and ids renumbered, the deepest level told by each model span."""
    frames: list[pl.DataFrame] = []
    run = span = 0
    for one in levels:
        frames.append(_renumbered(one.spans, span, run, one.level))
        run += len(one.model_s)
        span += int(one.spans["span"].max() or 0) + 1  # type: ignore[arg-type]
    frames.append(_plain_spans(unprofiled, model.name, span, run))
    return pl.concat(frames)


def _renumbered(spans: pl.DataFrame, first_span: int, first_run: int, level: Level) -> pl.DataFrame:
    told = [
        json.dumps({**json.loads(text or "{}"), "deepest": level.value}) if at == Level.MODEL.value else text
        for at, text in spans.select("level", "attributes").iter_rows()
    ]
    return spans.with_columns(
        span=pl.col("span") + first_span,
        parent=pl.col("parent") + first_span,
        run=(pl.col("run") + first_run).cast(SPAN_SCHEMA["run"]),
        attributes=pl.Series(told, dtype=pl.String),
    )


def _plain_spans(unprofiled: _Unprofiled, name: str, first_span: int, first_run: int) -> pl.DataFrame:
    """One model span for each unprofiled inference."""
    told = json.dumps({"deepest": Level.MODEL.value})
    rows = [
        (first_span + at, None, 20, "sync", name, 0, start, start + round(took * 1e9), 0, first_run + at, None, told)
        for at, (start, took) in enumerate(zip(unprofiled.starts, unprofiled.model_s, strict=True))
    ]
    escaped = name.replace("\\", "\\\\").replace("|", "\\|")
    frame = pl.DataFrame(rows, schema=SPAN_SCHEMA, orient="row")
    return frame.with_columns(site=pl.lit(f"{Level.MODEL.value}:{escaped}#0"))


def _silent(text: str) -> None:
    """Progress that nobody watches."""
