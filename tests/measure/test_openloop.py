"""Open and closed loops: latency from the intended send time, on a virtual clock; then the real thing."""

from __future__ import annotations

import signal
import threading
import time

import numpy as np
import pytest

from stratoscope.measure.clock import Clock, RealClock
from stratoscope.measure.openloop import issue_schedule, run_concurrency, run_schedule
from stratoscope.measure.schedule import constant_rate
from stratoscope.measure.scheduler import run_mlperf
from stratoscope.spec.scenario import ScenarioKind, ScenarioManifest

MS = 1_000_000


def test_a_blocking_client_that_falls_behind_hides_nothing(virtual_clock: Clock) -> None:
    # A query is due every 10 ms and takes 30: the i-th is sent 20 i late and answered 30 + 20 i after it was due.
    schedule = constant_rate(100, 0.05, 6)
    issued: list[int] = []
    answered: list[int] = []

    def send(query: int) -> None:
        virtual_clock.work(30 * MS)  # type: ignore[attr-defined]
        answered.append(virtual_clock.now_ns())

    issue_schedule(schedule, 0, virtual_clock, send, lambda _: True, issued)
    assert (np.array(issued) - schedule).tolist() == [20 * MS * i for i in range(6)]
    assert (np.array(answered) - schedule).tolist() == [30 * MS + 20 * MS * i for i in range(6)]


def test_a_client_that_keeps_up_is_never_late(virtual_clock: Clock) -> None:
    schedule = constant_rate(100, 0.05, 6)
    issued: list[int] = []
    issue_schedule(
        schedule,
        5,
        virtual_clock,
        lambda _: virtual_clock.work(3 * MS),  # type: ignore[attr-defined]
        lambda _: True,
        issued,
    )
    assert (np.array(issued) - 5).tolist() == schedule.tolist()


def test_the_issue_ends_when_it_is_told_to(virtual_clock: Clock) -> None:
    issued: list[int] = []
    issue_schedule(constant_rate(100, 1, 1), 0, virtual_clock, lambda _: None, lambda query: query < 3, issued)
    assert len(issued) == 3


def scenario(kind: ScenarioKind, **fields: object) -> ScenarioManifest:
    return ScenarioManifest(kind=kind, **fields)  # type: ignore[arg-type]


def test_every_scheduled_query_is_answered_once_and_after_it_was_sent() -> None:
    calls = [lambda: None] * 4
    plan = scenario(ScenarioKind.CONSTANT_RATE, concurrency=3)
    schedule = constant_rate(2000, 0.05, 1)
    timeline = run_schedule(calls, schedule, plan)
    assert timeline.query.tolist() == list(range(schedule.size))
    assert timeline.scheduled_ns.tolist() == schedule.tolist()
    assert (timeline.send_lags_ns() >= 0).all()
    assert (timeline.completed_ns >= timeline.issued_ns).all()
    assert set(timeline.sample.tolist()) == {0, 1, 2, 3}
    assert timeline.losses == ()


def test_a_load_that_cannot_be_answered_in_time_says_what_was_lost() -> None:
    plan = scenario(ScenarioKind.CONSTANT_RATE, concurrency=1, max_duration_s=0.1, min_duration_s=0.1)
    timeline = run_schedule([lambda: time.sleep(0.02)], constant_rate(500, 0.1, 1), plan)
    assert 1 <= timeline.queries <= 10
    assert "not answered" in timeline.losses[0]


def test_a_failing_call_is_raised_where_the_load_was_started() -> None:
    def fail() -> None:
        raise OSError("the model broke")

    for run in (
        lambda: run_schedule([fail], constant_rate(1000, 0.05, 1), scenario(ScenarioKind.CONSTANT_RATE)),
        lambda: run_concurrency([fail], scenario(ScenarioKind.CONCURRENCY), 1000.0),
        lambda: run_mlperf([fail], scenario(ScenarioKind.SINGLE_STREAM), 1000.0),
    ):
        with pytest.raises(OSError, match="the model broke"):
            run()


def test_concurrency_keeps_so_many_in_flight_and_never_more() -> None:
    lock, now, most = threading.Lock(), [0], [0]

    def call() -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.001)
        with lock:
            now[0] -= 1

    plan = scenario(ScenarioKind.CONCURRENCY, concurrency=3, min_duration_s=0.05, min_queries=20)
    timeline = run_concurrency([call], plan, 1e6)
    assert most[0] == 3
    assert timeline.queries >= 20
    assert int(timeline.scheduled_ns.max()) >= 0.05e9
    overlap = [
        int(((timeline.issued_ns <= t) & (timeline.completed_ns > t)).sum()) for t in timeline.issued_ns.tolist()
    ]
    assert max(overlap) == 3


@pytest.mark.parametrize("kind", [ScenarioKind.CONSTANT_RATE, ScenarioKind.CONCURRENCY, ScenarioKind.SINGLE_STREAM])
def test_ctrl_c_keeps_what_was_answered(kind: ScenarioKind) -> None:
    def interrupt() -> None:
        time.sleep(0.1)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def call() -> None:
        time.sleep(0.001)

    plan = scenario(kind, min_duration_s=30, concurrency=2)
    threading.Thread(target=interrupt).start()
    if kind is ScenarioKind.CONSTANT_RATE:
        timeline = run_schedule([call], constant_rate(200, 30, 1), plan)
    elif kind is ScenarioKind.CONCURRENCY:
        timeline = run_concurrency([call], plan, 1e6)
    else:
        timeline = run_mlperf([call], plan, 1e6)
    assert timeline.interrupted
    assert timeline.duration_s() < plan.min_duration_s
    assert timeline.queries >= 1
    assert (timeline.completed_ns > timeline.issued_ns).all()


def test_own_offline_and_multi_stream_have_one_row_a_sample() -> None:
    offline = scenario(ScenarioKind.OFFLINE, batch_size=4, min_duration_s=0.01, min_queries=10)
    timeline = run_mlperf([lambda: time.sleep(0.001)], offline, 1e6)
    assert timeline.queries == 1
    assert timeline.query.size >= 10
    assert np.unique(timeline.completed_ns).size == -(-timeline.query.size // 4)  # four share a call
    multi = scenario(ScenarioKind.MULTI_STREAM, batch_size=2, samples_per_query=6, min_duration_s=0.01, min_queries=3)
    timeline = run_mlperf([lambda: time.sleep(0.0005)], multi, 5e5)
    assert timeline.query.size == 6 * timeline.queries
    assert (timeline.query_latencies_ns() >= 3 * 500_000).all()


def test_the_real_clock_does_not_wake_early() -> None:
    clock = RealClock()
    for ahead in (-1000, 0, 50_000, 300_000):
        moment = clock.now_ns() + ahead
        clock.sleep_until_ns(moment)
        assert clock.now_ns() >= moment
