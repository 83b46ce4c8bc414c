"""The analyses beyond XSP's fifteen, as entries of the registry."""

from __future__ import annotations

from stratoscope.explain.analyses.choice import NO_LAYERS, chosen
from stratoscope.explain.analyses.leveled_trace import LeveledTrace
from stratoscope.explain.analyses.result import Analysis, AnalysisOptions, Missing, Rows
from stratoscope.explain.bound_sweep import BOUND_SWEEP
from stratoscope.explain.critical_path import CRITICAL_PATH
from stratoscope.explain.tail import COLUMNS, as_rows, attribute, profiled_requests
from stratoscope.explain.tree import MERGED_TREE, TREE


def _tail(trace: LeveledTrace, options: AnalysisOptions) -> Rows:
    """The request at p99 of a load."""
    if trace.requests is None or trace.requests.height == 0:
        raise Missing("the run has no samples of a load")
    return as_rows(attribute(trace.requests))


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
