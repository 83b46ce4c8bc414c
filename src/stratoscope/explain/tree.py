"""The top-down tree of a trace: model > layer > operator > primitive, with the time that is each one's own."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import polars as pl

from stratoscope.explain.analyses.choice import chosen
from stratoscope.explain.analyses.leveled_trace import LEVEL_NAMES, LeveledTrace
from stratoscope.explain.analyses.result import (
    COUNT,
    FLAG,
    REAL,
    TEXT,
    Analysis,
    AnalysisOptions,
    Column,
    Missing,
    Rows,
    notes,
)
from stratoscope.explain.analyses.samples import NS, estimate_s, share
from stratoscope.trace.check import self_times

COLUMNS: Final = (
    Column("depth", COUNT, "1", "steps below the root, from 0"),
    Column("level", TEXT, "", "level of the stack"),
    Column("name", TEXT, "", "name of the span"),
    Column("calls", REAL, "1", "spans of one inference that this line stands for (mean)"),
    Column("total_s", REAL, "s", "mean over the deepest-profiled runs, with what is inside"),
    Column("self_s", REAL, "s", "likewise, without what is inside on the same track"),
    Column("share", REAL, "1", "of the roots' total"),
    Column(
        "level_time_s", REAL, "s", "20 % trimmed mean over the runs whose deepest level is this one's; else unknown"
    ),
    Column("aside", FLAG, "", "it runs on another track than its parent (a device, a thread): not part of its time"),
    Column("path", TEXT, "", "the site, or with merged calls the site without k"),
)


@dataclass(slots=True)
class _Node:
    """One line: durations and own times in ns and calls, by run."""

    level: int
    name: str
    path: str
    aside: bool
    total: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    own: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    calls: int = 0
    children: dict[str, _Node] = field(default_factory=dict)


def top_down(trace: LeveledTrace, options: AnalysisOptions, *, merge: bool = False) -> Rows:
    """The tree in depth-first order: in order of execution, or with `merge` calls of one name together, longest first.

    Total and own time are means over the runs profiled deepest (a node that a run does not have counts as zero there),
    so that own time and the children on the same track add up to the total exactly; deeper profiling inflates them, and
    `level_time_s` is what to quote. Work of a device does not count in the time of what launched it.
    """
    size = chosen(trace, options)
    plain = [run for run in trace.runs_of(size) if not run.replayed]
    if not plain:
        raise Missing("no run to show: all collected counters by replay" if trace.runs else "there are no spans")
    deepest = max(run.deepest for run in plain)
    runs = [run.run for run in plain if run.deepest == deepest]
    roots = _grow(trace, runs, merge)
    whole = sum(sum(node.total.values()) for node in roots if not node.aside) / len(runs) * NS
    published = _level_times(trace, size)
    rows: list[tuple[Any, ...]] = []
    stack = [(node, 0) for node in reversed(_ordered(roots, merge))]
    while stack:
        node, depth = stack.pop()
        total = sum(node.total.values()) / len(runs) * NS
        own = sum(node.own.values()) / len(runs) * NS
        rows.append(
            (
                depth,
                LEVEL_NAMES.get(node.level, str(node.level)),
                node.name,
                node.calls / len(runs),
                total,
                own,
                share(total, whole),
                None if merge else published.get(node.path),
                node.aside,
                node.path,
            )
        )
        stack += [(child, depth + 1) for child in reversed(_ordered(list(node.children.values()), merge))]
    negative = sum(row[5] < 0 for row in rows)
    overlap = f"{negative} lines have children that overlap: their own time is negative" if negative else ""
    below = f"means over {len(runs)} runs profiled down to the {LEVEL_NAMES.get(deepest, deepest)} level"
    return Rows(rows, {"runs": len(runs), "total_s": whole}, notes(below, overlap))


def _grow(trace: LeveledTrace, runs: list[int], merge: bool) -> list[_Node]:
    spans = trace.spans
    wanted = np.isin(spans["run"].to_numpy(), runs)
    own = self_times(spans).to_numpy()
    columns = {name: spans[name].to_list() for name in ("run", "level", "name", "track", "site")}
    executed = (spans["kind"].cast(pl.String) == "exec").fill_null(False).to_list()
    roots: dict[str, _Node] = {}
    nodes: dict[int, _Node] = {}
    parents = trace.parents.tolist()
    order = np.lexsort((spans["span"].to_numpy(), spans["start_ns"].to_numpy(), spans["run"].to_numpy()))
    for first in order.tolist():
        chain = []
        row = first
        while (
            wanted[first] and row >= 0 and row not in nodes
        ):  # a device's work may start before its launcher's sibling
            chain.append(row)
            row = parents[row]
        for row in reversed(chain):
            level, name, run = columns["level"][row], columns["name"][row], columns["run"][row]
            above = nodes[parents[row]] if parents[row] >= 0 else None
            elsewhere = above is not None and columns["track"][row] != columns["track"][parents[row]]
            aside = executed[row] or elsewhere
            key = f"{level}:{name}" if merge else columns["site"][row]
            path = f"{above.path}|{key}" if merge and above else key
            held = above.children if above else roots
            node = held.setdefault(f"{path}{'|aside' if aside else ''}", _Node(level, name, path, aside))
            node.total[run] += int(trace.durations[row])
            node.own[run] += int(own[row])
            node.calls += 1
            nodes[row] = node
    return list(roots.values())


def _ordered(nodes: list[_Node], merge: bool) -> list[_Node]:
    return sorted(nodes, key=lambda node: -sum(node.total.values())) if merge else nodes


def _level_times(trace: LeveledTrace, size: int | None) -> dict[str, float]:
    """Time of each site from the runs whose deepest level is its own."""
    found: dict[str, list[int]] = defaultdict(list)
    for level in {run.deepest for run in trace.runs_of(size)}:
        rows = trace.rows(level, trace.timed(size, level))
        for site, duration in zip(trace.spans["site"].gather(rows).to_list(), trace.durations[rows], strict=True):
            found[site].append(int(duration))
    return {site: value for site, times in found.items() if (value := estimate_s(times).value) is not None}


def _merged(trace: LeveledTrace, options: AnalysisOptions) -> Rows:
    return top_down(trace, options, merge=True)


TREE = Analysis("tree", "Top-down tree", ("model",), COLUMNS, top_down)
MERGED_TREE = Analysis("tree-merged", "Top-down tree, calls of one name together", ("model",), COLUMNS, _merged)
