"""What the devices of a trace did: kernels by name and type, busy and idle time, communication behind computation.

The definitions are those of HolisticTraceAnalysis (HTA) 0.5.0, so that figures can be compared; where ours differ, the
docstring says so. Everything is counted in integer nanoseconds, and overlapping work once (union of intervals).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stratoscope.trace.levels import Level

Ints = NDArray[np.int64]

COMPUTATION: Final = "computation"
COMMUNICATION: Final = "communication"
MEMORY: Final = "memory"
#: Names of kernels of collective communication (NCCL's, its AMD twin has the same) and of copies and fills.
_COMMUNICATION_NAME: Final = r"^nccl.*Kernel"
_MEMORY_NAME: Final = r"^(Memcpy|Memset|dma)"
_STEP: Final = "ProfilerStep#"


def device_work(spans: pl.DataFrame) -> pl.DataFrame:
    """The executions on devices (kind "exec", kernel level) with a column `type`: computation, communication, memory.

    The type goes by name as in HTA (`utils.get_kernel_type`): nccl*Kernel is communication, Memcpy*, Memset*, dma* are
    memory, the rest is computation (HTA has a fourth type for names with "Sync" in them). Records of synchronisation
    and annotations on a stream are no work here.
    """
    work = spans.filter((pl.col("kind") == "exec") & (pl.col("level") == Level.KERNEL))
    kind = (
        pl.when(pl.col("name").str.contains(_COMMUNICATION_NAME))
        .then(pl.lit(COMMUNICATION))
        .when(pl.col("name").str.contains(_MEMORY_NAME))
        .then(pl.lit(MEMORY))
        .otherwise(pl.lit(COMPUTATION))
    )
    return work.with_columns(type=kind)


def whole_steps(spans: pl.DataFrame) -> pl.DataFrame:
    """The spans without the last profiler step, whose device work may be cut off, as HTA reads every trace.

    Dropped are host spans that start with or after the last `ProfilerStep#`, and executions of which no host span that
    is left has the correlation id. A trace with one distinct step or none is returned as it is.
    """
    step = spans["name"].str.starts_with(_STEP) & (spans["kind"] != "exec")
    steps = spans.filter(step)
    if steps["name"].n_unique() < 2:
        return spans
    last = steps["start_ns"].max()
    executed = (spans["kind"] == "exec").fill_null(False)
    correlation = spans["correlation"]
    host = ~executed & (spans["start_ns"] < last)
    launched = correlation.filter(host & (correlation != 0))
    return spans.filter(host | (executed & correlation.is_in(launched.implode())))


def kernel_breakdown(spans: pl.DataFrame) -> pl.DataFrame:
    """Kernels by name, longest in sum first.

    Returns:
        name, type, count, sum_ns, mean_ns, min_ns, max_ns, std_ns (n - 1; null for one call) and share, of the summed
        time of all (HTA: `get_gpu_kernel_breakdown`, which lumps kernels beyond the tenth together; nothing is lumped
        here).
    """
    work = device_work(spans).with_columns(duration=pl.col("end_ns") - pl.col("start_ns"))
    duration = pl.col("duration")
    return (
        work.group_by("name", "type")
        .agg(
            count=pl.len(),
            sum_ns=duration.sum(),
            mean_ns=duration.mean(),
            min_ns=duration.min(),
            max_ns=duration.max(),
            std_ns=duration.std(),
        )
        .with_columns(share=pl.col("sum_ns") / pl.col("sum_ns").sum())
        .sort(["sum_ns", "name"], descending=[True, False])
    )


def type_breakdown(spans: pl.DataFrame) -> pl.DataFrame:
    """Time in which work of each combination of types ran at once, over all devices and streams of the trace.

    Returns:
        types (such as "computation" or "computation + memory"), time_ns, share of the busy time; longest first. The
        times add up to the union of all work (HTA: the first frame of `get_gpu_kernel_breakdown`).
    """
    work = device_work(spans)
    merged = {kind: union(*_intervals(work, kind)) for kind in (COMPUTATION, COMMUNICATION, MEMORY)}
    edges = np.sort(np.concatenate([edge for interval in merged.values() for edge in interval]))
    edges = edges[np.diff(edges, prepend=edges[:1] - 1) > 0]
    if edges.size < 2:
        return pl.DataFrame(schema={"types": pl.String, "time_ns": pl.Int64, "share": pl.Float64})
    code = np.zeros(edges.size - 1, np.int64)
    for bit, (start, end) in enumerate(merged.values()):
        change = np.zeros(edges.size, np.int64)
        change[np.searchsorted(edges, start)] = 1  # disjoint and not touching, so that no edge has two changes
        change[np.searchsorted(edges, end)] = -1
        code += np.cumsum(change[:-1]) << bit
    kinds = list(merged)
    times = {
        " + ".join(kind for bit, kind in enumerate(kinds) if value >> bit & 1): int(np.diff(edges)[code == value].sum())
        for value in np.unique(code[code > 0]).tolist()
    }
    busy = sum(times.values())
    rows = [(types, time, time / busy) for types, time in sorted(times.items(), key=lambda one: -one[1]) if time]
    return pl.DataFrame(rows, schema={"types": pl.String, "time_ns": pl.Int64, "share": pl.Float64}, orient="row")


@dataclass(frozen=True, slots=True)
class TemporalBreakdown:
    """How the time from the start of the first device work to the end of the last was spent, in nanoseconds.

    `total_ns` = `compute_ns` + `non_compute_ns` + `idle_ns`: the union of computation, the time with communication or
    memory work only, and the time without any. `communication_ns` and `memory_ns` are the unions of those, which may
    overlap computation.
    """

    total_ns: int
    idle_ns: int
    compute_ns: int
    non_compute_ns: int
    communication_ns: int
    memory_ns: int


def temporal_breakdown(spans: pl.DataFrame) -> TemporalBreakdown | None:
    """The temporal breakdown of all devices and streams together (HTA: `get_temporal_breakdown`); None without work.

    Idle is the time in which nothing ran anywhere; `trace_idle.idle_breakdown` has it by stream.
    """
    work = device_work(spans)
    start, end = union(*_intervals(work))
    if start.size == 0:
        return None
    total, busy = int(end[-1] - start[0]), length(start, end)
    compute, communication, memory = (
        length(*union(*_intervals(work, kind))) for kind in (COMPUTATION, COMMUNICATION, MEMORY)
    )
    return TemporalBreakdown(total, total - busy, compute, busy - compute, communication, memory)


def communication_overlap(spans: pl.DataFrame) -> float | None:
    """Share of the communication time during which computation ran too; None without communication.

    |union(communication) and union(computation)| / |union(communication)|  (HTA: `get_comm_comp_overlap`).
    """
    work = device_work(spans)
    communication = union(*_intervals(work, COMMUNICATION))
    whole = length(*communication)
    if whole == 0:
        return None
    computation = union(*_intervals(work, COMPUTATION))
    either = union(*(np.concatenate(pair) for pair in zip(communication, computation, strict=True)))
    return (whole + length(*computation) - length(*either)) / whole


def union(start: Ints, end: Ints) -> tuple[Ints, Ints]:
    """The union of half-open intervals as disjoint ones in order (start, end); those that touch become one."""
    used = end > start
    start, end = start[used], end[used]
    if start.size == 0:
        return start, end
    order = np.argsort(start, kind="stable")
    start, reach = start[order], np.maximum.accumulate(end[order])
    first = np.concatenate(([True], start[1:] > reach[:-1]))
    last = np.concatenate((np.flatnonzero(first)[1:] - 1, [start.size - 1]))
    return start[first], reach[last]


def length(start: Ints, end: Ints) -> int:
    """Summed length of disjoint intervals."""
    return int((end - start).sum())


def _intervals(work: pl.DataFrame, kind: str | None = None) -> tuple[Ints, Ints]:
    some = work if kind is None else work.filter(pl.col("type") == kind)
    return some["start_ns"].to_numpy(), some["end_ns"].to_numpy()
