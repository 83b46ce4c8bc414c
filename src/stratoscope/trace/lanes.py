"""Spreads the spans of a track over rows in which they nest, as viewers ask for."""

from __future__ import annotations

from typing import NamedTuple

import polars as pl


class Lane(NamedTuple):
    """A thread row: of one track, for execution spans or the others, and numbered where spans do not nest in one."""

    track: int
    executed: bool
    number: int


def lanes_of(frame: pl.DataFrame) -> list[Lane]:
    """The lane of each span: the first of its track in which it nests with the spans before it."""
    open_ends: dict[tuple[int, bool], list[list[int]]] = {}
    lanes: list[Lane] = [Lane(0, False, 0)] * frame.height
    columns = frame.with_row_index("row").sort(
        ["start_ns", "end_ns", "level", "span"], descending=[False, True, False, False]
    )
    for row, track, kind, start, end in columns.select("row", "track", "kind", "start_ns", "end_ns").iter_rows():
        key = (track, kind == "exec")
        stacks = open_ends.setdefault(key, [])
        number = _first_that_nests(stacks, start, end)
        if number == len(stacks):
            stacks.append([])
        stacks[number].append(end)
        lanes[row] = Lane(*key, number)
    return lanes


def _first_that_nests(stacks: list[list[int]], start: int, end: int) -> int:
    """Place of the first stack of open ends in which [start, end) nests, or their number."""
    for number, stack in enumerate(stacks):
        while stack and stack[-1] <= start:
            stack.pop()
        if not stack or stack[-1] >= end:
            return number
    return len(stacks)
