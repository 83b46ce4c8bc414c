"""The rounds: every case meets every stretch of time, the budget holds, and one that fails stops no other."""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import Any

import pytest

from stratoscope.measure.machine.engine import Job, Limits, calibrate, run_jobs
from stratoscope.measure.machine.figures import measurement
from stratoscope.measure.machine.probe import Prepared, ProbeUnavailable, Repeat


def measure(probe: Any, setting: Any, budget_s: float = 1e6, memory: int = 1 << 40, **options: Any) -> list[Job]:
    jobs = [Job(probe, case) for case in probe.register(setting)]
    limits = Limits(probe.clock.now + budget_s, memory, options.pop("most_repeats", 7))
    run_jobs(jobs, setting, limits, lambda text, share: None, lambda: None, clock=probe.clock, **options)
    for job in jobs:
        job.close()
    return jobs


def test_each_round_visits_every_case_once_in_changing_order(parts: Any, make_setting: Any) -> None:
    probe = parts.FakeProbe(parts.Clock(), dict.fromkeys("abcdef", 0.01))
    jobs = measure(probe, make_setting())
    runs = [name for what, name in probe.log if what == "run"]
    rounds = [runs[start : start + 6] for start in range(0, len(runs), 6)]
    assert len(rounds) == 7
    assert all(sorted(order) == list("abcdef") for order in rounds)
    assert len({tuple(order) for order in rounds}) > 1
    assert [len(job.repeats) for job in jobs] == [7] * 6
    assert {job.note for job in jobs} == {"as prepared"}


def test_the_first_round_goes_by_priority_so_that_a_short_budget_measures_what_matters(
    parts: Any, make_setting: Any
) -> None:
    probe = parts.FakeProbe(parts.Clock(), dict.fromkeys("abcdef", 1.0), priorities={"e": 1, "b": 2})
    jobs = measure(probe, make_setting(), budget_s=1.5)
    assert [name for what, name in probe.log if what == "run"] == ["e", "b"]
    assert sum(not job.repeats for job in jobs) == 4


def test_the_budget_is_overrun_by_at_most_one_repeat(parts: Any, make_setting: Any) -> None:
    probe = parts.FakeProbe(parts.Clock(), dict.fromkeys("abc", 0.4))
    measure(probe, make_setting(), budget_s=2.0, most_repeats=1000)
    assert 2.0 <= probe.clock.now < 2.4 + 1e-9


@pytest.mark.parametrize("failure", [ProbeUnavailable("no such thing"), MemoryError(), OSError(12, "Cannot allocate")])
def test_a_case_that_fails_keeps_the_reason_and_the_others_run(
    parts: Any, make_setting: Any, failure: Exception
) -> None:
    probe = parts.FakeProbe(parts.Clock(), dict.fromkeys("abc", 0.01), failing={"b": failure})
    jobs = {job.case.family: job for job in measure(probe, make_setting())}
    assert jobs["fake/b"].repeats == []
    assert jobs["fake/b"].why
    assert len(jobs["fake/a"].repeats) == len(jobs["fake/c"].repeats) == 7
    counts = Counter(what for what, _ in probe.log)
    assert counts["open"] == counts["close"]


def test_a_slow_case_cannot_starve_the_rest(parts: Any, make_setting: Any) -> None:
    probe = parts.FakeProbe(parts.Clock(), {"slow": 10.0, **dict.fromkeys("abcdefghij", 0.01)})
    jobs = {job.case.family: job for job in measure(probe, make_setting(), budget_s=20.0, most_repeats=40)}
    assert len(jobs["fake/slow"].repeats) == 1
    assert len(jobs["fake/a"].repeats) == 40


def test_time_of_preparing_a_case_is_not_held_against_it(parts: Any, make_setting: Any) -> None:
    probe = parts.FakeProbe(parts.Clock(), dict.fromkeys("abc", 0.01), opening_s=5.0)
    assert [len(job.repeats) for job in measure(probe, make_setting(), budget_s=100.0)] == [7, 7, 7]


def test_cases_stay_open_while_they_fit_and_the_largest_make_room(parts: Any, make_setting: Any) -> None:
    probe = parts.FakeProbe(parts.Clock(), dict.fromkeys("abcd", 0.01), memory_bytes=100)
    measure(probe, make_setting(), memory=400)
    assert Counter(what for what, _ in probe.log)["open"] == 4
    tight = parts.FakeProbe(parts.Clock(), dict.fromkeys("abcd", 0.01), memory_bytes=100)
    measure(tight, make_setting(), memory=250)
    held, most = 0, 0
    for what, _ in tight.log:
        held += {"open": 1, "close": -1, "run": 0}[what]
        most = max(most, held)
    assert most == 2
    assert held == 0


def test_a_case_that_reopens_is_prepared_anew_for_each_visit(parts: Any, make_setting: Any) -> None:
    probe = parts.FakeProbe(parts.Clock(), dict.fromkeys("ab", 0.01), reopens=True)
    measure(probe, make_setting(), most_repeats=7)
    assert Counter(probe.log)[("open", "a")] == Counter(probe.log)[("close", "a")] == 7


@pytest.mark.parametrize("per_operation_ns", [1, 300, 50_000, 9_000_000, 400_000_000])
def test_calibration_finds_five_milliseconds_or_one_operation(per_operation_ns: int) -> None:
    def operate(count: int) -> Repeat:
        return Repeat(60 + per_operation_ns * count, 0, 0, 0)

    count = calibrate(operate)
    assert count == 1 or 0.4e7 <= count * per_operation_ns <= 1e7
    assert count >= 1


def test_calibration_leaves_out_waiting_and_survives_a_wait_longer_than_the_trial() -> None:
    trials = 0

    def operate(count: int) -> Repeat:
        nonlocal trials
        trials += 1
        wait = 5_000_000 if trials == 1 else 0  # the kernel booked it in the first trial, which took less
        return Repeat(1000 * count + (2_000_000 if trials == 1 else 0), 0, wait, 0)

    assert 4000 <= calibrate(operate) <= 10_000
    assert trials < 12


def test_a_visit_tries_again_while_it_waits_and_keeps_what_waited_least_and_not_what_was_fastest(
    parts: Any, make_setting: Any
) -> None:
    waits = iter([900, 400, 10, 0, 0, 0, 0, 0, 0])
    walls = iter([1000, 1000, 3000, 2000, 2000, 2000, 2000, 2000, 2000])
    probe = parts.FakeProbe(parts.Clock(), {"a": 0.01})
    ready = Prepared(lambda count: Repeat(next(walls), 0, next(waits), 0))
    probe.run = lambda case, setting: contextlib.nullcontext(ready)
    (job,) = measure(probe, make_setting(), most_repeats=3)
    assert [repeat.wall_ns for repeat in job.repeats] == [3000, 2000, 2000]
    assert job.given_up == 2


def test_a_visit_gives_up_after_four_tries(parts: Any, make_setting: Any) -> None:
    probe = parts.FakeProbe(parts.Clock(), {"a": 0.01})
    probe.run = lambda case, setting: contextlib.nullcontext(Prepared(lambda count: Repeat(1000, 0, 600, 0)))
    (job,) = measure(probe, make_setting(), most_repeats=2)
    assert (len(job.repeats), job.given_up) == (2, 6)
    found = measurement(job)
    assert found is not None
    assert found.quiet is False
    assert "6 of 8 tries" in found.gate
