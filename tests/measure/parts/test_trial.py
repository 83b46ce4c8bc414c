"""When samples are enough, when they are thrown away, and what the sentinel says of the machine."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from stratoscope.measure.parts.protocol import Caches, time_slice
from stratoscope.measure.parts.sentinel import LOOKS, Sentinel
from stratoscope.measure.parts.trial import BUDGET_S, LEAST_SLICES, MOST_REJECTED, MOST_SLICES, Trial, shared_cpu
from stratoscope.measure.parts.worker import WrongOutput, compare


@pytest.fixture
def trial(small: ModuleType) -> Trial:
    return Trial(small.fake(), small.HOT, "fake_library", key=1)


def steady(calls: int = 20, ns: int = 100_000) -> list[int]:
    return [ns + call for call in range(calls)]


def test_steady_samples_are_enough_after_the_least_number_of_slices(trial: Trial) -> None:
    for number in range(LEAST_SLICES):
        assert not trial.enough, number
        trial.take(steady(), steady(), 0, 0.01)
    assert trial.enough


def test_scattered_samples_go_on_until_the_budget_is_spent(trial: Trial) -> None:
    rng = np.random.default_rng(0)
    while not trial.enough:
        wall = [int(one) for one in rng.uniform(1e5, 3e5, 8)]
        trial.take(wall, wall, 0, BUDGET_S / 10)
    assert trial.spent_s >= BUDGET_S
    assert trial.slices < MOST_SLICES


def test_a_call_longer_than_the_budget_is_still_made_five_times(trial: Trial) -> None:
    slices = 0
    while not trial.enough:
        trial.take([2_000_000_000], [2_000_000_000], 0, 2.0)
        slices += 1
    assert slices == 5


def test_a_slice_that_shared_its_cpu_is_thrown_away_and_at_last_the_trial(trial: Trial) -> None:
    trial.take(steady(ns=200_000), steady(ns=100_000), 3, 0.01)
    assert (trial.samples_s, trial.rejected) == ([], 1)
    trial.take(steady(), steady(), 0, 0.01)
    assert len(trial.samples_s) == 20
    for _ in range(MOST_REJECTED + 1):
        trial.take(steady(ns=200_000), steady(ns=100_000), 3, 0.01)
    assert trial.status == "refused"
    assert trial.enough


def test_one_preempted_call_does_not_condemn_a_slice() -> None:
    assert not shared_cpu([100, 100, 100, 5_000_000], [100, 100, 100, 110])
    assert shared_cpu([130, 130, 130, 130], [100, 100, 100, 100])


def test_the_second_batch_starts_empty_and_keeps_the_first(trial: Trial) -> None:
    trial.take(steady(), steady(), 0, 0.01)
    trial.begin_second_batch()
    assert (len(trial.first_s), trial.samples_s, trial.enough) == (20, [], False)


def test_sentinel_waits_for_quiet_and_tells_the_slowdown() -> None:
    times = iter([100, 150, 150, 101])
    pauses: list[float] = []
    sentinel = Sentinel(lambda calls, seconds: [next(times)] * 4, pauses.append)
    assert sentinel.look() == 1.0
    assert sentinel.wait_until_quiet() == pytest.approx(1.01)
    assert len(pauses) == 2


def test_sentinel_gives_up_on_a_machine_that_stays_busy() -> None:
    looks = iter([100, *[200] * 50])
    pauses: list[float] = []
    sentinel = Sentinel(lambda calls, seconds: [next(looks)] * 4, pauses.append)
    sentinel.look()
    assert sentinel.wait_until_quiet() == 2.0
    assert len(pauses) == LOOKS - 1


def test_one_lucky_look_does_not_make_all_that_follows_slow() -> None:
    looks = iter([*[100] * 30, 50, *[100] * 30])
    sentinel = Sentinel(lambda calls, seconds: [next(looks)] * 4)
    assert all(sentinel.look() <= 1.0 for _ in range(61))


def test_caches_are_cleaned_before_every_timed_call_and_never_within() -> None:
    events: list[str] = []
    told = time_slice(lambda: events.append("call"), lambda: events.append("clean"), 3, 60.0)
    assert events == ["call", "call", *["clean", "call"] * 3]
    assert len(told.wall_ns) == len(told.cpu_ns) == 3


def test_a_slice_ends_with_its_time_but_has_one_call() -> None:
    assert len(time_slice(lambda: None, lambda: None, 1000, 0.0).wall_ns) == 1


def test_buffers_have_the_size_of_what_they_empty() -> None:
    caches = Caches(1 << 16, 1 << 18, 1)
    assert caches.cleaner("hot")() is None
    assert caches.cleaner("flushed")() == (1 << 16) // 8  # ones, summed
    assert caches.cleaner("evicted")() == 2 * (1 << 18) // 8
    both = Caches(1 << 16, 1 << 18, 2)
    both.cleaner("flushed")()
    both.close()


def test_outputs_are_compared_by_the_largest_value_of_the_reference() -> None:
    reference = [np.array([1.0, -100.0], np.float32)]
    assert compare([np.array([1.0, -100.001], np.float32)], reference, "float32") == pytest.approx(1e-5, rel=0.2)
    with pytest.raises(WrongOutput, match="differs from the reference by"):
        compare([np.array([1.0, -100.1], np.float32)], reference, "float32")
    assert compare([np.array([1.0, -101.0], np.float32)], reference, "bfloat16") == pytest.approx(0.01)


def test_outputs_that_do_not_compare_are_wrong() -> None:
    reference = [np.array([1.0, np.inf], np.float32)]
    assert compare([np.array([1.0, np.inf], np.float32)], reference, "float32") == 0.0
    for wrong in ([1.0, 1.0], [np.nan, np.inf], [1.0, -np.inf]):
        with pytest.raises(WrongOutput, match="not finite"):
            compare([np.array(wrong, np.float32)], reference, "float32")
    with pytest.raises(WrongOutput, match="shape"):
        compare([np.zeros(3, np.float32)], reference, "float32")
    with pytest.raises(WrongOutput, match="0 outputs"):
        compare([], reference, "float32")
    with pytest.raises(WrongOutput, match="not equal"):
        compare([np.array([1, 2])], [np.array([1, 3])], "float32")
    assert compare([np.zeros(2, np.float32)], [np.zeros(2, np.float32)], "float32") == 0.0
