"""MLPerf's four scenarios on our own scheduler, for platforms without LoadGen: same rules, other random streams."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from stratoscope.errors import MeasurementError
from stratoscope.measure.clock import Clock, RealClock
from stratoscope.measure.noise_blocks import NoiseBlocks, block_calls
from stratoscope.measure.openloop import draw_samples, run_schedule
from stratoscope.measure.schedule import MAX_QUERIES, poisson
from stratoscope.measure.timeline import Timeline
from stratoscope.spec.scenario import ScenarioKind, ScenarioManifest

Call = Callable[[], object]

#: As LoadGen: the offline query is made a tenth larger than its least duration needs, and ours a fifth for the noise.
OFFLINE_SLACK = 1.1 * 1.2


def run_mlperf(
    calls: Sequence[Call], scenario: ScenarioManifest, call_ns: float, *, clock: Clock | None = None
) -> Timeline:
    """Runs one MLPerf scenario against `calls`, as `run_loadgen` does.

    Raises MeasurementError for a scenario that is not MLPerf's or has too many queries, and whatever a call raised.
    """
    clock = clock or RealClock()
    if scenario.kind is ScenarioKind.SERVER:
        if scenario.target_qps is None:
            raise MeasurementError("the server scenario needs target_qps")
        seed = scenario.seeds.schedule
        schedule = poisson(scenario.target_qps, scenario.min_duration_s, scenario.min_queries, seed)
        return run_schedule(calls, schedule, scenario, clock=clock)
    if scenario.kind is ScenarioKind.OFFLINE:
        wanted = math.ceil(OFFLINE_SLACK * scenario.min_duration_s * 1e9 / call_ns) * scenario.batch_size
        return _closed_loop(calls, scenario, call_ns, clock, max(scenario.min_queries, wanted), one_query=True)
    if scenario.kind is ScenarioKind.MULTI_STREAM:
        return _closed_loop(calls, scenario, call_ns, clock, scenario.samples_per_query)
    if scenario.kind is ScenarioKind.SINGLE_STREAM:
        return _closed_loop(calls, scenario, call_ns, clock, scenario.batch_size)
    raise MeasurementError(f"{scenario.kind} is no scenario of MLPerf's")


def _closed_loop(
    calls: Sequence[Call],
    scenario: ScenarioManifest,
    call_ns: float,
    clock: Clock,
    per_query: int,
    one_query: bool = False,
) -> Timeline:
    """Queries of `per_query` samples, `batch_size` a call, each sent when the last one is answered."""
    if per_query > MAX_QUERIES:
        raise MeasurementError(
            f"scenario {scenario.kind} would take {per_query} samples, more than the {MAX_QUERIES} of one load",
            hint="lower min_duration_s or min_queries",
        )
    calls_per_query = math.ceil(per_query / scenario.batch_size)
    order = draw_samples(scenario, len(calls), 4096).tolist()
    noise = NoiseBlocks()
    block = block_calls(call_ns)
    rows: list[tuple[int, int, int, int]] = []  # query, input, issued, completed: one a call
    interrupted = False
    noise.start()
    start = clock.now_ns()
    least, most = (start + round(s * 1e9) for s in (scenario.min_duration_s, scenario.max_duration_s))
    query = 0
    try:
        while True:
            issued = clock.now_ns()
            for _ in range(calls_per_query):
                which = order[len(rows) % len(order)]
                calls[which]()
                rows.append((query, which, issued, clock.now_ns()))
                if len(rows) % block == 0:
                    noise.mark()
            query += 1
            if one_query or issued >= most or len(rows) >= MAX_QUERIES:
                break
            if issued >= least and query >= scenario.min_queries:  # the last query was sent after the least duration
                break
    except KeyboardInterrupt:
        interrupted = True
    finally:
        noise.stop()
    return _by_sample(rows, start, calls_per_query, per_query, scenario, noise, interrupted)


def _by_sample(
    rows: list[tuple[int, int, int, int]],
    start: int,
    calls_per_query: int,
    per_query: int,
    scenario: ScenarioManifest,
    noise: NoiseBlocks,
    interrupted: bool,
) -> Timeline:
    """One row a sample; in single-stream a query is one sample, whatever the batch."""
    table = np.array(rows, dtype=np.int64).reshape(-1, 4)
    if scenario.kind is not ScenarioKind.SINGLE_STREAM:
        within = np.arange(len(table)) % calls_per_query
        filled = np.where(
            within == calls_per_query - 1, per_query - scenario.batch_size * (calls_per_query - 1), scenario.batch_size
        )
        table = np.repeat(table, filled, axis=0)
    return Timeline(
        query=table[:, 0],
        sample=table[:, 1],
        scheduled_ns=table[:, 2] - start,
        issued_ns=table[:, 2] - start,
        completed_ns=table[:, 3] - start,
        noise=noise.record(),
        interrupted=interrupted,
        source="stratoscope",
    )
