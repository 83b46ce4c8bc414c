"""A8 to A10: the kernels (on a CPU: library calls), their roofline, and their sums by name."""

from __future__ import annotations

from typing import Any

from stratoscope.explain.analyses.choice import chosen, kernels, level_name, roofs
from stratoscope.explain.analyses.kernel_sites import KernelSite, Work, work_of
from stratoscope.explain.analyses.layer_sites import layers_of
from stratoscope.explain.analyses.leveled_trace import LeveledTrace
from stratoscope.explain.analyses.result import (
    COUNT,
    REAL,
    TEXT,
    Analysis,
    AnalysisOptions,
    Column,
    Missing,
    Rows,
    Scalar,
    estimate_columns,
    notes,
)
from stratoscope.explain.analyses.samples import share, total
from stratoscope.explain.roofs import Place, Roofs, place

KERNEL = (
    Column("order", COUNT, "1", "place in the order of launch, from 0"),
    Column("name", TEXT, "", "name of the kernel or library call"),
    Column("layer_index", COUNT, "1", "its layer, as A2 counts them; unknown outside of all layers"),
    Column("layer", TEXT, "", "name of its layer"),
    Column("operator", TEXT, "", "name of the operator that called it"),
)
KERNEL_TIME = estimate_columns("time", "execution, 20 % trimmed mean over the runs whose deepest level is this one")
TRAFFIC = (
    Column("flops", REAL, "FLOP", "operations of any type (matrix units and int8 counted); a multiply-add is two"),
    Column("dram_read_bytes", REAL, "byte", "read from memory"),
    Column("dram_write_bytes", REAL, "byte", "written to memory"),
    Column("occupancy", REAL, "1", "achieved occupancy, weighted by time"),
)
ROOFLINE = (
    Column("intensity", REAL, "FLOP/byte", "operations over bytes moved; unknown where nothing is moved"),
    Column("flop_rate", REAL, "FLOP/s", "operations over time"),
    Column("roof_share", REAL, "1", "attained part of the nearer roof"),
    Column("bound", TEXT, "", "compute-bound, memory-bound or overhead-bound; unknown without roofs, work or time"),
)
A8_COLUMNS = (
    *KERNEL,
    *KERNEL_TIME,
    Column("samples", COUNT, "1", "inferences behind the time"),
    *TRAFFIC,
    *ROOFLINE,
    Column("site", TEXT, "", "path of what launched it, with name and k in the order of launch"),
)


def kernel_information(trace: LeveledTrace, options: AnalysisOptions) -> Rows:
    """A8: every kernel call with time, work, traffic, occupancy and what it is bound by."""
    found = kernels(trace, options)
    where = _layers(trace, options)
    rows, places = [], []
    for one in found.sites:
        spot = spot_of(one, options.roofs)
        places.append(spot)
        facts = one.facts
        rows.append(
            (
                *_named(one, where),
                *one.time.times(),
                one.time.n,
                facts.flops,
                facts.read_bytes,
                facts.written_bytes,
                facts.occupancy,
                *located(spot),
                one.site,
            )
        )
    facts_ = {"kernels": len(rows), "level": level_name(found), "runs": found.timed_runs, **roof_facts(options.roofs)}
    return Rows(rows, facts_, notes(*found.notes, *place_notes(places)))


A9_COLUMNS = (
    *KERNEL[:2],
    Column("time_s", REAL, "s", "as in A8"),
    Column("flops", REAL, "FLOP", "as in A8"),
    Column("bytes", REAL, "byte", "read and written"),
    *ROOFLINE,
)


def kernel_roofline(trace: LeveledTrace, options: AnalysisOptions) -> Rows:
    """A9: a point (intensity, rate) for each kernel whose time, work and traffic are known, against the roofs."""
    found = kernels(trace, options)
    roofs(options)
    rows, places, left = [], [], 0
    for one in found.sites:
        spot = spot_of(one, options.roofs)
        if spot.intensity is None or spot.rate is None:
            left += 1
            continue
        places.append(spot)
        rows.append((one.order, one.name, one.time.value, one.facts.flops, one.facts.moved_bytes, *located(spot)))
    if not rows:
        raise Missing("no kernel has a known time, operations and bytes moved")
    left_out = f"{left} of {len(found.sites)} have no point: their time, work or traffic is unknown" if left else ""
    return Rows(rows, roof_facts(options.roofs), notes(*found.notes, left_out, *place_notes(places)))


A10_COLUMNS = (
    Column("name", TEXT, "", "name of the kernel or library call"),
    Column("calls", COUNT, "1", "calls in one inference"),
    *estimate_columns("time", "sum over its calls"),
    Column("model_share", REAL, "1", "of the model time of unprofiled runs; above 1 where kernels run side by side"),
    Column("kernel_share", REAL, "1", "of the time of all kernels"),
    *TRAFFIC,
    *ROOFLINE,
)


def kernels_by_name(trace: LeveledTrace, options: AnalysisOptions) -> Rows:
    """A10: sums over all calls of one name, the longest first; each call counts, the first too."""
    found = kernels(trace, options)
    model = trace.model_time(chosen(trace, options))
    whole = total(one.time for one in found.sites)
    members: dict[str, list[KernelSite]] = {}
    for one in found.sites:
        members.setdefault(one.name, []).append(one)
    works = {name: work_of(calls, options.roofs) for name, calls in members.items()}
    rows: list[tuple[Any, ...]] = [
        (
            name,
            len(members[name]),
            *work.time.times(),
            share(work.time.value, model.value),
            share(work.time.value, whole.value),
            *traffic(work),
            *located(work.place),
        )
        for name, work in works.items()
    ]
    rows.sort(key=lambda row: (row[2] is None, -(row[2] or 0.0), row[0]))
    facts: dict[str, Scalar] = {
        "kernels": len(found.sites),
        "names": len(rows),
        "kernel_time_s": whole.value,
        "model_time_s": model.value,
    }
    no_model = "" if model.value is not None else "no model share: no unprofiled run is known"
    return Rows(rows, facts, notes(*found.notes, no_model, *place_notes([work.place for work in works.values()])))


def spot_of(one: KernelSite, roofs: Roofs | None) -> Place:
    """The place of one kernel under the roofs; a copy without counters has none: its link's roof is not among them."""
    if one.facts.copy and one.facts.read_bytes is None:
        return Place(None, None, None, None, "a copy between memories, under the roof of its link")
    return place(one.facts.operations, one.facts.moved_bytes, one.time.value, roofs)


def located(spot: Place) -> tuple[float | None, float | None, float | None, str | None]:
    """The columns `ROOFLINE`."""
    return spot.intensity, spot.rate, spot.roof_share, None if spot.bound is None else spot.bound.value


def traffic(work: Work) -> tuple[float | None, float | None, float | None, float | None]:
    """The columns `TRAFFIC`."""
    return work.flops, work.read_bytes, work.written_bytes, work.occupancy


def place_notes(places: list[Place]) -> list[str]:
    """Why some have no class, and how many are above a roof, which nothing can be."""
    unknown: dict[str, int] = {}
    for spot in places:
        if spot.bound is None and spot.why:
            unknown[spot.why] = unknown.get(spot.why, 0) + 1
    lines = [f"{count} of {len(places)} without a class: {why}" for why, count in unknown.items()]
    above = sum(spot.roof_share is not None and spot.roof_share > 1 for spot in places)
    if above:
        lines.append(
            f"{above} of {len(places)} are above a roof: a count, a time or a roof is wrong, or a cache served them"
        )
    return lines


def roof_facts(roofs: Roofs | None) -> dict[str, Scalar]:
    """The roofs as single figures."""
    if roofs is None:
        return {}
    facts: dict[str, Scalar] = {"bandwidth_bytes_per_s": roofs.bandwidth_bytes_per_s, "roofs": roofs.source}
    for kind, peak in sorted(roofs.flops_per_s.items()):
        facts[f"peak_{kind}_flops_per_s"] = peak
        facts[f"ridge_{kind}_flop_per_byte"] = roofs.ridge(kind)
    return {**facts, "overhead_below": roofs.overhead_below}


def _layers(trace: LeveledTrace, options: AnalysisOptions) -> dict[str, tuple[int, str]]:
    return {one.site: (one.index, one.name) for one in layers_of(trace, chosen(trace, options)).sites}


def _named(one: KernelSite, where: dict[str, tuple[int, str]]) -> tuple[int, str, int | None, str | None, str | None]:
    index, layer = where.get(one.layer or "", (None, None))
    return one.order, one.name, index, layer, one.operator


KERNEL_ANALYSES = (
    Analysis("A8", "Kernel information", ("primitive",), A8_COLUMNS, kernel_information),
    Analysis("A9", "Kernel roofline", ("primitive",), A9_COLUMNS, kernel_roofline),
    Analysis("A10", "Kernel information by name", ("model", "primitive"), A10_COLUMNS, kernels_by_name),
)
