"""Micro-benchmarks of a model's parts: each unique layer or executed node, with every library at hand."""

from stratoscope.measure.parts.candidates import default_candidates
from stratoscope.measure.parts.parts import RunnablePart, executed_parts, layer_parts
from stratoscope.measure.parts.runner import FillSummary, run_parts

__all__ = ["FillSummary", "RunnablePart", "default_candidates", "executed_parts", "layer_parts", "run_parts"]
