from __future__ import annotations

import gc
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratoscope.host.noise import NoiseSnapshot
from stratoscope.measure import leveled_runs
from stratoscope.measure.leveled_runs import (
    CONTROL,
    FEWEST_BLOCKS,
    LONG_S,
    MOST_BLOCKS,
    MOST_REPEATS_A_BLOCK,
    PLAIN,
    PROFILED,
    Runs,
    Schedule,
    Sessions,
    block_medians,
    interleave,
    kept_spans,
    warm_up,
    with_waits,
)
from stratoscope.trace.spans import SPAN_SCHEMA


@given(st.floats(1e-6, 20), st.floats(0.1, 60), st.integers(1, 30))
def test_schedule_keeps_the_budget_or_is_the_smallest(inference_s: float, budget_s: float, blocks: int) -> None:
    schedule = Schedule.plan(inference_s, budget_s, blocks=blocks, repeats=None)
    calls = 3 * schedule.blocks * (schedule.repeats + schedule.dropped)
    smallest = schedule.blocks == FEWEST_BLOCKS and schedule.repeats == 1
    assert calls * inference_s <= budget_s * (1 + 1e-9) or smallest
    most = blocks if schedule.dropped else MOST_BLOCKS
    assert FEWEST_BLOCKS <= schedule.blocks <= max(FEWEST_BLOCKS, most)
    assert schedule.repeats == 1 or schedule.dropped  # long inferences change places one by one
    assert 1 <= schedule.repeats <= MOST_REPEATS_A_BLOCK
    assert schedule.dropped == (0 if inference_s > LONG_S else 1)


@given(st.integers(1, 500), st.integers(1, 30))
def test_schedule_with_repeats_makes_at_least_as_many_and_less_than_a_round_more(repeats: int, blocks: int) -> None:
    schedule = Schedule.plan(0.001, 1e-3, blocks=blocks, repeats=repeats)
    assert repeats <= schedule.blocks * schedule.repeats < repeats + schedule.blocks


def recording(log: list[str]) -> Sessions:
    """Sessions whose calls write down which configuration they are of."""

    def call(name: str) -> Callable[[], None]:
        return lambda: log.append(name)

    trace: Any = SimpleNamespace()
    return Sessions({name: call(name) for name in (PLAIN, PROFILED, CONTROL)}, trace, True)


def test_every_block_has_every_configuration_once_in_an_order_that_the_seed_decides() -> None:
    orders = []
    for seed in (1, 1, 2):
        log: list[str] = []
        told: list[str] = []
        runs = interleave(recording(log), Schedule(blocks=8, repeats=3, dropped=2), seed, told.append)
        turns = [log[at : at + 5] for at in range(0, len(log), 5)]
        assert all(len(set(turn)) == 1 for turn in turns)
        blocks = [[turn[0] for turn in turns[at : at + 3]] for at in range(0, len(turns), 3)]
        assert len(blocks) == 8
        assert all(sorted(block) == sorted([PLAIN, PROFILED, CONTROL]) for block in blocks)
        assert len({tuple(block) for block in blocks}) > 1
        assert told[-1] == "layers: block 8 of 8"
        assert runs[PLAIN].block == [block for block in range(8) for _ in range(3)]
        # Calls are counted with the two that are dropped at each change of session.
        assert runs[PROFILED].call == [5 * block + 2 + k for block in range(8) for k in range(3)]
        orders.append(blocks)
    assert orders[0] == orders[1] != orders[2]


def test_the_garbage_collector_is_off_while_measuring_and_back_on_after_a_failure() -> None:
    seen: list[bool] = []

    def failing() -> None:
        seen.append(gc.isenabled())
        if len(seen) == 5:
            raise KeyboardInterrupt

    sessions = recording([])
    sessions.calls[PLAIN] = failing
    assert gc.isenabled()
    with pytest.raises(KeyboardInterrupt):
        interleave(sessions, Schedule(blocks=5, repeats=2, dropped=0), 0, lambda text: None)
    assert seen == [False] * 5
    assert gc.isenabled()


def test_a_session_that_works_between_its_calls_settles_before_each_kept_one() -> None:
    log: list[str] = []
    sessions = recording(log)
    sessions.settles[PROFILED] = lambda: log.append("settle")
    runs = interleave(sessions, Schedule(blocks=4, repeats=2, dropped=1), 0, lambda text: None)
    profiled = [name for name in log if name in (PROFILED, "settle")]
    assert profiled == [PROFILED, "settle", PROFILED, "settle", PROFILED] * 4
    assert all(log[at + 1] == PROFILED for at, name in enumerate(log) if name == "settle")
    assert runs[PROFILED].call == [3 * block + 1 + k for block in range(4) for k in range(2)]  # traced calls only
    log.clear()
    interleave(sessions, Schedule(blocks=4, repeats=1, dropped=0), 0, lambda text: None)
    assert "settle" not in log


def test_warm_up_counts_its_calls_and_takes_the_median_without_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0]
    durations = {PLAIN: iter([900_000_000, 40_000_000, 60_000_000]), PROFILED: iter([1] * 500)}
    monkeypatch.setattr(leveled_runs.time, "perf_counter_ns", lambda: now[0])
    sessions = recording([])
    for name, times in durations.items():

        def call(times: Any = times) -> None:
            now[0] += next(times)

        sessions.calls[name] = call
    del sessions.calls[CONTROL]
    # Three plain calls of 1.0 s in all are enough. Calls of 1 ns stop at their largest number.
    assert warm_up(sessions) == pytest.approx(0.05)
    assert sessions.made == {PLAIN: 3, PROFILED: leveled_runs.MOST_WARMUP_CALLS}


def test_block_medians_are_of_accepted_inferences_only() -> None:
    runs = Runs(block=[0, 0, 0, 1, 1, 2])
    accepted = np.array([True, True, False, True, True, False])
    assert block_medians(runs, [1, 3, 100, 5, 9, 7], accepted) == {0: 2.0, 1: 7.0}


def test_spans_of_dropped_and_refused_calls_are_left_out_and_the_others_numbered_anew() -> None:
    spans = pl.DataFrame(
        {"run": [0, 1, 1, 2, 3, 3], "name": list("abcdef")}, schema={"run": pl.Int32, "name": pl.String}
    )
    kept = kept_spans(spans, [1, 3])
    assert kept.rows() == [(0, "b"), (0, "c"), (1, "e"), (1, "f")]
    assert kept.schema == spans.schema


def test_wait_for_a_cpu_is_told_by_the_model_span_of_its_inference() -> None:
    def at(wait: int | None) -> NoiseSnapshot:
        return NoiseSnapshot(0, 0, wait, 0, 0)

    runs = Runs(before=[at(0), at(10), at(30), at(None)], after=[at(10), at(30), at(60), at(None)])
    rows = [
        (number, None, level, "sync", "m", 1, 0, 1, 0, run, None, text)
        for number, (level, run, text) in enumerate(
            [(20, 0, None), (30, 0, None), (20, 1, '{"deepest": 30}'), (20, 2, None)]
        )
    ]
    kept = pl.DataFrame(rows, schema=SPAN_SCHEMA, orient="row")
    found = with_waits(kept, runs, np.array([False, True, True, True]))
    told = [json.loads(text or "null") for text in found["attributes"]]
    assert told == [{"run_queue_wait_ns": 20}, None, {"deepest": 30, "run_queue_wait_ns": 30}, None]
    elsewhere = kept.with_columns(attributes=pl.lit('{"noise": {"wait_ns": 1}}'))
    assert with_waits(elsewhere, runs, np.array([False, True, True, True])).equals(elsewhere)
