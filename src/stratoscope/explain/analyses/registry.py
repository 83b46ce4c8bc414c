"""The analyses by id: A1 to A15, and those beyond."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from stratoscope.errors import MeasurementError
from stratoscope.explain.analyses.beyond import BEYOND_ANALYSES
from stratoscope.explain.analyses.by_layer import BY_LAYER_ANALYSES
from stratoscope.explain.analyses.kernels import KERNEL_ANALYSES
from stratoscope.explain.analyses.layers import LAYER_ANALYSES
from stratoscope.explain.analyses.leveled_trace import LeveledTrace
from stratoscope.explain.analyses.model import MODEL_ANALYSES
from stratoscope.explain.analyses.result import Analysis, AnalysisOptions, AnalysisResult
from stratoscope.spec.record import Unavailable


@cache
def registry() -> Mapping[str, Analysis]:
    """All analyses by id, A1 to A15 in order and then the others."""
    every = (*MODEL_ANALYSES, *LAYER_ANALYSES, *KERNEL_ANALYSES, *BY_LAYER_ANALYSES, *BEYOND_ANALYSES)
    ordered = sorted(
        every, key=lambda one: (not one.id.startswith("A"), int(one.id[1:]) if one.id[1:].isdigit() else 0)
    )
    return MappingProxyType({one.id: one for one in ordered})


def find(analysis_id: str) -> Analysis:
    """The analysis with this id, whatever its case. Raises MeasurementError that names those that there are."""
    known = {name.lower(): one for name, one in registry().items()}
    found = known.get(analysis_id.strip().lower())
    if found is None:
        raise MeasurementError(f"no analysis {analysis_id[:40]!r}", hint=f"there are {', '.join(registry())}")
    return found


def analyse(
    analysis_id: str, trace: LeveledTrace, options: AnalysisOptions | None = None
) -> AnalysisResult | Unavailable:
    """The result of one analysis on `trace`, or why there is none. Raises MeasurementError for an unknown id."""
    return find(analysis_id)(trace, options)
