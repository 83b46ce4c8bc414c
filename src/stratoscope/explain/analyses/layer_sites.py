"""The layers of a trace: one entry a site, whatever runs it was seen in, with its times and what is told of it."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stratoscope.explain.analyses import facts as told
from stratoscope.explain.analyses.facts import Facts
from stratoscope.explain.analyses.leveled_trace import LeveledTrace
from stratoscope.explain.analyses.samples import NS, Estimate, estimate_s
from stratoscope.spec.record import LayerRow
from stratoscope.trace.levels import Level

#: Half of the 95 % interval of the mean rounding error of many durations, each uniform over one unit of the clock.
_UNIFORM_95: Final = 1.96 / math.sqrt(12)

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class LayerSite:
    """One layer.

    Attributes:
        index: place in the order of execution, from 0.
        container: other layers run inside it (a module of modules): its own time is what they leave.
        time: from runs whose deepest level is the layer level; nothing where there are none.
        self_time: likewise, without the layers inside.
        samples_s: the durations behind `time`.
        runs: in how many runs it was seen, at any depth of profiling.
    """

    index: int
    site: str
    name: str
    facts: Facts
    container: bool
    time: Estimate
    self_time: Estimate
    samples_s: tuple[float, ...]
    runs: int

    @property
    def type(self) -> str:
        """Its operator or layer type; its name where none is told."""
        return self.facts.type or self.name


class Layers(NamedTuple):
    """The layers in order of execution; from how many timed runs, and what has to be said of them."""

    sites: tuple[LayerSite, ...]
    timed_runs: int
    notes: tuple[str, ...]


def layers_of(trace: LeveledTrace, batch_size: int | None) -> Layers:
    """All layers at one batch size. Sites are joined over all runs: none is lost for being absent from the first.

    The order is that of the run with the most layers (the first of equals, timed runs before others); a layer that it
    does not have is placed by its median offset from the start of its run.
    """
    key = ("layers", batch_size)
    if key not in trace.kept:
        trace.kept[key] = _extract(trace, batch_size)
    found: Layers = trace.kept[key]
    return found


def _extract(trace: LeveledTrace, batch_size: int | None) -> Layers:
    runs = [run.run for run in trace.runs_of(batch_size)]
    timed = trace.timed(batch_size, Level.LAYER)
    rows = trace.rows(Level.LAYER, runs)
    if rows.size == 0:
        return Layers((), 0, ())
    inside = _children_time(trace, rows)
    resolution = _resolution_ns(trace, timed)
    sites = trace.spans["site"].gather(rows).to_list()
    numbers = trace.spans["run"].gather(rows).to_list()
    places: dict[str, list[int]] = defaultdict(list)
    for place, site in enumerate(sites):
        places[site].append(place)
    order = _in_order(trace, rows, sites, numbers, timed)
    found = []
    for index, site in enumerate(order):
        held = [int(rows[place]) for place in places[site]]
        mine = [row for row, place in zip(held, places[site], strict=True) if numbers[place] in timed]
        found.append(_site(trace, index, site, held, mine, inside, resolution))
    known = _with_record(found, trace.layers)
    counted = Counter(site for site, number in zip(sites, numbers, strict=True) if number in timed)
    partial = sum(0 < counted[site] < len(timed) for site in order)
    untimed = sum(counted[site] == 0 for site in order) if timed else 0
    notes = [
        f"{partial} of {len(order)} layers ran in some of the {len(timed)} layer-profiled runs only" if partial else "",
        f"{untimed} of {len(order)} layers were seen in deeper runs only and have no time" if untimed else "",
    ]
    return Layers(tuple(known), len(timed), tuple(note for note in notes if note))


def _site(
    trace: LeveledTrace,
    index: int,
    site: str,
    rows: Sequence[int],
    timed: Sequence[int],
    inside: Mapping[int, tuple[int, int]],
    resolution_ns: int,
) -> LayerSite:
    name = str(trace.spans["name"][rows[0]])
    texts = trace.spans["attributes"].gather(list(rows)).to_list()
    durations = [int(trace.durations[row]) for row in timed]
    selves = [duration - inside.get(row, (0, 0))[0] for duration, row in zip(durations, timed, strict=True)]
    children = max((inside.get(row, (0, 0))[1] for row in rows), default=0)
    time = resolved(estimate_s(durations), 0, resolution_ns)
    return LayerSite(
        index=index,
        site=site,
        name=name,
        facts=told.merged(told.parse(name, text) for text in texts),
        container=children > 0,
        time=time,
        self_time=resolved(estimate_s(selves), children, resolution_ns) if children else time,
        samples_s=tuple(duration * NS for duration in durations),
        runs=len(rows),
    )


def resolved(time: Estimate, inside: int, resolution_ns: int) -> Estimate:
    """A duration that the clock rounded down, less those of `inside` others: the expected loss of half a unit added.

    As in the record's layer times: the interval gets wider by what rounding may be off.
    """
    if time.value is None or resolution_ns == 0:
        return time
    unit = resolution_ns * NS
    shift = unit * (1 - inside) / 2
    doubt = unit * min((1 + inside) / 2, _UNIFORM_95 * math.sqrt(1 + inside))
    if time.low is None or time.high is None:
        return Estimate(time.value + shift, None, None, time.n)
    return Estimate(time.value + shift, time.low + shift - doubt, time.high + shift + doubt, time.n)


def _children_time(trace: LeveledTrace, rows: Ints) -> dict[int, tuple[int, int]]:
    """For each layer with layers inside: their time in ns and their number, counted at the nearest enclosing one."""
    outer = trace.ancestors(Level.LAYER)
    found: dict[int, tuple[int, int]] = {}
    for row in rows[outer[rows] >= 0].tolist():
        time, count = found.get(int(outer[row]), (0, 0))
        found[int(outer[row])] = (time + int(trace.durations[row]), count + 1)
    return found


def _resolution_ns(trace: LeveledTrace, runs: Iterable[int]) -> int:
    """The unit to which the layers' clock rounds down, as the model spans tell; 0 where it does not."""
    wanted = pl.col("run").is_in(list(runs)) & (pl.col("level") == Level.MODEL.value)
    texts = trace.spans.filter(wanted)["attributes"].drop_nulls().unique().to_list()
    return max((told.rounding_ns(text) for text in texts), default=0)


def _in_order(
    trace: LeveledTrace, rows: Ints, sites: Sequence[str], runs: Sequence[int], timed: frozenset[int]
) -> list[str]:
    starts = trace.spans["start_ns"].gather(rows).to_list()
    first = trace.spans.group_by("run").agg(pl.col("start_ns").min())
    origin = dict(first.select("run", "start_ns").iter_rows())
    counts = Counter(runs)
    reference = max(counts, key=lambda run: (run in timed, counts[run], -run))
    offsets: dict[str, list[int]] = defaultdict(list)
    held: dict[str, int] = {}
    for site, run, start in zip(sites, runs, starts, strict=True):
        offsets[site].append(start - origin[run])
        if run == reference:
            held[site] = start - origin[run]
    seen = {site: place for place, site in enumerate(dict.fromkeys(sites))}
    return sorted(offsets, key=lambda site: (held.get(site, float(np.median(offsets[site]))), seen[site]))


def _with_record(sites: Sequence[LayerSite], rows: Sequence[LayerRow]) -> list[LayerSite]:
    """The layers with the work that the record has for them: the k-th of a name there is the k-th of it here."""
    known: dict[tuple[str, int], LayerRow] = {}
    counts: Counter[str] = Counter()
    for row in rows:
        known[row.name, counts[row.name]] = row
        counts[row.name] += 1
    mine = Counter(site.name for site in sites)
    seen: Counter[str] = Counter()
    found = []
    for site in sites:
        match = known.get((site.name, seen[site.name])) if mine[site.name] == counts[site.name] else None
        seen[site.name] += 1
        if match is None:
            found.append(site)
            continue
        facts = told.with_work(site.facts, match.flops.value, match.bytes.value)
        if facts.type is None:
            facts = replace(facts, type=match.op)
        found.append(replace(site, facts=facts))
    return found
