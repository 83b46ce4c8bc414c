"""The kernels of a trace (on a CPU: calls of a library): one entry a site, with its time, its work and its layer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stratoscope.explain.analyses import facts as told
from stratoscope.explain.analyses.facts import Facts
from stratoscope.explain.analyses.leveled_trace import LEVEL_NAMES, LeveledTrace
from stratoscope.explain.analyses.samples import Estimate, estimate_s, total
from stratoscope.explain.roofs import Place, Roofs, place
from stratoscope.trace.levels import Level

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class KernelSite:
    """One kernel call, or call of a library: its time is that of its execution, not of its launch.

    Attributes:
        order: place in the order of launch, from 0.
        layer: site of the layer that launched it; None outside of all layers.
        operator: name of the nearest operator above it, or None.
        time: from runs whose deepest level is its own, and without counters.
        runs: in how many runs it was seen.
    """

    order: int
    site: str
    name: str
    layer: str | None
    operator: str | None
    facts: Facts
    time: Estimate
    runs: int


class Kernels(NamedTuple):
    """The kernels in order of launch, the level they stand at, and what has to be said of them."""

    sites: tuple[KernelSite, ...]
    level: Level | None
    timed_runs: int
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Work:
    """The work of several kernels or layers together; a figure is None where that of one of them is not known.

    `occupancy` is the mean over those that tell it, weighted by their time.
    """

    time: Estimate
    flops: float | None
    read_bytes: float | None
    written_bytes: float | None
    occupancy: float | None
    place: Place


def kernels_of(trace: LeveledTrace, batch_size: int | None) -> Kernels:
    """All kernels at one batch size.

    A kernel's site is that of what launched it, with its level, name and k, counted in the order of launch: the same
    kernel launched twice by a layer is two sites. Metrics are the trimmed means over all runs that tell them.
    """
    key = ("kernels", batch_size)
    if key not in trace.kept:
        trace.kept[key] = _extract(trace, batch_size)
    found: Kernels = trace.kept[key]
    return found


def work_of(kernels: Iterable[KernelSite], roofs: Roofs | None) -> Work:
    """The sums over `kernels`. Copies and fills that have no counters add their time, and no work or traffic."""
    every = list(kernels)
    counting = [one for one in every if not (one.facts.copy and one.facts.read_bytes is None)]
    time = total(one.time for one in every)
    operations = _operations(one.facts for one in counting)
    moved = added([one.facts.moved_bytes for one in counting])
    return Work(
        time=time,
        flops=None if operations is None else sum(operations.values()),
        read_bytes=added([one.facts.read_bytes for one in counting]),
        written_bytes=added([one.facts.written_bytes for one in counting]),
        occupancy=_occupancy(counting),
        place=place(operations, moved, time.value, roofs),
    )


def added(values: Sequence[float | None]) -> float | None:
    """The sum, None where a value is."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _operations(facts: Iterable[Facts]) -> dict[str, float] | None:
    found: dict[str, float] = {}
    for one in facts:
        if one.operations is None:
            return None
        for kind, count in one.operations.items():
            found[kind] = found.get(kind, 0.0) + count
    return found


def _occupancy(kernels: Sequence[KernelSite]) -> float | None:
    weighed = [(one.facts.occupancy, one.time.value) for one in kernels if not one.facts.copy]
    known = [(occupancy, time) for occupancy, time in weighed if occupancy is not None and time is not None]
    whole = sum(time for _, time in known)
    if not known or len(known) < len(weighed) or whole <= 0:
        return None
    return sum(occupancy * time for occupancy, time in known) / whole


def _extract(trace: LeveledTrace, batch_size: int | None) -> Kernels:
    level = trace.primitive(batch_size)
    if level is None:
        return Kernels((), None, 0, ())
    runs = [run.run for run in trace.runs_of(batch_size) if run.deepest >= level]
    timed = trace.timed(batch_size, level)
    rows = trace.primitive_rows(level, runs)
    frame = _launched(trace, rows)
    layer, operator = trace.ancestors(Level.LAYER), trace.ancestors(Level.OPERATOR)
    inside = _inside(trace, rows, level)
    sites = trace.spans["site"]
    names = trace.spans["name"]
    held: dict[str, list[tuple[int, int, str | None]]] = defaultdict(list)
    for row, run, site, text in frame.select("row", "run", "site", "launch_attributes").iter_rows():
        held[site].append((row, run, text))
    found = []
    for order, (site, entries) in enumerate(held.items()):
        row = entries[0][0]
        name = str(names[row])
        mine = [int(trace.durations[one] - inside[one]) for one, run, _ in entries if run in timed]
        texts = trace.spans["attributes"].gather([one for one, _, _ in entries]).to_list()
        found.append(
            KernelSite(
                order=order,
                site=site,
                name=name,
                layer=str(sites[int(layer[row])]) if layer[row] >= 0 else None,
                operator=str(names[int(operator[row])]) if operator[row] >= 0 else None,
                facts=told.merged(
                    told.parse(name, text, launch) for text, (_, _, launch) in zip(texts, entries, strict=True)
                ),
                time=estimate_s(mine),
                runs=len(entries),
            )
        )
    return Kernels(tuple(found), level, len(timed), _notes(found, level, timed, held))


def _launched(trace: LeveledTrace, rows: Ints) -> pl.DataFrame:
    """The kernels with the attributes of their launch; in the order of launch, by run."""
    every = trace.spans.with_row_index("row").with_columns(pl.col("row").cast(pl.Int64))
    launches = (
        every.filter((pl.col("kind").cast(pl.String) == "launch") & (pl.col("correlation") != 0))
        .unique(["run", "correlation"], keep="first", maintain_order=True)
        .select("run", "correlation", launched_ns="start_ns", launch_attributes="attributes")
    )
    kernels: pl.DataFrame = (
        every[rows.tolist()]
        .join(launches, on=["run", "correlation"], how="left", maintain_order="left")
        .with_columns(begun=pl.coalesce("launched_ns", "start_ns"))
        .sort("run", "begun", "start_ns", "span")
    )
    return kernels


def _inside(trace: LeveledTrace, rows: Ints, level: Level) -> Ints:
    """Time of calls inside a call of the same level (a library that calls itself), which counts once."""
    outer = trace.ancestors(level)
    spent = np.zeros(trace.spans.height, np.int64)
    kind = trace.spans["kind"].cast(pl.String).to_numpy()
    nested = rows[(outer[rows] >= 0) & (kind[rows] != "exec")]
    np.add.at(spent, outer[nested], trace.durations[nested])
    return spent


def _notes(
    found: Sequence[KernelSite], level: Level, timed: frozenset[int], held: dict[str, list[tuple[int, int, str | None]]]
) -> tuple[str, ...]:
    name = LEVEL_NAMES[level]
    what = f"library calls stand for kernels: no run has {LEVEL_NAMES[Level.KERNEL]} spans"
    lines = [what if level is Level.LIBRARY else ""]
    if not timed:
        lines.append(f"no times: every run at the {name} level goes deeper or collected counters by replay")
    else:
        seen = {site: sum(run in timed for _, run, _ in entries) for site, entries in held.items()}
        partial = sum(0 < count < len(timed) for count in seen.values())
        untimed = sum(count == 0 for count in seen.values())
        lines.append(f"{partial} of {len(found)} ran in some of the {len(timed)} timed runs only" if partial else "")
        lines.append(f"{untimed} of {len(found)} were seen in untimed runs only and have no time" if untimed else "")
    computed = sum(one.facts.computed for one in found)
    if computed:
        lines.append(
            f"work and traffic of {computed} of {len(found)} are computed from their sizes: each tensor moves once, "
            "without what caches save or cost"
        )
    outside = sum(one.layer is None for one in found)
    lines.append(f"{outside} of {len(found)} ran outside of all layers" if outside else "")
    return tuple(line for line in lines if line)
