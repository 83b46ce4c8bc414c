"""Loads on our own schedule: send times that do not wait for answers, and a fixed number of queries in flight.

Latency counts from the intended send time, so a client or model that falls behind cannot hide it (no coordinated
omission); how late each query was really sent is kept beside it.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from functools import partial
from queue import SimpleQueue
from typing import Final

import numpy as np

from stratoscope.measure.clock import Clock, RealClock
from stratoscope.measure.noise_blocks import NoiseBlocks, block_calls
from stratoscope.measure.schedule import MAX_QUERIES, Schedule
from stratoscope.measure.timeline import Timeline, Times
from stratoscope.measure.waiting import LOOK_UP_S, start_and_wait
from stratoscope.spec.scenario import ScenarioManifest

Call = Callable[[], object]

_END: Final = -1


class Workers:
    """Threads that run queued calls; `completed[i]` is when query i was answered, 0 where it was not."""

    def __init__(self, calls: Sequence[Call], sample: Sequence[int], count: int, clock: Clock) -> None:
        self.completed = [0] * len(sample)
        self.error: BaseException | None = None
        self.stopping = False
        self._calls, self._sample, self._clock = calls, sample, clock
        self._queue: SimpleQueue[int] = SimpleQueue()
        self._count = count
        self._ended: list[bool] = []
        self._news = threading.Semaphore(0)
        for i in range(count):
            threading.Thread(target=self._serve, name=f"worker-{i}").start()

    def send(self, query: int) -> None:
        """Queues a query."""
        self._queue.put(query)

    def finish(self, deadline_ns: int) -> None:
        """Waits until all queries are answered, until `deadline_ns` at the latest."""
        for _ in range(self._count):
            self._queue.put(_END)
        while len(self._ended) < self._count and self._clock.now_ns() < deadline_ns:
            self._news.acquire(timeout=LOOK_UP_S)

    def abandon(self) -> None:
        """Drops what is queued and waits for the calls that are running."""
        self.stopping = True
        for _ in range(self._count):
            self._queue.put(_END)
        while len(self._ended) < self._count:
            self._news.acquire(timeout=LOOK_UP_S)

    def _serve(self) -> None:
        calls, sample, completed, now = self._calls, self._sample, self.completed, self._clock.now_ns
        while (query := self._queue.get()) != _END:
            if self.stopping:
                continue
            try:
                calls[sample[query]]()
            except BaseException as error:  # noqa: BLE001 - leaves this thread for the one that measures
                self.error = self.error or error
                self.stopping = True
                continue
            completed[query] = now()
        self._ended.append(True)
        self._news.release()


def issue_schedule(
    schedule: Schedule,
    start_ns: int,
    clock: Clock,
    send: Callable[[int], None],
    proceed: Callable[[int], bool],
    issued_ns: list[int],
) -> None:
    """Sends query i at `start_ns` + `schedule[i]` and appends the real send time to `issued_ns`.

    `proceed(i)` is asked before each query; a false answer ends the issue. `send` may block: the queries after it are
    then late, and their lag says by how much.
    """
    for query, moment in enumerate(schedule.tolist()):
        clock.sleep_until_ns(start_ns + moment)
        if not proceed(query):
            break
        issued_ns.append(clock.now_ns())
        send(query)


def run_schedule(
    calls: Sequence[Call], schedule: Schedule, scenario: ScenarioManifest, *, clock: Clock | None = None
) -> Timeline:
    """Runs `calls` at the times of `schedule` on `scenario.concurrency` workers.

    Ends at `max_duration_s` at the latest; Ctrl-C ends it too. Raises whatever a call raised.
    """
    clock = clock or RealClock()
    sample = draw_samples(scenario, len(calls), schedule.size)
    noise = NoiseBlocks()
    block = block_calls(max(1, int(schedule[-1])) / schedule.size)
    workers = Workers(calls, sample.tolist(), scenario.concurrency, clock)
    issued: list[int] = []
    interrupted = False
    noise.start()
    start = clock.now_ns()
    deadline = start + round(scenario.max_duration_s * 1e9)

    def proceed(query: int) -> bool:
        if query % block == block - 1:
            noise.mark()
        return not workers.stopping and clock.now_ns() < deadline

    try:
        issue_schedule(schedule, start, clock, workers.send, proceed, issued)
        workers.finish(deadline)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        workers.abandon()
        noise.stop()
    if workers.error is not None:
        raise workers.error
    completed = np.array(workers.completed, dtype=np.int64)
    kept = np.flatnonzero(completed[: len(issued)] > 0)
    lost, unsent = len(issued) - kept.size, schedule.size - len(issued)
    missing = f"{lost} queries were not answered and {unsent} not sent by max_duration_s"
    return Timeline(
        query=kept,
        sample=sample[kept],
        scheduled_ns=schedule[kept],
        issued_ns=np.array(issued, dtype=np.int64)[kept] - start,
        completed_ns=completed[kept] - start,
        noise=noise.record(),
        interrupted=interrupted,
        source="stratoscope",
        losses=(missing,) if lost + unsent and not interrupted else (),
    )


def run_concurrency(
    calls: Sequence[Call], scenario: ScenarioManifest, call_ns: float, *, clock: Clock | None = None
) -> Timeline:
    """Keeps `scenario.concurrency` queries in flight: each worker sends its next query when its last is answered.

    It ends with the first query that is sent at or after `min_duration_s` once there are `min_queries`, or at
    `max_duration_s`. Noise is read in the first worker.
    """
    clock = clock or RealClock()
    noise = NoiseBlocks()
    block = block_calls(call_ns)
    start = clock.now_ns()
    least, most = (start + round(s * 1e9) for s in (scenario.min_duration_s, scenario.max_duration_s))
    rows: list[list[tuple[int, int, int]]] = [[] for _ in range(scenario.concurrency)]
    errors: list[BaseException] = []
    stop = threading.Event()

    def in_flight(worker: int) -> None:
        own, now = rows[worker], clock.now_ns
        rng = random.Random(f"{scenario.seeds.sample_index}/{worker}")
        order = [rng.randrange(len(calls)) for _ in range(1024)]
        if worker == 0:
            noise.start()
        try:
            while not stop.is_set():
                sample = order[len(own) % len(order)]
                issued = now()
                calls[sample]()
                own.append((sample, issued, now()))
                if worker == 0 and len(own) % block == 0:
                    noise.mark()
                enough = issued >= least and sum(map(len, rows)) >= scenario.min_queries
                if enough or issued >= most or len(own) * len(rows) >= MAX_QUERIES:
                    break
        except BaseException as error:  # noqa: BLE001 - leaves this thread for the one that measures
            errors.append(error)
            stop.set()
        finally:
            if worker == 0:
                noise.stop()

    targets = [partial(in_flight, worker) for worker in range(len(rows))]
    interrupted = start_and_wait(targets, stop.set)
    if errors:
        raise errors[0]
    table = np.array(sorted((row for own in rows for row in own), key=lambda row: row[1]), np.int64).reshape(-1, 3)
    return Timeline(
        query=np.arange(len(table)),
        sample=table[:, 0],
        scheduled_ns=table[:, 1] - start,
        issued_ns=table[:, 1] - start,
        completed_ns=table[:, 2] - start,
        noise=noise.record(),
        interrupted=interrupted,
        source="stratoscope",
    )


def draw_samples(scenario: ScenarioManifest, inputs: int, count: int) -> Times:
    """Which prepared input each of `count` queries asks for: uniform, from the scenario's seed."""
    rng = np.random.default_rng(scenario.seeds.sample_index)
    return rng.integers(0, inputs, count)
