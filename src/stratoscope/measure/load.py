"""Puts a load on a loaded model: warm-up, the scenario, and the same load on nothing to judge the client."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from stratoscope.backends.base import Feeds, Session
from stratoscope.errors import MeasurementError
from stratoscope.measure.client import NULL_CALL_NS, judge_client, null_scenario
from stratoscope.measure.clock import RealClock
from stratoscope.measure.inputs import make_inputs
from stratoscope.measure.load_section import build_section
from stratoscope.measure.loadgen import loadgen_missing, run_loadgen
from stratoscope.measure.openloop import run_concurrency, run_schedule
from stratoscope.measure.schedule import Schedule, constant_rate, read_trace
from stratoscope.measure.scheduler import run_mlperf
from stratoscope.measure.timeline import Timeline
from stratoscope.spec.model import LoadableModel
from stratoscope.spec.record import ClientVerdict, LoadSection
from stratoscope.spec.scenario import ScenarioKind, ScenarioManifest
from stratoscope.stats.quantity import Quantity

Call = Callable[[], object]
Progress = Callable[[str], None]

#: Part of the measured capacity at which an open loop is driven where no rate is given: busy, and not yet saturated.
LOAD_FACTOR = 0.7
#: The server scenario's latency bound where none is given, as a multiple of the latency of one query alone.
LATENCY_FACTOR = 10
#: Calls that estimate the latency where no warm-up is asked for.
PILOT_CALLS = 3
CAPACITY_S = 0.3


@dataclass(frozen=True, slots=True)
class LoadResult:
    """The section, and one row a sample (Int64 columns query, sample, scheduled_ns, issued_ns, completed_ns)."""

    section: LoadSection
    samples: pl.DataFrame
    interrupted: bool


def run_load(
    session: Session,
    model: LoadableModel,
    scenario: ScenarioManifest,
    *,
    null_session_factory: Callable[[], Session] | None = None,
    on_progress: Progress | None = None,
    log_dir: Path | None = None,
) -> LoadResult:
    """Runs `scenario` on `session` and returns its section of the record with the raw samples.

    The four MLPerf scenarios run through LoadGen (on our own scheduler where it is not installed), the others on our
    own. Targets that the scenario leaves open are measured first and recorded in the section's scenario: the rate is
    70 % of the capacity with `concurrency` workers, the server's latency bound ten times the median latency. Ctrl-C
    keeps what was answered; before any answer it is raised on.

    Args:
        session: loaded at the scenario's batch size; runs of a session that is not concurrent need `concurrency` 1.
        null_session_factory: the null back end's session; default: latency 0 on the same model.
        log_dir: where to keep LoadGen's files.

    Raises:
        MeasurementError: the scenario contradicts itself or asks for more than can be held.
        BackendError: the model failed while it was measured.
    """
    report = on_progress or _silent
    _check(scenario)
    feeds = make_inputs(model, scenario.performance_samples, scenario.seeds.inputs)
    calls: Sequence[Call] = [session.bind(feed) for feed in feeds]
    report("warming up")
    call_ns = warm_up(calls, scenario)
    scenario = _with_targets(calls, scenario, call_ns, report)
    schedule, notes = _schedule(scenario)
    report(f"measuring {scenario.kind} for {scenario.min_duration_s:g} s or {scenario.min_queries} queries")
    timeline = _run(calls, scenario, call_ns, schedule, log_dir)
    if timeline.interrupted and timeline.query.size == 0:
        raise KeyboardInterrupt
    if notes:
        timeline = _with_notes(timeline, notes)
    if timeline.interrupted:
        why = "interrupted before the null load"
        client = ClientVerdict(
            bottleneck=None,
            overhead_per_query_s=Quantity.unavailable("s", why),
            send_lag_p99_s=Quantity.unavailable("s", why),
            reason=why,
        )
    else:
        report("judging the client")
        client = _judge(timeline, model, scenario, feeds, schedule, null_session_factory)
    return LoadResult(build_section(timeline, scenario, client), timeline.frame(), timeline.interrupted)


def warm_up(calls: Sequence[Call], scenario: ScenarioManifest) -> float:
    """Runs the warm-up, which no figure includes, and returns the median nanoseconds of a call in its second half."""
    clock = RealClock()
    durations: list[int] = []
    start = before = clock.now_ns()
    least = max(scenario.warmup_queries, PILOT_CALLS)
    while len(durations) < least or before - start < scenario.warmup_s * 1e9:
        calls[len(durations) % len(calls)]()
        after = clock.now_ns()
        durations.append(after - before)
        before = after
    return max(1.0, float(statistics.median(durations[len(durations) // 2 :])))


def _run(
    calls: Sequence[Call],
    scenario: ScenarioManifest,
    call_ns: float,
    schedule: Schedule | None,
    log_dir: Path | None = None,
) -> Timeline:
    if schedule is not None:
        return run_schedule(calls, schedule, scenario)
    if scenario.kind is ScenarioKind.CONCURRENCY:
        return run_concurrency(calls, scenario, call_ns)
    if loadgen_missing() is None:
        return run_loadgen(calls, scenario, call_ns, log_dir=log_dir)
    return run_mlperf(calls, scenario, call_ns)


def _check(scenario: ScenarioManifest) -> None:
    """Refuses what no field can refuse alone."""
    if scenario.mode != "performance":
        raise MeasurementError("a load is measured in performance mode", hint="accuracy is a section of its own")
    if scenario.max_duration_s < scenario.min_duration_s:
        raise MeasurementError(
            f"max_duration_s ({scenario.max_duration_s:g}) is below min_duration_s ({scenario.min_duration_s:g})",
            hint="raise the one or lower the other",
        )
    if scenario.kind is ScenarioKind.MULTI_STREAM and scenario.samples_per_query % scenario.batch_size:
        raise MeasurementError(
            f"{scenario.samples_per_query} samples a query do not divide into batches of {scenario.batch_size}",
            hint="choose a batch size that divides samples_per_query",
        )
    if scenario.kind is ScenarioKind.REPLAY and scenario.trace_file is None:
        raise MeasurementError("a replay needs a trace file", hint="set trace_file: one send time in seconds a line")


def _with_targets(
    calls: Sequence[Call], scenario: ScenarioManifest, call_ns: float, report: Progress
) -> ScenarioManifest:
    """The scenario with the rate and the latency bound that it leaves open."""
    update: dict[str, float] = {}
    needs_rate = scenario.kind in (ScenarioKind.SERVER, ScenarioKind.CONSTANT_RATE)
    if needs_rate and scenario.target_qps is None:
        report("measuring the capacity")
        closed = scenario.model_copy(
            update={
                "kind": ScenarioKind.CONCURRENCY,
                "min_duration_s": CAPACITY_S,
                "min_queries": 10 * scenario.concurrency,
            }
        )
        capacity = run_concurrency(calls, closed, call_ns)
        if capacity.interrupted:
            raise KeyboardInterrupt
        update["target_qps"] = _round(LOAD_FACTOR * capacity.queries / capacity.duration_s())
    if scenario.kind is ScenarioKind.SERVER and scenario.target_latency_s is None:
        update["target_latency_s"] = _round(LATENCY_FACTOR * call_ns / 1e9)
    return scenario.model_copy(update=update)


def _round(value: float) -> float:
    """Three significant digits: a target is chosen, not measured."""
    return float(f"{value:.3g}")


def _schedule(scenario: ScenarioManifest) -> tuple[Schedule | None, tuple[str, ...]]:
    """Send times of the scenarios that have them before they start, and notes on them."""
    if scenario.kind is ScenarioKind.CONSTANT_RATE:
        assert scenario.target_qps is not None
        return constant_rate(scenario.target_qps, scenario.min_duration_s, scenario.min_queries), ()
    if scenario.kind is ScenarioKind.REPLAY:
        assert scenario.trace_file is not None
        schedule, note = read_trace(Path(scenario.trace_file), scenario.max_duration_s)
        return schedule, () if note is None else (note,)
    return None, ()


def _judge(
    timeline: Timeline,
    model: LoadableModel,
    scenario: ScenarioManifest,
    feeds: Sequence[Feeds],
    schedule: Schedule | None,
    null_session_factory: Callable[[], Session] | None,
) -> ClientVerdict:
    """The same load, briefly, on the null back end."""
    null_session = (null_session_factory or (lambda: _null_session(model)))()
    brief = null_scenario(scenario)
    try:
        null_calls = [null_session.bind(feed) for feed in feeds]
        if schedule is not None:
            schedule = schedule[schedule <= math.ceil(brief.min_duration_s * 1e9)]
        null = _run(null_calls, brief, NULL_CALL_NS, schedule)
    finally:
        null_session.close()
    return judge_client(timeline, null, scenario)


def _null_session(model: LoadableModel) -> Session:
    from stratoscope.backends.null import NullBackend
    from stratoscope.spec.options import BackendOptions

    return NullBackend().load(model, BackendOptions(null_latency_s=0))


def _with_notes(timeline: Timeline, notes: tuple[str, ...]) -> Timeline:
    return replace(timeline, notes=timeline.notes + notes)


def _silent(text: str) -> None:
    """Progress that nobody watches."""
