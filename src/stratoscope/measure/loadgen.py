"""Drives MLPerf LoadGen: its schedule, its clock and its verdict, around calls of a bound model.

LoadGen is a C++ singleton that calls back from its own frames. Three facts shape this module: an exception that crosses
those frames, and a process that ends while they are alive, are segmentation faults; and it cannot be told to stop. So
nothing is raised inside a callback, and Ctrl-C makes the callbacks answer at once until LoadGen comes to its end.
"""

from __future__ import annotations

import importlib.util
import math
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final

import numpy as np

from stratoscope.errors import MeasurementError
from stratoscope.measure.loadgen_logs import check_whole, read_detail, read_samples, read_summary
from stratoscope.measure.noise_blocks import NoiseBlocks, block_calls
from stratoscope.measure.timeline import Timeline
from stratoscope.measure.waiting import start_and_wait, start_lasting
from stratoscope.spec.scenario import MLPERF_SCENARIOS, ScenarioKind, ScenarioManifest

Call = Callable[[], object]

#: Samples that LoadGen may generate; before it starts, it makes twice those that it expects, some 300 bytes each.
MAX_GENERATED: Final = 2_000_000
#: Queries are expected to be so much faster than they were seen, or LoadGen runs out of generated ones.
MARGIN: Final = 2.0
#: The offline query is made so much larger than needed; LoadGen adds a tenth itself.
OFFLINE_MARGIN: Final = 1.2
#: Server: more outstanding queries than arrive in this time end the run, which is also how Ctrl-C ends it.
OUTSTANDING_S: Final = 2.0
LEAST_OUTSTANDING: Final = 64

_one_at_a_time = threading.Lock()  # LoadGen is a singleton of the process


def loadgen_missing() -> str | None:
    """None where LoadGen can be imported, else why not."""
    if importlib.util.find_spec("mlperf_loadgen") is None:
        return "mlcommons-loadgen is not installed (it has no wheel for this platform)"
    return None


@dataclass(slots=True)
class _State:
    """What the callbacks and the waiting thread share."""

    complete: Callable[[list[Any]], None]
    response: Callable[[int, int, int], Any]
    stopping: bool = False
    unserved: int = 0
    error: BaseException | None = None
    held: list[int] = field(default_factory=list)

    def fail(self, error: BaseException) -> None:
        """Keeps the first error for the waiting thread and stops serving."""
        self.error = self.error or error
        self.stopping = True

    def absorb(self, step: Callable[[], None]) -> None:
        """Does a step of ours inside a callback: what it raises is kept, as `fail` does, and does not cross LoadGen."""
        try:
            step()
        except BaseException as error:  # noqa: BLE001 - would cross LoadGen's frames; raised again by run_loadgen
            self.fail(error)

    def stop(self) -> None:
        """From here on, nothing is run."""
        self.stopping = True

    def answer_unserved(self, ids: Sequence[int]) -> None:
        """Answers samples that were never run, so that LoadGen goes on."""
        self.unserved += len(ids)
        self.complete([self.response(i, 0, 0) for i in ids])


def run_loadgen(
    calls: Sequence[Call],
    scenario: ScenarioManifest,
    call_ns: float,
    *,
    log_dir: Path | None = None,
) -> Timeline:
    """Runs one MLPerf scenario against `calls` (one a prepared input) and returns every sample with LoadGen's results.

    Args:
        scenario: with a target rate and latency for the server scenario; `batch_size` samples share a call in the
            multi-stream and offline scenarios.
        call_ns: about how long a call takes; decides how many queries LoadGen prepares.
        log_dir: where to keep LoadGen's files; they are written to a temporary folder otherwise.

    Raises:
        MeasurementError: LoadGen is missing, the scenario is not one of MLPerf's or asks for too many queries, or
            LoadGen's files are not whole.
        Exception: whatever a call raised.
    """
    if (missing := loadgen_missing()) is not None:
        raise MeasurementError(f"scenario {scenario.kind} through LoadGen: {missing}")
    if log_dir is not None:
        try:
            log_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MeasurementError(f"cannot keep LoadGen's files in {log_dir}: {error.strerror}") from error
    with tempfile.TemporaryDirectory(prefix="stratoscope-loadgen-") as temporary, _one_at_a_time:
        folder = log_dir or Path(temporary)
        state, noise = _run(calls, scenario, call_ns, folder)
        if state.error is not None:
            raise state.error
        interrupted = state.stopping
        query, sample, scheduled, issued, completed = read_samples(folder)
        if state.unserved:
            served = np.sort(np.argsort(completed, kind="stable")[: completed.size - state.unserved])
            query, sample, scheduled, issued, completed = (
                column[served] for column in (query, sample, scheduled, issued, completed)
            )
        results = {} if interrupted else read_detail(folder) | {"summary": read_summary(folder)}
        if not interrupted:
            check_whole(folder, query.size, results)
    return Timeline(
        query=query,
        sample=sample,
        scheduled_ns=scheduled,
        issued_ns=issued,
        completed_ns=completed,
        noise=noise.record(),
        interrupted=interrupted,
        source="loadgen",
        loadgen=results,
    )


def _run(calls: Sequence[Call], scenario: ScenarioManifest, call_ns: float, folder: Path) -> tuple[_State, NoiseBlocks]:
    """One test in a thread of its own, while this thread waits for it and for Ctrl-C."""
    import mlperf_loadgen as lg

    settings = _settings(lg, scenario, call_ns, len(calls))
    state = _State(lg.QuerySamplesComplete, lg.QuerySampleResponse)
    noise = NoiseBlocks()
    issue, flush = _system_under_test(calls, scenario, call_ns, state, noise)

    def flush_and_stop() -> None:
        flush()
        state.absorb(noise.stop)

    sut = lg.ConstructFastSUT(issue, flush_and_stop)
    # LoadGen loads the samples in the thread that will issue, before the first query.
    qsl = lg.ConstructQSL(
        len(calls), len(calls), lambda _: state.absorb(noise.start), lambda _: state.absorb(noise.stop)
    )
    arguments = (sut, qsl, settings, _log_settings(lg, folder), "")
    # Each Ctrl-C is absorbed, a second one too: LoadGen must come to its end.
    start_and_wait([lambda: lg.StartTestWithLogSettings(*arguments)], state.stop)
    lg.DestroyQSL(qsl)
    lg.DestroyFastSUT(sut)
    return state, noise


def _system_under_test(
    calls: Sequence[Call], scenario: ScenarioManifest, call_ns: float, state: _State, noise: NoiseBlocks
) -> tuple[Callable[[list[int], list[int]], None], Callable[[], None]]:
    """The two callbacks: issue a query (ids, input numbers), and flush after the last one."""
    if scenario.kind is ScenarioKind.SERVER:
        return _queued(calls, scenario, state, noise)
    if scenario.kind is ScenarioKind.SINGLE_STREAM:
        return _one_by_one(calls, call_ns, state, noise), lambda: None
    return _in_batches(calls, scenario.batch_size, call_ns, state, noise), lambda: None


def _one_by_one(
    calls: Sequence[Call], call_ns: float, state: _State, noise: NoiseBlocks
) -> Callable[[list[int], list[int]], None]:
    """Single-stream: the hot path of the whole tool, so it builds nothing and logs nothing."""
    block = left = block_calls(call_ns)
    complete, response = state.complete, state.response(0, 0, 0)
    responses = [response]

    def issue(ids: list[int], indices: list[int]) -> None:
        nonlocal left
        if state.stopping:
            state.answer_unserved(ids)
            return
        try:
            calls[indices[0]]()
        except BaseException as error:  # noqa: BLE001 - would cross LoadGen's frames; raised again by run_loadgen
            state.fail(error)
            state.answer_unserved(ids)
            return
        response.id = ids[0]
        complete(responses)
        left -= 1
        if not left:
            left = block
            state.absorb(noise.mark)

    return issue


def _in_batches(
    calls: Sequence[Call], batch: int, call_ns: float, state: _State, noise: NoiseBlocks
) -> Callable[[list[int], list[int]], None]:
    """Multi-stream and offline: `batch` samples a call, answered as soon as their call has ended.

    A call takes the prepared batch that is numbered as its first sample; the last one of a query may be partly filled,
    and then takes as long as a full one.
    """
    block = left = block_calls(call_ns)
    complete, response = state.complete, state.response

    def issue(ids: list[int], indices: list[int]) -> None:
        nonlocal left
        for start in range(0, len(ids), batch):
            if state.stopping:
                state.answer_unserved(ids[start:])
                return
            try:
                calls[indices[start]]()
            except BaseException as error:  # noqa: BLE001 - would cross LoadGen's frames; raised again by run_loadgen
                state.fail(error)
                state.answer_unserved(ids[start:])
                return
            complete([response(i, 0, 0) for i in ids[start : start + batch]])
            left -= 1
            if not left:
                left = block
                state.absorb(noise.mark)

    return issue


def _queued(
    calls: Sequence[Call], scenario: ScenarioManifest, state: _State, noise: NoiseBlocks
) -> tuple[Callable[[list[int], list[int]], None], Callable[[], None]]:
    """Server: the issuing thread only queues, so that the next query is never sent late; workers run the calls."""
    work: SimpleQueue[tuple[int, int] | None] = SimpleQueue()
    assert scenario.target_qps is not None
    block = left = block_calls(1e9 / scenario.target_qps)

    def serve() -> None:
        response = state.response(0, 0, 0)
        responses = [response]
        while (item := work.get()) is not None:
            if state.stopping:
                state.held.append(item[0])
                continue
            try:
                calls[item[1]]()
            except BaseException as error:  # noqa: BLE001 - a worker that dies would leave LoadGen waiting for ever
                state.fail(error)
                state.held.append(item[0])
                continue
            response.id = item[0]
            state.complete(responses)

    workers = [start_lasting(serve) for _ in range(scenario.concurrency)]

    def issue(ids: list[int], indices: list[int]) -> None:
        nonlocal left
        if state.stopping:  # unanswered queries pile up until LoadGen ends the run
            state.held.extend(ids)
            return
        work.put((ids[0], indices[0]))
        left -= 1
        if not left:
            left = block
            state.absorb(noise.mark)

    def flush() -> None:
        for _ in workers:
            work.put(None)
        for ended in workers:
            ended.wait()
        if state.held:
            state.answer_unserved(state.held)

    return issue, flush


def _settings(lg: Any, scenario: ScenarioManifest, call_ns: float, inputs: int) -> Any:
    """LoadGen's settings of the scenario; raises MeasurementError where it would have to generate too many queries."""
    if scenario.kind not in MLPERF_SCENARIOS:
        raise MeasurementError(f"{scenario.kind} is no scenario of MLPerf's", hint="it runs on Stratoscope's scheduler")
    settings = lg.TestSettings()
    settings.mode = lg.TestMode.PerformanceOnly
    settings.min_duration_ms = math.ceil(scenario.min_duration_s * 1000)
    settings.max_duration_ms = math.ceil(scenario.max_duration_s * 1000)
    settings.min_query_count = scenario.min_queries
    settings.qsl_rng_seed = scenario.seeds.qsl
    settings.sample_index_rng_seed = scenario.seeds.sample_index
    settings.schedule_rng_seed = scenario.seeds.schedule
    settings.performance_sample_count_override = inputs
    duration_ns = settings.min_duration_ms * 1e6
    if scenario.kind is ScenarioKind.SINGLE_STREAM:
        settings.scenario = lg.TestScenario.SingleStream
        settings.single_stream_target_latency_percentile = scenario.target_percentile
        settings.single_stream_expected_latency_ns = _expected_ns(scenario, call_ns, duration_ns, 1)
    elif scenario.kind is ScenarioKind.MULTI_STREAM:
        per_query = scenario.samples_per_query
        query_ns = call_ns * math.ceil(per_query / scenario.batch_size)
        settings.scenario = lg.TestScenario.MultiStream
        settings.multi_stream_samples_per_query = per_query
        settings.multi_stream_target_latency_percentile = scenario.target_percentile
        settings.multi_stream_expected_latency_ns = _expected_ns(scenario, query_ns, duration_ns, per_query)
    elif scenario.kind is ScenarioKind.SERVER:
        if scenario.target_qps is None or scenario.target_latency_s is None:
            raise MeasurementError("the server scenario needs target_qps and target_latency_s")
        settings.scenario = lg.TestScenario.Server
        _bounded(scenario, max(scenario.min_queries, scenario.target_qps * scenario.min_duration_s))
        settings.server_target_qps = scenario.target_qps
        settings.server_target_latency_ns = round(scenario.target_latency_s * 1e9)
        settings.server_target_latency_percentile = scenario.target_percentile
        settings.server_max_async_queries = max(LEAST_OUTSTANDING, math.ceil(scenario.target_qps * OUTSTANDING_S))
    else:
        settings.scenario = lg.TestScenario.Offline
        rate = OFFLINE_MARGIN * scenario.batch_size * 1e9 / call_ns
        _bounded(scenario, max(scenario.min_queries, 1.1 * rate * scenario.min_duration_s))
        settings.offline_expected_qps = rate
    return settings


def _expected_ns(scenario: ScenarioManifest, query_ns: float, duration_ns: float, per_query: int) -> float:
    """The expected latency that makes LoadGen generate enough queries, and not more than it has room for."""
    _bounded(scenario, per_query * max(scenario.min_queries, duration_ns / query_ns))
    return max(query_ns / MARGIN, 2 * duration_ns * per_query / MAX_GENERATED)


def _bounded(scenario: ScenarioManifest, samples: float) -> None:
    if samples > MAX_GENERATED:
        raise MeasurementError(
            f"scenario {scenario.kind} would take about {samples:.3g} samples, more than the {MAX_GENERATED:.0e} that "
            "LoadGen is given room for",
            hint=f"lower min_duration_s (now {scenario.min_duration_s:g}), min_queries or target_qps",
        )


def _log_settings(lg: Any, folder: Path) -> Any:
    """Files into `folder`, nothing on the terminal.

    The trace has each sample to the nanosecond. LoadGen's log thread formats it while the test runs, whatever the mode
    and interval: some 5 us a query on another core, against 0.3 us in the issuing thread.
    """
    output = lg.LogOutputSettings()
    output.outdir = str(folder)
    output.copy_summary_to_stdout = False
    settings = lg.LogSettings()
    settings.log_output = output
    settings.log_mode = lg.LoggingMode.EndOfTestOnly
    settings.enable_trace = True
    return settings
