"""Schedules of layers that depend on each other: the longest chain, and lists on so many workers."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence


def longest_path(seconds: Sequence[float], before: Sequence[Sequence[int]]) -> tuple[float, list[int]]:
    """(length, layers) of the longest chain of dependent layers: the time with unlimited workers.

    Args:
        seconds: of each layer; layers are in topological order.
        before: for each layer the indices of those that it waits for, all smaller than its own.
    """
    end: list[float] = []
    came: list[int | None] = []
    for index, duration in enumerate(seconds):
        latest = max(before[index], key=lambda one: end[one], default=None)
        end.append(duration + (end[latest] if latest is not None else 0.0))
        came.append(latest)
    if not end:
        return 0.0, []
    last = max(range(len(end)), key=lambda one: end[one])
    path: list[int] = []
    at: int | None = last
    while at is not None:
        path.append(at)
        at = came[at]
    return end[last], path[::-1]


def list_schedule(
    seconds: Sequence[float],
    before: Sequence[Sequence[int]],
    workers: int,
    scaled: Sequence[Mapping[int, float]] | None = None,
) -> float:
    """The time of a list schedule on `workers`: whenever one is free, the ready layer with most work behind it starts.

    A layer that would leave workers idle because nothing else is ready takes as many as it has a time for, if that is
    shorter (`scaled`: number of workers -> seconds). Graham's bound holds without scaling: no more than 2 - 1/workers
    times the best schedule (SIAM J. Appl. Math. 17(2), 1969). Arguments are those of `longest_path`.
    """
    if workers < 1:
        raise ValueError(f"a schedule needs at least one worker, not {workers}")
    count = len(seconds)
    after: list[list[int]] = [[] for _ in range(count)]
    waiting = [len(set(before[index])) for index in range(count)]
    for index in range(count):
        for one in set(before[index]):
            after[one].append(index)
    rank = [0.0] * count
    for index in reversed(range(count)):
        rank[index] = seconds[index] + max((rank[one] for one in after[index]), default=0.0)
    ready = [(-rank[index], index) for index in range(count) if not waiting[index]]
    heapq.heapify(ready)
    running: list[tuple[float, int, int]] = []  # end, layer, workers
    now, free = 0.0, workers
    while ready or running:
        while ready and free:
            _, index = heapq.heappop(ready)
            used, duration = _moulded(index, seconds[index], scaled, free - len(ready))
            heapq.heappush(running, (now + duration, index, used))
            free -= used
        now, index, used = heapq.heappop(running)
        free += used
        for one in after[index]:
            waiting[one] -= 1
            if not waiting[one]:
                heapq.heappush(ready, (-rank[one], one))
    return now


def _moulded(
    index: int, duration: float, scaled: Sequence[Mapping[int, float]] | None, spare: int
) -> tuple[int, float]:
    """How many workers a layer takes and for how long, when `spare` would otherwise idle (itself included)."""
    choices = {1: duration}
    if scaled is not None:
        choices |= {number: time for number, time in scaled[index].items() if 1 < number <= spare}
    best = min(choices, key=lambda number: (choices[number], number))
    return best, choices[best]
