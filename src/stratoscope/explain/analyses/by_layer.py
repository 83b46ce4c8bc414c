"""A11 to A14: the kernels (on a CPU: library calls) of each layer, what they leave of its time, and its roofline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from stratoscope.explain.analyses.choice import chosen, kernels, layers, level_name
from stratoscope.explain.analyses.kernel_sites import Kernels, KernelSite, Work, kernels_of, work_of
from stratoscope.explain.analyses.kernels import ROOFLINE, TRAFFIC, located, place_notes, roof_facts, traffic
from stratoscope.explain.analyses.layer_sites import Layers, LayerSite
from stratoscope.explain.analyses.layers import LAYER
from stratoscope.explain.analyses.leveled_trace import LeveledTrace
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
    estimate_columns,
    notes,
)
from stratoscope.explain.analyses.samples import NOTHING, Estimate, difference, share, total
from stratoscope.explain.roofs import Place, place
from stratoscope.trace.levels import Level

OUTSIDE = "(outside all layers)"

_LAYER_TIME = estimate_columns("layer_time", "A2's own time of the layer, from layer-profiled runs")
_KERNEL_TIME = estimate_columns("kernel_time", "sum of its kernels' times, from runs at their level")


@dataclass(frozen=True, slots=True)
class LayerKernels:
    """A layer with its kernels; without a layer, the kernels outside of all. `seen`: in a run at the kernels' level."""

    layer: LayerSite | None
    kernels: tuple[KernelSite, ...]
    work: Work
    seen: bool

    def named(self) -> tuple[int | None, str, str | None]:
        """The columns `LAYER`."""
        return (None, OUTSIDE, None) if self.layer is None else (self.layer.index, self.layer.name, self.layer.type)

    @property
    def layer_time(self) -> Estimate:
        """The layer's own time."""
        return NOTHING if self.layer is None else self.layer.self_time

    @property
    def kernel_time(self) -> Estimate:
        """The sum of its kernels; zero for a layer that ran without any, unknown for one that was not seen there."""
        return self.work.time if self.seen else NOTHING


class Joined(NamedTuple):
    """All layers with their kernels, the layers and the kernels, and what has to be said of the join."""

    rows: tuple[LayerKernels, ...]
    layers: Layers
    kernels: Kernels
    notes: tuple[str, ...]


def joined(trace: LeveledTrace, options: AnalysisOptions) -> Joined:
    """Layers (of all runs) with the kernels that they launched themselves; a kernel of an inner layer is that one's."""
    found, below = layers(trace, options), kernels(trace, options)
    size = chosen(trace, options)
    timed = trace.timed(size, int(below.level or 0))
    runs = timed or frozenset(run.run for run in trace.runs_of(size) if run.deepest >= int(below.level or 0))
    seen = set(trace.spans["site"].gather(trace.rows(Level.LAYER, runs)).to_list())
    members: dict[str | None, list[KernelSite]] = {}
    for one in below.sites:
        members.setdefault(one.layer, []).append(one)
    rows = []
    for layer in found.sites:
        mine = tuple(members.pop(layer.site, ()))
        rows.append(LayerKernels(layer, mine, work_of(mine, options.roofs), bool(timed) and layer.site in seen))
    left = tuple(one for group in members.values() for one in group)
    if left:
        rows.append(LayerKernels(None, left, work_of(left, options.roofs), bool(timed)))
    unseen = sum(layer.site not in seen for layer in found.sites)
    unmatched = f"{unseen} of {len(found.sites)} layers do not occur at the {level_name(below)} level" if unseen else ""
    return Joined(tuple(rows), found, below, notes(*found.notes, *below.notes, unmatched))


A11_COLUMNS = (
    *LAYER,
    *_LAYER_TIME,
    Column("kernels", COUNT, "1", "kernels that it launched"),
    *_KERNEL_TIME,
    *TRAFFIC,
    *ROOFLINE,
)


def kernels_by_layer(trace: LeveledTrace, options: AnalysisOptions) -> Rows:
    """A11: the sums over each layer's kernels; every layer, the first and those without kernels too."""
    found = joined(trace, options)
    rows, places = [], []
    for one in found.rows:
        if one.kernels:
            places.append(one.work.place)
        known = (*traffic(one.work), *located(one.work.place)) if one.kernels else (None,) * 8
        rows.append((*one.named(), *one.layer_time.times(), len(one.kernels), *one.kernel_time.times(), *known))
    facts = {"kernels": len(found.kernels.sites), "level": level_name(found.kernels), **roof_facts(options.roofs)}
    return Rows(rows, facts, notes(*found.notes, *place_notes(places)))


A12_COLUMNS = (*LAYER, Column("kernels", COUNT, "1", "kernels that it launched"), *_KERNEL_TIME[:1], *TRAFFIC)


def metrics_by_layer(trace: LeveledTrace, options: AnalysisOptions) -> Rows:
    """A12: operations, reads, writes and occupancy over the layers in order of execution, zero where nothing ran."""
    found = joined(trace, options)
    facts = [one.facts for one in found.kernels.sites]
    if all((one.operations is None or one.copy) and one.read_bytes is None for one in facts):
        raise Missing("no kernel tells its operations or its traffic: the back end has no counters here")
    rows = [(*one.named(), len(one.kernels), one.kernel_time.value, *traffic(one.work)) for one in found.rows]
    return Rows(rows, {}, found.notes)


A13_COLUMNS = (
    *LAYER,
    *_LAYER_TIME,
    *_KERNEL_TIME,
    *estimate_columns("other_time", "layer time without its kernels; negative where they outlast the layer"),
    Column("kernel_share", REAL, "1", "kernel time over layer time"),
    Column("negative", FLAG, "", "whether the kernels took longer than the layer"),
)


def kernel_and_other_time(trace: LeveledTrace, options: AnalysisOptions) -> Rows:
    """A13: each layer's time apart in kernels and the rest: layer-profiled time minus the sum of kernel times.

    The two come from different runs, and kernels that run asynchronously may outlast the layer's span or run side by
    side: then the rest is negative, and says so.
    """
    found = joined(trace, options)
    if not found.layers.timed_runs:
        raise Missing("no run has the layer level as its deepest: layer times are not known")
    if not found.kernels.timed_runs:
        raise Missing(f"no run tells the times of the {level_name(found.kernels)} level")
    rows = []
    for one in found.rows:
        other = difference(one.layer_time, one.kernel_time)
        negative = None if other.value is None else other.value < 0
        rows.append(
            (
                *one.named(),
                *one.layer_time.times(),
                *one.kernel_time.times(),
                *other.times(),
                share(one.kernel_time.value, one.layer_time.value),
                negative,
            )
        )
    known = [one for one in found.rows if None not in (one.layer_time.value, one.kernel_time.value)]
    layer_time = total(one.layer_time for one in known)
    kernel_time = total(one.kernel_time for one in known)
    below = sum(row[-1] is True for row in rows)
    flagged = (
        f"{below} of {len(rows)} layers have less time than their kernels: these run asynchronously or side by "
        "side, or the machine was busier when they were timed"
        if below
        else ""
    )
    facts = {
        "layer_time_s": layer_time.value,
        "kernel_time_s": kernel_time.value,
        "other_time_s": difference(layer_time, kernel_time).value,
        "negative": below,
    }
    return Rows(rows, facts, notes(*found.notes, flagged))


A14_COLUMNS = (
    *LAYER,
    Column("time_s", REAL, "s", "as `source` says"),
    Column("flops", REAL, "FLOP", "operations of any type; a multiply-add is two"),
    Column("bytes", REAL, "byte", "read and written"),
    *ROOFLINE,
    Column(
        "source",
        TEXT,
        "",
        "kernels: their counters and times; graph, kernel time / graph, layer time: the layer's work as computed from "
        "its shapes",
    ),
)


def layer_roofline(trace: LeveledTrace, options: AnalysisOptions) -> Rows:
    """A14: a point (intensity, rate) for each layer, from its kernels' counters or else from its work in the graph.

    Work from the graph goes over the time of the layer's kernels where those are a device's, else over its own time; it
    is compulsory traffic, so that the intensity is the highest that the layer can have.
    """
    found = layers(trace, options)
    primitives = kernels_of(trace, chosen(trace, options))
    device = primitives.level is Level.KERNEL
    below = {one.layer.site: one for one in joined(trace, options).rows if one.layer} if primitives.sites else {}
    rows, places = [], []
    for layer in found.sites:
        spot, values = _point(layer, below.get(layer.site), options, device=device)
        if spot is not None:
            places.append(spot)
            rows.append((layer.index, layer.name, layer.type, *values[:3], *located(spot), values[3]))
    if not rows:
        raise Missing("no layer has a known time, operations and bytes moved")
    left = len(found.sites) - len(rows)
    left_out = f"{left} of {len(found.sites)} have no point: their time, work or traffic is unknown" if left else ""
    return Rows(rows, roof_facts(options.roofs), notes(*found.notes, left_out, *place_notes(places)))


_Values = tuple[float | None, float | None, float | None, str]


def _point(
    layer: LayerSite, below: LayerKernels | None, options: AnalysisOptions, *, device: bool
) -> tuple[Place | None, _Values]:
    """The place of a layer, or None, and (time, flops, bytes, source)."""
    if below is not None and below.kernels:
        work, spot = below.work, below.work.place
        if spot.intensity is not None and spot.rate is not None and work.flops is not None:
            return spot, (work.time.value, work.flops, work.flops / spot.intensity if work.flops else None, "kernels")
    time, source = layer.self_time.value, "graph, layer time"
    if device and below is not None and below.kernels:
        time, source = below.kernel_time.value, "graph, kernel time"
    values = (time, layer.facts.flops, layer.facts.moved_bytes, source)
    spot = place(layer.facts.operations, layer.facts.moved_bytes, time, options.roofs)
    known = spot.intensity is not None and spot.rate is not None and not layer.container
    return (spot if known else None), values


BY_LAYER_ANALYSES = (
    Analysis("A11", "Kernel information by layer", ("layer", "primitive"), A11_COLUMNS, kernels_by_layer),
    Analysis("A12", "Kernel metrics by layer", ("layer", "primitive"), A12_COLUMNS, metrics_by_layer),
    Analysis("A13", "Kernel and other latency by layer", ("layer", "primitive"), A13_COLUMNS, kernel_and_other_time),
    Analysis("A14", "Layer roofline", ("layer",), A14_COLUMNS, layer_roofline),
)
