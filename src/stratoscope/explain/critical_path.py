"""The critical path of one run: the chain of work and waiting that its end-to-end time is made of.

It is walked backwards from the end, always to what arrived last (after Yang & Miller's program activity
graphs, ICDCS 1988). What may have held work up is read from the trace:

- work earlier on the same track (program order, or the order of a device's stream);
- for a device's execution: the call that launched it (correlation id);
- for work on another track than its parent: the parent, at that moment (fork);
- for a parent: its children on other tracks that ended in the meantime (join);
- for a call that waits for the device (`...Synchronize`, a copy that is not asynchronous): the device's work that ended
  during it. Which stream it waits for is not in a trace in general: any counts.

Executions of which no launch is known (markers of a stream's waits) are no work, and are left out. What none of the
above explains is waiting. Work and waiting add up to the end-to-end time exactly.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl

from stratoscope.explain.analyses.choice import chosen
from stratoscope.explain.analyses.leveled_trace import LEVEL_NAMES, LeveledTrace
from stratoscope.explain.analyses.result import COUNT, REAL, TEXT, Analysis, AnalysisOptions, Column, Missing, Rows
from stratoscope.explain.analyses.samples import NS

COLUMNS: Final = (
    Column("order", COUNT, "1", "place on the path, from 0 at the start"),
    Column("kind", TEXT, "", "work, or wait: nothing that the path can be led over ran"),
    Column("level", TEXT, "", "level of the span; of a wait: of the span that then began"),
    Column("name", TEXT, "", "name of the span; of a wait: of the span that then began"),
    Column("track", COUNT, "1", "thread or stream"),
    Column("start_s", REAL, "s", "from the start of the run"),
    Column("duration_s", REAL, "s", "time on the path"),
    Column("share", REAL, "1", "of the end-to-end time"),
    Column("site", TEXT, "", "site of the span"),
)
_WAITS: Final = re.compile(r"(Device|Stream|Event|Context|Ctx)Synchronize|^(cuda|hip|cu)Memcpy(?!.*Async)")


@dataclass(frozen=True, slots=True)
class Step:
    """A piece of the path: [start_ns, end_ns) in the span at `row`, working, or waiting for that span to begin."""

    row: int
    start_ns: int
    end_ns: int
    waiting: bool


def critical_path(trace: LeveledTrace, run: int) -> list[Step]:
    """The path of one run from its start to its end, in order of time. Steps join without a gap.

    The run lasts from the first start to the last end of its spans, executions without a launch apart. Raises Missing
    where the run has no spans.
    """
    rows = np.flatnonzero(trace.spans["run"].to_numpy() == run)
    if rows.size == 0:
        raise Missing(f"run {run} has no spans")
    return _Walk(trace, rows.tolist()).steps()


def path_of_typical_run(trace: LeveledTrace, options: AnalysisOptions) -> Rows:
    """The critical path of the deepest-profiled run whose model time is nearest to the median."""
    size = chosen(trace, options)
    plain = [run for run in trace.runs_of(size) if not run.replayed]
    if not plain:
        raise Missing("there is no run whose times can be used")
    deepest = max(run.deepest for run in plain)
    spans = trace.spans.filter(pl.col("run").is_in([run.run for run in plain if run.deepest == deepest]))
    lengths = spans.group_by("run").agg(ns=pl.col("end_ns").max() - pl.col("start_ns").min()).sort("run")
    off = (lengths["ns"] - lengths["ns"].median()).abs()
    run = int(lengths["run"][int(off.arg_min() or 0)])
    steps = critical_path(trace, run)
    origin, whole = steps[0].start_ns, steps[-1].end_ns - steps[0].start_ns
    rows: list[tuple[Any, ...]] = []
    for order, step in enumerate(steps):
        span = trace.spans.row(step.row, named=True)
        length = step.end_ns - step.start_ns
        rows.append(
            (
                order,
                "wait" if step.waiting else "work",
                LEVEL_NAMES.get(span["level"], str(span["level"])),
                span["name"],
                span["track"],
                (step.start_ns - origin) * NS,
                length * NS,
                length / whole if whole else None,
                span["site"],
            )
        )
    waiting = sum(step.end_ns - step.start_ns for step in steps if step.waiting) * NS
    lost = _without_launch(trace, run)
    note = (f"{lost} executions have no launch in the trace and are left out",) if lost else ()
    facts = {"run": run, "end_to_end_s": whole * NS, "waiting_s": waiting, "steps": len(steps)}
    return Rows(rows, facts, note)


def _without_launch(trace: LeveledTrace, run: int) -> int:
    """How many executions of a run have no launch in it."""
    kind = pl.col("kind").cast(pl.String)
    spans = trace.spans.filter(pl.col("run") == run)
    launches = spans.filter((kind == "launch") & (pl.col("correlation") != 0)).select("correlation")
    return spans.filter(kind == "exec").join(launches, on="correlation", how="anti").height


class _Walk:
    """One run's spans as segments by track, and the walk over them."""

    def __init__(self, trace: LeveledTrace, rows: list[int]) -> None:
        spans = trace.spans
        self.start = spans["start_ns"].to_list()
        self.end = spans["end_ns"].to_list()
        self.track = spans["track"].to_list()
        self.parent = trace.parents.tolist()
        self.name = spans["name"].to_list()
        kind = spans["kind"].cast(pl.String).to_list()
        correlation = spans["correlation"].to_list()
        launches = {correlation[row]: row for row in rows if kind[row] == "launch" and correlation[row]}
        rows = [row for row in rows if kind[row] != "exec" or correlation[row] in launches]
        self.rows = rows
        self.executed = {row for row in rows if kind[row] == "exec"}
        self.launch = {row: launches[correlation[row]] for row in self.executed}
        by_track: dict[int, list[int]] = defaultdict(list)
        for row in rows:
            if kind[row] != "instant":
                by_track[self.track[row]].append(row)
        self.segments = {track: self._segments(held) for track, held in by_track.items()}
        self.begins = {track: [one[0] for one in found] for track, found in self.segments.items()}
        self.joined: dict[int, list[tuple[int, int]]] = defaultdict(list)  # by parent: (end, row) on other tracks
        for row in rows:
            above = self.parent[row]
            elsewhere = above >= 0 and self.track[above] != self.track[row]
            if elsewhere and row not in self.executed and self.end[row] > self.start[row]:
                self.joined[above].append((self.end[row], row))
        self.device = sorted((self.end[row], row) for row in self.executed if self.end[row] > self.start[row])
        for held in self.joined.values():
            held.sort()

    def _segments(self, rows: list[int]) -> list[tuple[int, int, int]]:
        """(start, end, row of the innermost span) of a track, in order, without gaps inside a span."""
        found: list[tuple[int, int, int]] = []
        stack: list[int] = []
        at = 0

        def until(moment: int) -> None:
            nonlocal at
            if moment > at:
                found.append((at, moment, stack[-1]))
                at = moment

        for row in sorted(rows, key=lambda one: (self.start[one], -self.end[one], one)):
            while stack and self.end[stack[-1]] <= self.start[row]:
                until(self.end[stack[-1]])
                stack.pop()
            if stack:
                until(self.start[row])
            at = max(at, self.start[row]) if stack else self.start[row]
            stack.append(row)
        while stack:
            until(self.end[stack[-1]])
            stack.pop()
        return found

    def steps(self) -> list[Step]:
        """The path, in order of time."""
        every = [one for found in self.segments.values() for one in found]
        if not every:
            raise Missing("no span of the run lasts any time")
        origin = min(self.start[row] for row in self.rows)
        _, at, last = max(every, key=lambda one: (one[1], one[2] not in self.executed))
        track = self.track[last]
        found: list[Step] = []
        while at > origin:
            place = bisect_left(self.begins[track], at) - 1
            start, end, row = self.segments[track][max(place, 0)]
            if place < 0 or end < at:  # reached over a span that lasts no time: nothing ran here just before
                found.append(Step(row, max(end, origin) if place >= 0 else origin, at, waiting=True))
                at = found[-1].start_ns
                continue
            arrived = self._awaited(row, start, at)
            if arrived is not None:
                end, other = arrived
                found.append(Step(row, end, at, waiting=False))
                at, track = end, self.track[other]
                continue
            found.append(Step(row, start, at, waiting=False))
            at, track = self._cause(row, start, track, origin)
            if at < start:
                found.append(Step(row, at, start, waiting=True))
        return [step for step in reversed(found) if step.end_ns > step.start_ns]

    def _awaited(self, row: int, start: int, at: int) -> tuple[int, int] | None:
        """The last work on another track that ended in (start, at] and that the span waited for."""
        held = self.joined.get(row, [])
        if row not in self.executed and _WAITS.search(self.name[row]):
            held = self.device
        place = bisect_right(held, (at, len(self.start))) - 1
        return held[place] if place >= 0 and held[place][0] > start else None

    def _cause(self, row: int, start: int, track: int, origin: int) -> tuple[int, int]:
        """(time, track) of what arrived last before the segment of `row` began at `start`."""
        place = bisect_left(self.begins[track], start) - 1
        before = [(self.segments[track][place][1], 1, track)] if place >= 0 else []
        if self.start[row] == start:
            above, launch = self.parent[row], self.launch.get(row)
            if launch is not None and self.start[launch] < start:
                before.append((min(self.end[launch], start), 0, self.track[launch]))
            elif row not in self.executed and above >= 0 and self.track[above] != track and self.start[above] < start:
                before.append((start, 0, self.track[above]))
        at, _, track = max(before, default=(origin, 0, track))
        return at, track


CRITICAL_PATH = Analysis("critical-path", "Critical path", ("model",), COLUMNS, path_of_typical_run)
