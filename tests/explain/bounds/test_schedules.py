"""Longest chains, list schedules and layouts against brute force and hand-made cases."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratoscope.explain.bounds.layout import best_layouts
from stratoscope.explain.bounds.schedule import list_schedule, longest_path


@st.composite
def dags(draw: st.DrawFn, most: int = 7) -> tuple[list[float], list[list[int]]]:
    count = draw(st.integers(1, most))
    seconds = [float(draw(st.integers(0, 9))) for _ in range(count)]
    before = [[one for one in range(index) if draw(st.booleans())] for index in range(count)]
    return seconds, before


def all_paths(before: list[list[int]], at: int) -> list[list[int]]:
    return [[*path, at] for one in before[at] for path in all_paths(before, one)] + [[at]]


@settings(deadline=None)
@given(dags())
def test_longest_path_is_the_longest_of_all_paths(dag: tuple[list[float], list[list[int]]]) -> None:
    seconds, before = dag
    length, path = longest_path(seconds, before)
    every = [sum(seconds[one] for one in found) for at in range(len(seconds)) for found in all_paths(before, at)]
    assert length == max(every)
    assert sum(seconds[one] for one in path) == length
    assert all(a in before[b] for a, b in itertools.pairwise(path))


@settings(deadline=None)
@given(dags(), st.integers(1, 4))
def test_list_schedule_lies_between_its_bounds(dag: tuple[list[float], list[list[int]]], workers: int) -> None:
    seconds, before = dag
    chain, total = longest_path(seconds, before)[0], sum(seconds)
    found = list_schedule(seconds, before, workers)
    least = max(chain, total / workers)
    assert least - 1e-9 <= found <= total + 1e-9
    assert found <= total / workers + (1 - 1 / workers) * chain + 1e-9  # Graham
    assert list_schedule(seconds, before, 1) == pytest.approx(total)
    assert list_schedule(seconds, before, len(seconds)) == pytest.approx(chain)


def test_a_layer_alone_takes_the_idle_workers_and_side_by_side_it_does_not() -> None:
    scaled = [{1: 4.0, 2: 2.5}, {1: 4.0, 2: 2.5}]
    assert list_schedule([4.0, 4.0], [[], [0]], 2, scaled) == 5.0
    assert list_schedule([4.0, 4.0], [[], []], 2, scaled) == 4.0
    assert list_schedule([4.0], [[]], 2, [{1: 4.0, 2: 9.0}]) == 4.0  # more workers that make it slower are not used


def test_a_schedule_without_workers_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one worker"):
        list_schedule([1.0], [[]], 0)


@settings(deadline=None)
@given(st.data())
def test_layouts_are_those_of_an_exhaustive_search(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 6))
    times = st.one_of(st.integers(0, 9).map(float), st.just(float("inf")))
    first = [data.draw(times) for _ in range(count)]
    second = [float(data.draw(st.integers(0, 9))) if one == float("inf") else data.draw(times) for one in first]
    edges = [
        (a, b, float(data.draw(st.integers(0, 5))))
        for a, b in itertools.combinations(range(count), 2)
        if data.draw(st.booleans())
    ]

    def cost(choice: tuple[bool, ...]) -> float:
        own = sum(second[i] if take else first[i] for i, take in enumerate(choice))
        return own + sum(price for a, b, price in edges if choice[a] != choice[b])

    least = min(cost(choice) for choice in itertools.product((False, True), repeat=count))
    found = best_layouts(first, second, edges)
    assert found.seconds == pytest.approx(least)
    assert cost(found.second) == pytest.approx(least)


def test_conversions_decide_against_a_layer_by_layer_minimum() -> None:
    """Benanza's minimum by layer would take layouts in turns and pay nothing for it."""
    found = best_layouts([1.0, 3.0, 1.0], [2.0, 2.0, 2.0], [(0, 1, 2.0), (1, 2, 2.0)])
    assert found.seconds == 5.0
    assert found.second == (False, False, False)


def test_a_layer_without_any_layout_is_refused() -> None:
    with pytest.raises(ValueError, match="neither layout"):
        best_layouts([float("inf")], [float("inf")], [])
