"""Differences between two traces, site by site: which layers, operators or kernels got slower, came or went."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Final

import polars as pl

from stratoscope.errors import TraceError
from stratoscope.explain.analyses.choice import chosen
from stratoscope.explain.analyses.leveled_trace import LEVEL_NAMES, LeveledTrace
from stratoscope.explain.analyses.result import REAL, TEXT, AnalysisOptions, AnalysisResult, Column, Missing, notes
from stratoscope.explain.analyses.samples import NS, Estimate, difference, estimate_s
from stratoscope.stats.compare import compare
from stratoscope.stats.estimators import MIN_FOR_INTERVAL
from stratoscope.trace.check import self_times

COLUMNS: Final = (
    Column(
        "site", TEXT, "", "path of (level, name, k-th occurrence); a root's name counts only where there are several"
    ),
    Column("level", TEXT, "", "level of the stack"),
    Column("name", TEXT, "", "name of the span"),
    Column("status", TEXT, "", "both, only A, or only B"),
    Column("a_self_s", REAL, "s", "time that is its own in A: without what is inside on its track; 20 % trimmed mean"),
    Column("b_self_s", REAL, "s", "likewise in B"),
    Column("self_change_s", REAL, "s", "B - A of the own time; a side that has no such site counts as zero"),
    Column("a_total_s", REAL, "s", "with what is inside, in A"),
    Column("b_total_s", REAL, "s", "likewise in B"),
    Column("total_change_s", REAL, "s", "B - A, where both have it"),
    Column("total_change_low_s", REAL, "s", "lower end of its interval: as wide as the two 95 % intervals allow"),
    Column("total_change_high_s", REAL, "s", "upper end of its interval"),
    Column("verdict", TEXT, "", "of B: faster, slower or no difference seen; unknown below three samples a side"),
)
_ROOT: Final = re.compile(r"^(\d+):(?:[^\\|]|\\.)*?#(\d+)(?=\||$)")


@dataclass(slots=True)
class _Site:
    """The samples of one site in ns, over the runs that have it."""

    level: int
    name: str
    total: list[int] = field(default_factory=list)
    own: list[int] = field(default_factory=list)


def diff_traces(
    a: LeveledTrace, b: LeveledTrace, options_a: AnalysisOptions | None = None, options_b: AnalysisOptions | None = None
) -> AnalysisResult:
    """How trace `b` differs from `a`, the greatest change of own time first.

    Compared are the runs of one depth of profiling, the deepest that both have, so that the cost of looking is in both.
    Own times are disjoint: their changes add up to that of the whole, but for what trimming leaves; `facts` tells it.
    The verdict is that of `stats.compare` on the totals.

    Raises:
        TraceError: a trace has no spans or several batch sizes, or no depth of profiling is in both.
    """
    try:
        size_a, size_b = chosen(a, options_a or AnalysisOptions()), chosen(b, options_b or AnalysisOptions())
    except Missing as missing:
        raise TraceError(str(missing), hint="name a batch size") from None
    depths = _depths(a, size_a) & _depths(b, size_b)
    if not depths:
        raise TraceError(
            "the traces have no depth of profiling in common",
            hint="record both down to the same level, with the same back end",
        )
    deepest = max(depths)
    first, second = _sites(a, size_a, deepest), _sites(b, size_b, deepest)
    rows = [_row(site, first.get(site), second.get(site)) for site in dict.fromkeys([*first, *second])]
    rows.sort(key=lambda row: (-abs(row[6]), row[0]))
    both = sum(row[3] == "both" for row in rows)
    whole = _whole(first, second)
    summed = sum(row[6] for row in rows)
    facts = {
        "depth": LEVEL_NAMES.get(deepest, str(deepest)),
        "sites_both": both,
        "sites_only_a": sum(row[3] == "only A" for row in rows),
        "sites_only_b": sum(row[3] == "only B" for row in rows),
        "change_s": whole,
        "summed_self_change_s": summed,
        "unexplained_s": None if whole is None else whole - summed,
    }
    frame = pl.DataFrame(rows, schema={one.name: one.dtype for one in COLUMNS}, orient="row")
    alone = "no site is in both traces: they are of different models or back ends" if not both else ""
    inside = f"times of runs profiled down to the {facts['depth']} level, the cost of looking included"
    return AnalysisResult("diff", "Differences by site", COLUMNS, frame, facts, notes(inside, alone))


def _depths(trace: LeveledTrace, size: int | None) -> set[int]:
    return {run.deepest for run in trace.runs_of(size) if not run.replayed}


def _sites(trace: LeveledTrace, size: int | None, deepest: int) -> dict[str, _Site]:
    runs = trace.timed(size, deepest)
    spans = trace.spans.with_columns(own=self_times(trace.spans), total=pl.col("end_ns") - pl.col("start_ns"))
    spans = spans.filter(pl.col("run").is_in(list(runs)))
    roots = {_named_root(site) for site in spans.filter(pl.col("parent").is_null())["site"].unique().to_list()}
    found: dict[str, _Site] = {}
    columns = spans.sort("run", "start_ns", "span").select("site", "level", "name", "total", "own")
    for site, level, name, total, own in columns.iter_rows():
        joined = _ROOT.sub(r"\1:*#\2", site) if len(roots) == 1 else site
        entry = found.setdefault(joined, _Site(level, name))
        entry.total.append(total)
        entry.own.append(own)
    return found


def _named_root(site: str) -> str:
    match = _ROOT.match(site)
    return site if match is None else match[0].rpartition("#")[0]


def _row(site: str, a: _Site | None, b: _Site | None) -> tuple[Any, ...]:
    here = a or b
    assert here is not None
    own_a, own_b = (_estimates(one)[1] for one in (a, b))
    total_a, total_b = (_estimates(one)[0] for one in (a, b))
    change = difference(total_b, total_a)
    return (
        site,
        LEVEL_NAMES.get(here.level, str(here.level)),
        here.name,
        "both" if a and b else "only A" if a else "only B",
        own_a.value,
        own_b.value,
        (own_b.value or 0.0) - (own_a.value or 0.0),
        total_a.value,
        total_b.value,
        *change.times(),
        _verdict(a, b),
    )


def _estimates(site: _Site | None) -> tuple[Estimate, Estimate]:
    return (estimate_s([]),) * 2 if site is None else (estimate_s(site.total), estimate_s(site.own))


def _verdict(a: _Site | None, b: _Site | None) -> str | None:
    if a is None or b is None or min(len(a.total), len(b.total)) < MIN_FOR_INTERVAL:
        return None
    if min(*a.total, *b.total) <= 0:
        return None  # a clock too coarse for it: a ratio of such times means nothing
    return compare([one * NS for one in a.total], [one * NS for one in b.total]).verdict


def _whole(a: dict[str, _Site], b: dict[str, _Site]) -> float | None:
    """The change of the roots' total; None where a trace has no root."""
    sums: dict[int, float] = defaultdict(float)
    for side, sites in enumerate((a, b)):
        for site, entry in sites.items():
            if _ROOT.fullmatch(site):
                sums[side] += estimate_s(entry.total).value or 0.0
    return sums[1] - sums[0] if len(sums) == 2 else None
