"""A1 and A15: the model over its batch sizes: latency, throughput and optimum; and the sums of its kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from stratoscope.explain.analyses.choice import NO_PRIMITIVES
from stratoscope.explain.analyses.kernel_sites import kernels_of, work_of
from stratoscope.explain.analyses.kernels import ROOFLINE, TRAFFIC, located, place_notes, roof_facts, traffic
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
    Scalar,
    estimate_columns,
    notes,
)
from stratoscope.explain.analyses.samples import Estimate, share
from stratoscope.trace.levels import Level

#: Doubling pays when it gains more than this part of the throughput (XSP, arXiv 1908.06869, section III-D1).
MIN_GAIN: Final = 0.05

A1_COLUMNS = (
    Column("batch_size", COUNT, "1", "inputs of one inference"),
    *estimate_columns("latency", "of a batch, from unprofiled runs"),
    Column("samples", COUNT, "1", "inferences behind the latency"),
    Column("statistic", TEXT, "", "what the latency is: a 20 % trimmed mean of spans, or the median of a stored sweep"),
    Column("input_latency_s", REAL, "s", "latency of one input: that of the batch over its size"),
    Column("throughput_per_s", REAL, "1/s", "inputs a second"),
    Column("doubling_gain", REAL, "1", "part of the throughput that twice the batch adds"),
    Column("optimal", FLAG, "", "the smallest batch after which doubling gains at most 5 %"),
)


def model_information(trace: LeveledTrace, options: AnalysisOptions) -> Rows:
    """A1: latency, throughput and optimal batch over the batch sizes, from runs without any deeper profiling.

    Throughput is batch size over latency. Asked for one batch size, it tells that one and no optimum.
    """
    points = latencies(trace)
    if options.batch_size is not None:
        points = {size: point for size, point in points.items() if size == options.batch_size}
    if not points:
        raise Missing("no unprofiled run at a known batch size: record runs whose deepest level is the model level")
    rates = {size: size / point.value for size, (point, _) in points.items() if point.value}
    best, saturated = optimum(rates)
    rows = []
    for size, (point, statistic) in sorted(points.items()):
        rate, doubled = rates.get(size), rates.get(2 * size)
        gain = None if rate is None or doubled is None else doubled / rate - 1
        each = None if point.value is None else point.value / size
        rows.append((size, *point.times(), point.n, statistic, each, rate, gain, size == best if saturated else None))
    if saturated:
        why = f"doubling batch {best} gains at most {MIN_GAIN:.0%}"
    elif best is not None:
        why = f"no optimum: doubling still paid at the largest batch, {best}"
    else:
        why = "no optimum: no batch size is twice another"
    facts: dict[str, Scalar] = {"optimal_batch": best if saturated else None, "largest_paying_batch": best}
    return Rows(rows, facts, (why,))


def latencies(trace: LeveledTrace) -> dict[int, tuple[Estimate, str]]:
    """Latency of a batch by its size, and of which kind: of spans first, else of the record's sweep or profile."""
    found: dict[int, tuple[Estimate, str]] = {}
    for size, time in trace.model_times.items():
        if size is not None:
            found[size] = (time, "median")
    for point in trace.sweep:
        latency = point.latency
        if latency.value is not None:
            estimate = Estimate(latency.value, latency.ci_low, latency.ci_high, latency.n)
            found[point.batch_size] = (estimate, latency.statistic)
    for size in trace.batch_sizes:
        if size is not None and trace.timed(size, Level.MODEL):
            time = trace.model_time(size)
            if time.value is not None:
                found[size] = (time, "trimmed_mean")
    return found


def optimum(throughput: Mapping[int, float]) -> tuple[int | None, bool]:
    """(batch size, whether it is the optimum) of throughput by batch size.

    The smallest size of which the double was measured too and gains at most 5 %. Where every doubling paid, the
    largest size and False; (None, False) where no size is twice another.
    """
    pairs = sorted(size for size in throughput if 2 * size in throughput)
    for size in pairs:
        if throughput[2 * size] <= throughput[size] * (1 + MIN_GAIN):
            return size, True
    return (2 * pairs[-1], False) if pairs else (None, False)


A15_COLUMNS = (
    Column("batch_size", COUNT, "1", "inputs of one inference; unknown where it is not told"),
    *estimate_columns("model_time", "from unprofiled runs"),
    Column("kernels", COUNT, "1", "kernels of one inference"),
    *estimate_columns("kernel_time", "sum over all kernels"),
    Column("model_share", REAL, "1", "kernel time over model time; above 1 where kernels run side by side"),
    *TRAFFIC,
    *ROOFLINE,
)


def kernels_by_model(trace: LeveledTrace, options: AnalysisOptions) -> Rows:
    """A15: the sums over all kernels of the model, those outside of layers too, a row for each batch size."""
    sizes: Sequence[int | None] = trace.batch_sizes
    if options.batch_size is not None:
        sizes = [size for size in sizes if size == options.batch_size]
    rows: list[tuple[Any, ...]] = []
    places, said = [], []
    for size in sizes:
        found = kernels_of(trace, size)
        if not found.sites:
            continue
        work, model = work_of(found.sites, options.roofs), trace.model_time(size)
        places.append(work.place)
        said += [f"batch {size}: {line}" if len(sizes) > 1 else line for line in found.notes]
        rows.append(
            (
                size,
                *model.times(),
                len(found.sites),
                *work.time.times(),
                share(work.time.value, model.value),
                *traffic(work),
                *located(work.place),
            )
        )
    if not rows:
        raise Missing(NO_PRIMITIVES)
    no_model = "" if all(row[1] is not None for row in rows) else "no model share where no unprofiled run is known"
    return Rows(rows, roof_facts(options.roofs), notes(*said, no_model, *place_notes(places)))


MODEL_ANALYSES = (
    Analysis("A1", "Model information", ("model",), A1_COLUMNS, model_information),
    Analysis("A15", "Kernel information by model", ("primitive",), A15_COLUMNS, kernels_by_model),
)
