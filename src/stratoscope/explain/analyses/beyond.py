"""The analyses beyond XSP's fifteen, as entries of the registry."""

from __future__ import annotations

import polars as pl

from stratoscope.explain.analyses.choice import NO_LAYERS, chosen
from stratoscope.explain.analyses.leveled_trace import LeveledTrace
from stratoscope.explain.analyses.result import Analysis, AnalysisOptions, Missing, Rows
from stratoscope.explain.bound_sweep import BOUND_SWEEP
from stratoscope.explain.critical_path import CRITICAL_PATH
from stratoscope.explain.tail import COLUMNS, as_rows, attribute, profiled_requests
from stratoscope.explain.tree import MERGED_TREE, TREE
from stratoscope.trace.levels import Level


def _tail(trace: LeveledTrace, options: AnalysisOptions) -> Rows:
    """The request at p99 of a load."""
    if trace.requests is None or trace.requests.height == 0:
        raise Missing("the run has no samples of a load")
    starts = [
        trace.spans.filter(pl.col("level") == level).group_by("run").agg(pl.col("start_ns").min().alias(name))
        for level, name in ((Level.APPLICATION, "due"), (Level.MODEL, "began"))
    ]
    if starts[0].height == 0:
        return as_rows(attribute(trace.requests))
    # A request also waits after it was sent, behind others: the trace tells when its inference began.
    waits = (
        starts[0]
        .join(starts[1], on="run")
        .select(query=pl.col("run").cast(pl.Int64), wait=pl.col("began") - pl.col("due"))
    )
    requests = trace.requests.join(waits, on="query").with_columns(issued_ns=pl.col("scheduled_ns") + pl.col("wait"))
    return as_rows(attribute(requests, trace=trace))


def _profiled_tail(trace: LeveledTrace, options: AnalysisOptions) -> Rows:
    """The inference at p99 of the layer-profiled ones."""
    requests, traced = profiled_requests(trace, chosen(trace, options))
    if requests.height == 0:
        raise Missing(NO_LAYERS)
    return as_rows(attribute(requests, trace=traced))


BEYOND_ANALYSES = (
    TREE,
    MERGED_TREE,
    CRITICAL_PATH,
    BOUND_SWEEP,
    Analysis("tail", "What was slow in the request at p99", (), COLUMNS, _tail),
    Analysis(
        "tail-profiled", "What was slow in the layer-profiled inference at p99", ("layer",), COLUMNS, _profiled_tail
    ),
)
