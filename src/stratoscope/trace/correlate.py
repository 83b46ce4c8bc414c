"""Puts spans of one trace into their tree: parents by one sweep a track, and the sites that join runs.

The rules, after XSP (leveled experimentation) and with its gaps closed:

- Intervals are half-open. A span encloses another on its track when it starts no later and ends no earlier; of two
  equal intervals the lower level number is the outer one, then the smaller span id. An empty interval encloses nothing.
- The parent is the nearest enclosing span whose level number is lower or equal. Equal, because operators nest.
- A span without one on its own track (a layer on a worker thread) looks at the other tracks of its run, for spans of a
  strictly lower level number: the deepest level that encloses it, if spans of one track only are there.
- An execution span (kind "exec") takes the parent of the launch span with its correlation id: it runs when it runs, and
  interval containment would be chance.
- A parent that is set already (by a recorder that knows it) stays.
- What is ambiguous, or overlaps without nesting, is flagged and left as it is; nothing is clipped.
"""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stratoscope.errors import TraceError
from stratoscope.trace.spans import SPAN_SCHEMA

#: Separates the steps of a site; inside a name it is escaped with a backslash.
SITE_SEPARATOR: Final = "|"

OVERLAP: Final = "overlaps another span of its track without nesting"
AMBIGUOUS: Final = "enclosed by spans of several tracks"
NO_LAUNCH: Final = "not exactly one launch span has its correlation id"

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Correlation(NamedTuple):
    """Spans with parents, and those that could not be placed for certain: columns `span` and `why`."""

    spans: pl.DataFrame
    flagged: pl.DataFrame


def assign_parents(frame: pl.DataFrame) -> pl.DataFrame:
    """`frame` (trace.spans.SPAN_SCHEMA) with `parent` filled by the rules above; order of rows kept.

    Raises:
        TraceError: a span ends before it starts, or two spans have one id.
    """
    return correlate(frame).spans


def correlate(frame: pl.DataFrame) -> Correlation:
    """As `assign_parents`, with the spans that were flagged and why.

    Takes time in n log n; a track with partial overlaps is swept in Python, the others in arrays.
    """
    table = _Table.of(frame)
    if table.size == 0:
        return Correlation(frame, _flagged(table, {}))
    flags: dict[str, Bools] = {}
    sync = ~table.executed
    for begin, end in table.tracks():
        _sweep(table, begin, end, sync)
    flags[OVERLAP] = table.overlapping
    parent = table.nearest_by_level()
    flags[AMBIGUOUS] = _across_tracks(table, parent, sync & (parent < 0))
    flags[NO_LAUNCH] = _from_launches(table, parent)
    spans = np.full(table.size, -1, np.int64)
    spans[table.order] = np.where(parent >= 0, table.span[parent], -1)
    found = pl.Series("parent", spans, dtype=pl.Int64)
    filled = frame.with_columns(parent=pl.coalesce("parent", pl.when(found >= 0).then(found)))
    known = frame["parent"].is_not_null().to_numpy()[table.order]
    return Correlation(filled, _flagged(table, {why: mask & ~known for why, mask in flags.items()}))


def assign_sites(frame: pl.DataFrame) -> pl.DataFrame:
    """`frame` with `site` filled: `level:name#k` of each step from the root, joined by `|`; order of rows kept.

    k counts spans of the same level and name under one parent (roots: in one run) in order of start. Spans of different
    runs that have one site are the same thing done again.

    Raises:
        TraceError: a parent is not in the frame, or parents form a circle.
    """
    if frame.height == 0:
        return frame
    rank = pl.col("span").cum_count().over(["run", "parent", "level", "name"], order_by=["start_ns", "span"]) - 1
    name = pl.col("name").str.replace_all("\\", "\\\\", literal=True).str.replace_all("|", "\\|", literal=True)
    step = frame.select(
        pl.concat_str(pl.col("level").cast(pl.String), pl.lit(":"), name, pl.lit("#"), rank.cast(pl.String))
    ).to_series()
    parent = parent_rows(frame)
    site = step.clone()  # scatter writes in place
    climb = parent.copy()
    at = np.flatnonzero(climb >= 0)
    # Each round prepends one step to every path that is not yet at its root: as many rounds as the tree is deep.
    for _ in range(frame.height):
        if at.size == 0:
            return frame.with_columns(site=site)
        longer = step.gather(climb[at]) + SITE_SEPARATOR + site.gather(at)
        site = site.scatter(at, longer)
        climb[at] = parent[climb[at]]
        at = at[climb[at] >= 0]
    raise TraceError(
        "the parents of the trace form a circle", hint="the trace was put together wrongly; record it again"
    )


def parent_rows(frame: pl.DataFrame) -> Ints:
    """The row of each span's parent, -1 at a root.

    Raises:
        TraceError: a parent is not in the frame, or two spans have one id.
    """
    span = frame["span"].to_numpy()
    order = np.argsort(span, kind="stable")
    ordered = span[order]
    if (ordered[1:] == ordered[:-1]).any():
        raise TraceError(f"span id {ordered[:-1][ordered[1:] == ordered[:-1]][0]} is used twice in the trace")
    has = frame["parent"].is_not_null().to_numpy()
    wanted = frame["parent"].fill_null(0).to_numpy()
    place = np.minimum(np.searchsorted(ordered, wanted), max(span.size - 1, 0))
    lost = has & (ordered[place] != wanted) if span.size else has
    if lost.any():
        raise TraceError(
            f"the parent {wanted[lost][0]} of a span is not in the trace", hint="do not filter parents out"
        )
    return np.where(has, order[place], -1) if span.size else np.empty(0, np.int64)


@dataclass(slots=True)
class _Table:
    """The columns as arrays, sorted by run, track, start, -end, level, span; `order` leads back to the frame's rows."""

    order: Ints
    span: Ints
    run: Ints
    track: Ints
    start: Ints
    end: Ints
    level: Ints
    executed: Bools
    correlation: Ints
    launch: Bools
    nest: Ints  # row of the nearest enclosing span on the track, any level; -1: none
    overlapping: Bools
    laminar: dict[int, bool]  # by the first row of a track: all its spans nest

    @classmethod
    def of(cls, frame: pl.DataFrame) -> _Table:
        span, run, track, start, end, level, correlation = (
            frame[name].to_numpy().astype(np.int64)
            for name in ("span", "run", "track", "start_ns", "end_ns", "level", "correlation")
        )
        if (end < start).any():
            row = int(np.argmax(end < start))
            raise TraceError(f"span {frame['name'][row]!r} ends {start[row] - end[row]} ns before it starts")
        ordered = span if (span[1:] > span[:-1]).all() else np.sort(span)
        if (ordered[1:] == ordered[:-1]).any():
            raise TraceError("two spans of the trace have one id")
        executed, launch = ((frame["kind"] == kind).fill_null(False).to_numpy() for kind in ("exec", "launch"))
        order = np.lexsort((span, level, -end, start, track, run))
        size = span.size
        return cls(
            order=order,
            span=span[order],
            run=run[order],
            track=track[order],
            start=start[order],
            end=end[order],
            level=level[order],
            executed=executed[order],
            correlation=correlation[order],
            launch=launch[order],
            nest=np.full(size, -1, np.int64),
            overlapping=np.zeros(size, bool),
            laminar={},
        )

    @property
    def size(self) -> int:
        return int(self.span.size)

    def tracks(self) -> list[tuple[int, int]]:
        """Row ranges of one track in one run."""
        change = (self.run[1:] != self.run[:-1]) | (self.track[1:] != self.track[:-1])
        edges = [0, *(np.flatnonzero(change) + 1).tolist(), self.size]
        return list(itertools.pairwise(edges))

    def nearest_by_level(self) -> Ints:
        """The nearest enclosing row of a lower or equal level: up the nesting until the level allows it."""
        parent = self.nest.copy()
        at = np.flatnonzero(parent >= 0)
        while at.size:
            at = at[self.level[parent[at]] > self.level[at]]
            parent[at] = self.nest[parent[at]]
            at = at[parent[at] >= 0]
        return parent


def _sweep(table: _Table, begin: int, end: int, sync: Bools) -> None:
    """Fills `nest` (and `overlapping`) for one track: vectorised where all spans nest, else with a stack."""
    rows = begin + np.flatnonzero(sync[begin:end])
    start, stop = table.start[rows], table.end[rows]
    nest = _nest_laminar(start, stop)
    table.laminar[begin] = nest is not None
    if nest is None:
        nest, overlapping = _nest_by_stack(start.tolist(), stop.tolist())
        table.overlapping[rows] = overlapping
    inside = nest >= 0
    table.nest[rows[inside]] = rows[nest[inside]]


def _nest_laminar(start: Ints, stop: Ints) -> Ints | None:
    """Nearest enclosing index of each span, -1 at a root; None where some spans overlap without nesting.

    `start`, `stop` come sorted by (start, -stop). A span's depth is the number of earlier spans still open at its
    start; its parent is the last earlier span that is one less deep. If each parent found so encloses its child, all
    spans nest: the first span that overlaps an open one without nesting does so with the innermost open one too, and
    that is the one found.
    """
    size = start.size
    index = np.arange(size)
    closed = np.searchsorted(np.sort(stop), start, side="right")
    # Empty spans at this very start are counted as closed although they come later in the order.
    empty = np.cumsum(np.concatenate(([0], stop == start)))
    group_end = np.searchsorted(start, start, side="right")
    depth = index - closed + (empty[group_end] - empty[index])
    nest = np.full(size, -1, np.int64)
    for level in range(1, int(depth.max(initial=0)) + 1):
        here = np.flatnonzero(depth == level)
        outer = np.flatnonzero(depth == level - 1)
        place = np.searchsorted(outer, here) - 1
        if (place < 0).any():
            return None
        nest[here] = outer[place]
    inside = nest >= 0
    return nest if (stop[nest[inside]] >= stop[inside]).all() else None


def _nest_by_stack(start: list[int], stop: list[int]) -> tuple[Ints, Bools]:
    """As `_nest_laminar` for spans that need not nest, and which of them overlap another; in n log n as well.

    Of two open spans the one that began later and ends no earlier hides the other from all that follow, so that the
    stack of those that can still be a parent has falling ends. A span overlaps an earlier one where the first end after
    its start comes before its own, and a later one where some span that starts inside it ends behind it.
    """
    size = len(start)
    nest = np.full(size, -1, np.int64)
    overlapping = np.zeros(size, bool)
    holders: list[int] = []
    ends: list[int] = []  # a heap
    for row, (begin, end) in enumerate(zip(start, stop, strict=True)):
        while holders and stop[holders[-1]] < end:
            holders.pop()
        # An empty span does not lie inside one that ends where it starts.
        nest[row] = next((other for other in reversed(holders) if stop[other] > begin), -1)
        while holders and stop[holders[-1]] <= end:
            holders.pop()
        holders.append(row)
        while ends and ends[0] <= begin:
            heapq.heappop(ends)
        overlapping[row] = bool(ends) and ends[0] < end
        heapq.heappush(ends, end)
    begins, stops = np.array(start, np.int64), np.array(stop, np.int64)
    inside = np.searchsorted(begins, stops, side="left")
    overlapping |= _largest(stops, np.arange(1, size + 1), inside) > stops
    return nest, overlapping


def _largest(values: Ints, begin: Ints, end: Ints) -> Ints:
    """The largest of values[begin:end] for each pair, the least integer if none; by maxima over powers of two."""
    found = np.full(values.size, np.iinfo(np.int64).min, np.int64)
    table, width = values, 1
    count = end - begin
    while width <= values.size:
        rows = np.flatnonzero((count >= width) & (count < 2 * width))
        found[rows] = np.maximum(table[begin[rows]], table[end[rows] - width])
        table = np.maximum(table[:-width], table[width:])
        width *= 2
    return found


def _across_tracks(table: _Table, parent: Ints, orphans: Bools) -> Bools:
    """Gives spans without a parent on their track one on another track; returns which of them are ambiguous."""
    ambiguous = np.zeros(table.size, bool)
    by_run: dict[int, list[tuple[int, int]]] = {}
    for begin, end in table.tracks():
        by_run.setdefault(int(table.run[begin]), []).append((begin, end))
    for tracks in by_run.values():
        if len(tracks) == 1:
            continue
        rows = np.arange(tracks[0][0], tracks[-1][1])
        pending = rows[orphans[rows]]
        for level in sorted(set(table.level[rows].tolist()), reverse=True):
            pending = pending[(parent[pending] < 0) & ~ambiguous[pending]]
            children = pending[table.level[pending] > level]
            found = np.zeros(children.size, np.int64)
            candidate = np.full(children.size, -1, np.int64)
            for begin, end in tracks:
                holder = _enclosing(table, begin, end, level, children)
                holder[(children >= begin) & (children < end)] = -1
                found += holder >= 0
                candidate = np.where(holder >= 0, holder, candidate)
            parent[children[found == 1]] = candidate[found == 1]
            ambiguous[children[found > 1]] = True
    return ambiguous


def _enclosing(table: _Table, begin: int, end: int, level: int, children: Ints) -> Ints:
    """For each child the innermost span of `level` in rows [begin, end) that encloses it, or -1."""
    rows = begin + np.flatnonzero((table.level[begin:end] == level) & ~table.executed[begin:end])
    if rows.size == 0 or children.size == 0:
        return np.full(children.size, -1, np.int64)
    start, stop = table.start[children], table.end[children]
    if not table.laminar[begin]:
        return np.array([_innermost(table, rows, *span) for span in zip(start, stop, strict=True)], np.int64)
    place = np.searchsorted(table.start[rows], start, side="right") - 1
    holder = np.where(place >= 0, rows[place], -1)
    # Every span that encloses the child also encloses the start of the last one begun before it: go up from there.
    at = np.flatnonzero(holder >= 0)
    while at.size:
        held = holder[at]
        fits = (table.end[held] >= stop[at]) & (table.end[held] > start[at]) & (table.level[held] == level)
        at = at[~fits]
        holder[at] = table.nest[holder[at]]
        at = at[holder[at] >= 0]
    return holder


def _innermost(table: _Table, rows: Ints, start: int, stop: int) -> int:
    """The last begun of `rows` that encloses [start, stop), or -1."""
    fits = rows[(table.start[rows] <= start) & (table.end[rows] >= stop) & (table.end[rows] > start)]
    return int(fits[-1]) if fits.size else -1


def _from_launches(table: _Table, parent: Ints) -> Bools:
    """Gives execution spans the parent of their launch; returns those without exactly one launch in their run."""
    lost = np.zeros(table.size, bool)
    executed = np.flatnonzero(table.executed)
    if executed.size == 0:
        return lost
    launches = np.flatnonzero(table.launch & (table.correlation != 0))
    # One number for each pair of run and correlation id.
    rows = np.concatenate((launches, executed))
    runs, run = np.unique(table.run[rows], return_inverse=True)
    _, correlation = np.unique(table.correlation[rows], return_inverse=True)
    key = correlation * runs.size + run
    called, wanted = key[: launches.size], key[launches.size :]
    calls = np.bincount(called, minlength=int(key.max()) + 1)
    launch_of = np.full(calls.size, -1, np.int64)
    launch_of[called] = launches
    known = calls[wanted] == 1
    lost[executed[~known]] = True
    parent[executed[known]] = parent[launch_of[wanted[known]]]
    return lost


def _flagged(table: _Table, flags: dict[str, Bools]) -> pl.DataFrame:
    rows = [(int(span), why) for why, mask in flags.items() for span in np.sort(table.span[mask])]
    return pl.DataFrame(rows, schema={"span": SPAN_SCHEMA["span"], "why": pl.String()}, orient="row")
