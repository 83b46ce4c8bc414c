"""A2 to A7: the layers of a model, their latency and memory, by layer and by type."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from stratoscope.explain.analyses.choice import layers
from stratoscope.explain.analyses.kernel_sites import added
from stratoscope.explain.analyses.layer_sites import LayerSite
from stratoscope.explain.analyses.leveled_trace import LeveledTrace
from stratoscope.explain.analyses.result import (
    COUNT,
    FLAG,
    REAL,
    SHAPE,
    TEXT,
    Analysis,
    AnalysisOptions,
    Column,
    Rows,
    estimate_columns,
    notes,
)
from stratoscope.explain.analyses.samples import share, total

LAYER = (
    Column("index", COUNT, "1", "place in the order of execution, from 0"),
    Column("name", TEXT, "", "name of the layer"),
    Column("type", TEXT, "", "operator or layer type; the name where none is told"),
)
SITE = Column("site", TEXT, "", "path of (level, name, k-th occurrence) that joins runs")
TIME = estimate_columns("time", "20 % trimmed mean over the runs whose deepest level is the layer level")
SELF = Column("self_time_s", REAL, "s", "likewise, without layers inside it")

A2_COLUMNS = (
    *LAYER,
    Column("container", FLAG, "", "whether other layers run inside it"),
    Column("shape", SHAPE, "1", "of the first output; an empty list is a scalar"),
    Column("element_type", TEXT, "", "type of the arithmetic"),
    *TIME,
    SELF,
    Column("samples", COUNT, "1", "inferences behind the time"),
    Column("allocated_bytes", REAL, "byte", "allocated by the layer; where only the output's size is told, that"),
    Column("peak_bytes", REAL, "byte", "highest use of the allocator in the layer"),
    Column("in_use_bytes", REAL, "byte", "in use of the allocator after the layer"),
    Column("temporary_bytes", REAL, "byte", "allocated for the time of the layer only"),
    Column("persistent_bytes", REAL, "byte", "allocated to stay"),
    Column("allocator", TEXT, "", "name of the allocator"),
    SITE,
)


def layer_information(trace: LeveledTrace, options: AnalysisOptions) -> Rows:
    """A2: every layer with type, shape, latency and memory, in order of execution."""
    found = layers(trace, options)
    rows = [
        (
            one.index,
            one.name,
            one.type,
            one.container,
            None if one.facts.shape is None else list(one.facts.shape),
            one.facts.element_type,
            *one.time.times(),
            one.self_time.value,
            one.time.n,
            one.facts.allocated_bytes,
            one.facts.peak_bytes,
            one.facts.in_use_bytes,
            one.facts.temporary_bytes,
            one.facts.persistent_bytes,
            one.facts.allocator,
            one.site,
        )
        for one in found.sites
    ]
    untimed = "" if found.timed_runs else "no times: no run has the layer level as its deepest"
    return Rows(rows, {"layers": len(rows)}, notes(*found.notes, untimed))


A3_COLUMNS = (
    *LAYER,
    *TIME,
    SELF,
    *(
        Column(f"{name}_s", REAL, "s", f"{what} of the runs, for a box plot")
        for name, what in (
            ("min", "least"),
            ("lower_quartile", "lower quartile"),
            ("median", "median"),
            ("upper_quartile", "upper quartile"),
            ("max", "greatest"),
        )
    ),
    Column("samples", COUNT, "1", "inferences behind the figures"),
)


def layer_latency(trace: LeveledTrace, options: AnalysisOptions) -> Rows:
    """A3: latency of each layer in order of execution, with its spread over the runs (as the clock has it)."""
    found = layers(trace, options, timed=True)
    rows = []
    for one in found.sites:
        spread = np.quantile(one.samples_s, [0, 0.25, 0.5, 0.75, 1]).tolist() if one.samples_s else [None] * 5
        rows.append((*_named(one), *one.time.times(), one.self_time.value, *spread, one.time.n))
    whole = total(one.self_time for one in found.sites if one.self_time.value is not None)
    return Rows(
        rows, {"summed_time_s": whole.value, "runs": found.timed_runs}, notes(*found.notes, _negative(found.sites))
    )


A4_COLUMNS = (*LAYER, Column("allocated_bytes", REAL, "byte", "as in A2"))


def layer_memory(trace: LeveledTrace, options: AnalysisOptions) -> Rows:
    """A4: memory allocated by each layer in order of execution."""
    found = layers(trace, options)
    rows = [(*_named(one), one.facts.allocated_bytes) for one in found.sites]
    return Rows(rows, {}, notes(*found.notes, _untold(found.sites)))


A5_COLUMNS = (
    Column("type", TEXT, "", "operator or layer type"),
    Column("layers", COUNT, "1", "layers of this type that hold no other layer"),
    Column("share", REAL, "1", "of all such layers"),
)


def type_distribution(trace: LeveledTrace, options: AnalysisOptions) -> Rows:
    """A5: how many layers there are of each type. Containers, which hold other layers, are not counted."""
    found = layers(trace, options)
    counts = Counter(one.type for one in found.sites if not one.container)
    whole = counts.total()
    rows = [(kind, count, count / whole) for kind, count in sorted(counts.items(), key=lambda one: (-one[1], one[0]))]
    containers = sum(one.container for one in found.sites)
    return Rows(rows, {"layers": whole, "containers": containers}, found.notes)


A6_COLUMNS = (
    Column("type", TEXT, "", "operator or layer type"),
    Column("layers", COUNT, "1", "layers of this type"),
    *estimate_columns("time", "sum over its layers of the time that is theirs alone"),
    Column("share", REAL, "1", "of the sum over all types"),
)


def latency_by_type(trace: LeveledTrace, options: AnalysisOptions) -> Rows:
    """A6: latency summed by layer type. A container's own time is what its layers leave, so nothing counts twice."""
    found = layers(trace, options, timed=True)
    timed = [one for one in found.sites if one.self_time.value is not None]
    whole = total(one.self_time for one in timed)
    rows = []
    for kind in dict.fromkeys(one.type for one in timed):
        members = [one for one in timed if one.type == kind]
        time = total(one.self_time for one in members)
        rows.append((kind, len(members), *time.times(), share(time.value, whole.value)))
    rows.sort(key=lambda row: (-(row[2] or 0.0), row[0]))
    return Rows(rows, {"summed_time_s": whole.value}, notes(*found.notes, _negative(found.sites)))


A7_COLUMNS = (
    Column("type", TEXT, "", "operator or layer type"),
    Column("layers", COUNT, "1", "layers of this type that hold no other layer"),
    Column("allocated_bytes", REAL, "byte", "sum over its layers; unknown where that of one is"),
    Column("share", REAL, "1", "of the sum over all types; unknown where that of one is"),
)


def memory_by_type(trace: LeveledTrace, options: AnalysisOptions) -> Rows:
    """A7: allocated memory summed by layer type. A container's is that of its layers, and is not counted again."""
    found = layers(trace, options)
    leaves = [one for one in found.sites if not one.container]
    whole = added([one.facts.allocated_bytes for one in leaves])
    rows = []
    for kind in dict.fromkeys(one.type for one in leaves):
        members = [one for one in leaves if one.type == kind]
        size = added([one.facts.allocated_bytes for one in members])
        rows.append((kind, len(members), size, share(size, whole)))
    rows.sort(key=lambda row: (row[2] is None, -(row[2] or 0.0), row[0]))
    return Rows(rows, {"allocated_bytes": whole}, notes(*found.notes, _untold(leaves)))


def _named(one: LayerSite) -> tuple[int, str, str]:
    return one.index, one.name, one.type


def _untold(sites: Sequence[LayerSite]) -> str:
    untold = sum(one.facts.allocated_bytes is None for one in sites)
    return f"the memory of {untold} of {len(sites)} layers is not told" if untold else ""


def _negative(sites: Sequence[LayerSite]) -> str:
    below = [one.name for one in sites if one.self_time.value is not None and one.self_time.value < 0]
    return f"layers inside {', '.join(below[:3])} overlap: their own time is negative" if below else ""


LAYER_ANALYSES = (
    Analysis("A2", "Layer information", ("layer",), A2_COLUMNS, layer_information),
    Analysis("A3", "Layer latency", ("layer",), A3_COLUMNS, layer_latency),
    Analysis("A4", "Layer memory allocation", ("layer",), A4_COLUMNS, layer_memory),
    Analysis("A5", "Layer type distribution", ("layer",), A5_COLUMNS, type_distribution),
    Analysis("A6", "Layer latency aggregated by type", ("layer",), A6_COLUMNS, latency_by_type),
    Analysis("A7", "Layer memory aggregated by type", ("layer",), A7_COLUMNS, memory_by_type),
)
