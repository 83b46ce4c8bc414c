"""What was slow in a slow request: waiting to be sent, waiting for a CPU, or a layer.

The request at the asked-for percentile is set against the typical ones (the middle half by latency). Means over those
are additive, so the excess of the latency is the sum of the excesses of its parts, exactly.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any, Final

import numpy as np
import polars as pl

from stratoscope.errors import MeasurementError
from stratoscope.explain.analyses.leveled_trace import LeveledTrace
from stratoscope.explain.analyses.result import FLAG, REAL, TEXT, AnalysisResult, Column, Rows, Scalar, notes
from stratoscope.explain.analyses.samples import NS, share
from stratoscope.trace.levels import Level

COLUMNS: Final = (
    Column("component", TEXT, "", "part of the request"),
    Column("part_of", TEXT, "", "what it is a part of: latency or service"),
    Column("request_s", REAL, "s", "in this request"),
    Column("typical_s", REAL, "s", "mean over the middle half of the requests, by latency"),
    Column("excess_s", REAL, "s", "the first minus the second"),
    Column("share", REAL, "1", "of the excess of the latency"),
    Column("overlaps", FLAG, "", "whether it lies inside other parts, and so does not add up with them"),
)
QUEUEING, SERVICE, RUN_QUEUE, BETWEEN = "queueing", "service", "run-queue wait", "between layers"
#: Part of an excess from which on one component is called its cause.
_MOST: Final = 0.5


def attribute(requests: pl.DataFrame, percentile: float = 99.0, trace: LeveledTrace | None = None) -> AnalysisResult:
    """The parts of the request at `percentile` (nearest rank) against typical ones, and the likely cause.

    Args:
        requests: one row a sample, as the store keeps them (query, sample, scheduled_ns, issued_ns, completed_ns); with
            a column `run_queue_wait_ns` where that was measured for each. A query ends with its last sample.
        percentile: above 0 and at most 100.
        trace: spans whose `run` is the number of the query, down to layers; only for requests that were traced.

    The cause is queueing where that is at least half of the excess; else run-queue wait where it is at least half of
    that of the service; else the part of the service with the greatest excess.

    Raises:
        MeasurementError: there are no requests, or the percentile is none.
    """
    if not 0 < percentile <= 100:
        raise MeasurementError(f"{percentile:g} is no percentile", hint="give one above 0 and at most 100")
    table = _by_query(requests)
    if table.height == 0:
        raise MeasurementError("there are no requests to look at")
    ordered = table.sort("latency_ns", "query")
    rank = max(1, math.ceil(percentile / 100 * table.height))
    request = ordered.row(rank - 1, named=True)
    middle = ordered[table.height // 4 : max(table.height - table.height // 4, table.height // 4 + 1)]
    parts = [(QUEUEING, "latency", "queueing_ns", False), (SERVICE, "latency", "service_ns", False)]
    if "run_queue_wait_ns" in table.columns:
        parts.append((RUN_QUEUE, "service", "run_queue_wait_ns", True))
    latency = (request["latency_ns"] * NS, _mean(middle, "latency_ns"))
    excess = latency[0] - latency[1]
    lines = [(name, of, request[key] * NS, _mean(middle, key), inside) for name, of, key, inside in parts]
    lines += _layers(trace, request, middle) if trace is not None else []
    rows = [(name, of, a, b, a - b, share(a - b, excess), inside) for name, of, a, b, inside in lines]
    facts: dict[str, Scalar] = {
        "request": request["query"],
        "rank": rank,
        "requests": table.height,
        "percentile": percentile,
        "latency_s": latency[0],
        "typical_latency_s": latency[1],
        "excess_s": excess,
        "cause": _cause(rows, excess),
        "queued_behind": _ahead(table, request) if request["queueing_ns"] else None,
    }
    frame = pl.DataFrame(rows, schema={one.name: one.dtype for one in COLUMNS}, orient="row")
    said = _caveats(table, percentile, traced=trace is not None)
    return AnalysisResult("tail", "What was slow in a slow request", COLUMNS, frame, facts, said)


def _caveats(table: pl.DataFrame, percentile: float, *, traced: bool) -> tuple[str, ...]:
    """What a reader of the attribution must know."""
    few = table.height * (1 - percentile / 100) < 1
    told = f"the slowest of {table.height} requests stands for p{percentile:g}: more are needed to have any beyond it"
    untraced = "" if traced else "the requests were not traced: service is not taken apart by layer"
    unwatched = "" if "run_queue_wait_ns" in table.columns else "run-queue wait was not recorded for each request"
    return notes(told if few else "", untraced, unwatched)


def profiled_requests(trace: LeveledTrace, batch_size: int | None) -> tuple[pl.DataFrame, LeveledTrace]:
    """The layer-profiled inferences of a trace as requests that did not queue, and the trace, for `attribute`."""
    rows = trace.rows(Level.MODEL, trace.timed(batch_size, Level.LAYER))
    spans = trace.spans[rows.tolist()]
    requests = spans.group_by("run", maintain_order=True).agg(
        scheduled_ns=pl.col("start_ns").min(), issued_ns=pl.col("start_ns").min(), completed_ns=pl.col("end_ns").max()
    )
    wait = pl.col("attributes").str.json_path_match("$.run_queue_wait_ns").cast(pl.Int64)
    waits = spans.group_by("run").agg(run_queue_wait_ns=wait.sum(), told=wait.count())
    if requests.height and (waits["told"] == 1).all():
        requests = requests.join(waits.drop("told"), on="run", maintain_order="left")
    return requests.rename({"run": "query"}).with_columns(sample=pl.lit(0, dtype=pl.Int64)), trace


def as_rows(result: AnalysisResult) -> Rows:
    """A result as the rows of an analysis."""
    return Rows(result.frame.rows(), result.facts, result.notes)


def _by_query(requests: pl.DataFrame) -> pl.DataFrame:
    aggregates = [
        pl.col("scheduled_ns").min(),
        pl.col("issued_ns").min(),
        pl.col("completed_ns").max(),
    ]
    if "run_queue_wait_ns" in requests.columns:
        aggregates.append(pl.col("run_queue_wait_ns").max())
    return (
        requests.group_by("query", maintain_order=True)
        .agg(aggregates)
        .with_columns(
            latency_ns=pl.col("completed_ns") - pl.col("scheduled_ns"),
            queueing_ns=pl.col("issued_ns") - pl.col("scheduled_ns"),
            service_ns=pl.col("completed_ns") - pl.col("issued_ns"),
        )
    )


def _mean(frame: pl.DataFrame, column: str) -> float:
    return float(np.mean(frame[column].to_numpy())) * NS


def _layers(
    trace: LeveledTrace, request: dict[str, Any], middle: pl.DataFrame
) -> list[tuple[str, str, float, float, bool]]:
    """Each layer's own time in the request and in the typical ones, and what lies between the layers."""
    outer = trace.ancestors(Level.LAYER)
    typical = middle["query"].to_list()
    rows = trace.rows(Level.LAYER, {request["query"], *typical})
    own = trace.durations.copy()
    nested = rows[outer[rows] >= 0]
    np.subtract.at(own, outer[nested], trace.durations[nested])
    runs = trace.spans["run"].to_numpy()
    held: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    names: dict[str, str] = {}
    for row, site, name in zip(
        rows.tolist(),
        trace.spans["site"].gather(rows).to_list(),
        trace.spans["name"].gather(rows).to_list(),
        strict=True,
    ):
        held[site][int(runs[row])] += int(own[row])
        names[site] = name
    lines = []
    for site, times in held.items():
        mean = sum(times.get(run, 0) for run in typical) / len(typical) * NS
        lines.append((f"layer {names[site]}", "service", times.get(request["query"], 0) * NS, mean, False))
    lines.sort(key=lambda line: line[3] - line[2])
    here, usual = sum(line[2] for line in lines), sum(line[3] for line in lines)
    rest = (BETWEEN, "service", request["service_ns"] * NS - here, _mean(middle, "service_ns") - usual, False)
    return [*lines, rest]


def _cause(rows: list[tuple[Any, ...]], excess: float) -> str | None:
    """The component that the excess is laid to; None where there is no excess."""
    if excess <= 0:
        return None
    by_name = {row[0]: row[4] for row in rows if row[1] == "latency" or row[0] == RUN_QUEUE}
    if by_name[QUEUEING] >= _MOST * excess:
        return QUEUEING
    if by_name.get(RUN_QUEUE, 0.0) >= _MOST * by_name[SERVICE]:
        return RUN_QUEUE
    inside = [(row[4], row[0]) for row in rows if row[1] == "service" and not row[6]]
    return max(inside)[1] if inside else SERVICE


def _ahead(table: pl.DataFrame, request: dict[str, Any]) -> int | None:
    """The query that was in service for most of the time that this one waited to be sent."""
    others = table.filter(pl.col("query") != request["query"]).with_columns(
        during=pl.min_horizontal("completed_ns", pl.lit(request["issued_ns"]))
        - pl.max_horizontal("issued_ns", pl.lit(request["scheduled_ns"]))
    )
    longest = others.filter(pl.col("during") > 0).sort("during", "query", descending=[True, False])
    return int(longest["query"][0]) if longest.height else None
