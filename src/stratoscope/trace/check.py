"""Checks that a trace holds together: time is conserved from parent to children, and runs do the same thing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from stratoscope.trace.correlate import parent_rows

#: How many offenders a detail names.
_NAMED = 3


@dataclass(frozen=True, slots=True)
class Conservation:
    """Verdicts of the checks, true where they hold, and what breaks those that do not."""

    holds: dict[str, bool]
    details: dict[str, str]


def check_conservation(frame: pl.DataFrame) -> Conservation:
    """The conservation checks on correlated spans (trace.spans.SPAN_SCHEMA):

    - `no_negative_duration`: no span ends before it starts;
    - `children_within_parents`: a span lies inside its parent's interval, execution spans (kind "exec") excepted, which
      run when the device gets to them;
    - `children_and_self_make_parent`: on the parent's own track no two children of one parent overlap, so that self
      time, the parent's duration minus its children's, is not negative and nothing is counted twice;
    - `same_sites_in_all_runs`: each run has the same sites;
    - `same_sequence_in_all_runs`: and on each level they start in the same order; threads that race may break this
      one, and need not be at fault.

    Raises:
        TraceError: a parent is not in the frame, or two spans have one id.
    """
    found = {
        "no_negative_duration": _negative(frame),
        "children_within_parents": _outside(frame),
        "children_and_self_make_parent": _overlapping(frame),
        "same_sites_in_all_runs": _different_runs(frame, ["site"]),
        "same_sequence_in_all_runs": _different_runs(frame, ["level", "start_ns", "span"]),
    }
    return Conservation(
        {name: why is None for name, why in found.items()}, {name: why for name, why in found.items() if why}
    )


def self_times(frame: pl.DataFrame) -> pl.Series:
    """Each span's duration minus that of its children on its own track, in nanoseconds; negative where they overlap."""
    parent = parent_rows(frame)
    duration = (frame["end_ns"] - frame["start_ns"]).to_numpy().copy()
    inner = np.flatnonzero(_synchronous_children(frame, parent))
    spent = np.zeros(frame.height, np.int64)
    np.add.at(spent, parent[inner], duration[inner])
    return pl.Series("self_ns", duration - spent)


def _synchronous_children(frame: pl.DataFrame, parent: np.ndarray) -> np.ndarray:
    track = frame["track"].to_numpy()
    executed = frame["kind"].cast(pl.String).eq("exec").fill_null(False).to_numpy()
    return np.asarray((parent >= 0) & ~executed & (track == track[parent]))


def _negative(frame: pl.DataFrame) -> str | None:
    return _name(frame, (frame["end_ns"] < frame["start_ns"]).to_numpy(), "ends before it starts")


def _outside(frame: pl.DataFrame) -> str | None:
    parent = parent_rows(frame)
    start, end = frame["start_ns"].to_numpy(), frame["end_ns"].to_numpy()
    executed = frame["kind"].cast(pl.String).eq("exec").fill_null(False).to_numpy()
    outside = (parent >= 0) & ~executed & ((start < start[parent]) | (end > end[parent]))
    return _name(frame, outside, "reaches out of its parent")


def _overlapping(frame: pl.DataFrame) -> str | None:
    parent = parent_rows(frame)
    rows = np.flatnonzero(_synchronous_children(frame, parent))
    start, end = frame["start_ns"].to_numpy()[rows], frame["end_ns"].to_numpy()[rows]
    order = np.lexsort((end, start, parent[rows]))
    rows, start, end = rows[order], start[order], end[order]
    siblings = parent[rows][1:] == parent[rows][:-1]
    # Sorted by start, two siblings overlap exactly where some neighbour in the order does.
    overlapping = np.zeros(frame.height, bool)
    overlapping[rows[1:][siblings & (start[1:] < end[:-1])]] = True
    return _name(frame, overlapping, "overlaps a sibling on the same track")


def _different_runs(frame: pl.DataFrame, order: list[str]) -> str | None:
    if frame["site"].null_count():
        return f"{frame['site'].null_count()} spans have no site yet"
    ordered = frame.sort("run", *order)
    runs = ordered.group_by("run", maintain_order=True).agg(pl.col("site"))
    lists = runs["site"].to_list()
    for run, sites in zip(runs["run"].to_list()[1:], lists[1:], strict=True):
        if sites != lists[0]:
            place = next((k for k, (a, b) in enumerate(zip(sites, lists[0], strict=False)) if a != b), None)
            if place is None:
                return f"run {run} has {len(sites)} spans where run {runs['run'][0]} has {len(lists[0])}"
            return f"run {run} has {sites[place]} where run {runs['run'][0]} has {lists[0][place]}"
    return None


def _name(frame: pl.DataFrame, wrong: np.ndarray, what: str) -> str | None:
    rows = np.flatnonzero(wrong)
    if rows.size == 0:
        return None
    named = ", ".join(f"{frame['name'][int(row)]!r} of run {frame['run'][int(row)]}" for row in rows[:_NAMED])
    more = f" and {rows.size - _NAMED} more" if rows.size > _NAMED else ""
    return f"{what}: {named}{more}"
