"""The noise gate: what it refuses, what it keeps, and what it says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratoscope.stats.noise import gate

N = 20
WALL = np.full(N, 1e6)


def test_a_repeat_that_waited_for_a_core_is_refused() -> None:
    wait = np.full(N, 1e3)
    wait[3] = 2e5
    result = gate(WALL, WALL, wait, np.ones(N))
    assert list(np.flatnonzero(~result.accepted)) == [3]
    assert result.quiet is True
    assert result.signal == "wait"
    assert "1 of 20" in result.reason
    assert "20 involuntary" in result.reason


def test_a_slow_repeat_is_kept_when_the_machine_did_nothing_to_it() -> None:
    wall = WALL.copy()
    wall[5] *= 10
    assert gate(wall, wall, np.zeros(N)).accepted.all()


def test_without_wait_the_repeat_with_the_low_cpu_share_is_refused() -> None:
    cpu = WALL * 0.98
    cpu[7] = 0.5 * WALL[7]
    result = gate(WALL, cpu, None)
    assert list(np.flatnonzero(~result.accepted)) == [7]
    assert result.signal == "cpu"


def test_helper_threads_that_do_the_work_are_no_noise() -> None:
    rng = np.random.default_rng(0)
    assert gate(WALL, WALL * rng.normal(0.3, 0.01, N), None).accepted.all()


def test_a_busy_machine_is_called_so_and_keeps_the_better_half() -> None:
    wait = np.linspace(0.1, 0.9, N) * 1e6
    result = gate(WALL, WALL, wait)
    assert result.quiet is False
    assert list(np.flatnonzero(result.accepted)) == list(range(10))
    assert "not quiet" in result.reason


def test_without_signals_everything_passes_and_nothing_is_claimed() -> None:
    result = gate(WALL)
    assert result.accepted.all()
    assert result.quiet is None
    assert "not judged" in result.reason
    assert gate([]).quiet is None


@given(
    rows=st.lists(
        st.tuples(st.integers(1, 10**9), st.floats(0, 1), st.floats(0, 1)),
        min_size=1,
        max_size=50,
    ),
    with_wait=st.booleans(),
)
def test_at_least_half_of_the_repeats_always_survive(rows: list[tuple[int, float, float]], with_wait: bool) -> None:
    wall = np.array([r[0] for r in rows], dtype=float)
    cpu = wall * [r[1] for r in rows]
    wait = wall * [r[2] for r in rows] if with_wait else None
    result = gate(wall, cpu, wait)
    assert result.accepted.shape == wall.shape
    assert 2 * result.accepted.sum() >= len(rows)
    assert result.reason


@pytest.mark.parametrize(
    ("wall", "cpu", "match"),
    [([1.0, 2.0], [1.0], "1 values for 2"), ([0.0], [1.0], "no time"), ([1.0], [-1.0], "negative")],
)
def test_impossible_readings_are_errors(wall: list[float], cpu: list[float], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        gate(wall, cpu)


@pytest.mark.parametrize(("disturbed", "quiet"), [(0, True), (2, True), (3, False), (9, False), (11, False)])
def test_a_machine_that_disturbs_more_than_a_tenth_of_the_repeats_is_not_quiet(disturbed: int, quiet: bool) -> None:
    wall = np.full(20, 1e6)
    wait = np.where(np.arange(20) < disturbed, 0.5e6, 0.0)
    result = gate(wall, wait_ns=wait)
    assert result.quiet is quiet
    assert int(result.accepted.sum()) == max(20 - disturbed, 10)
