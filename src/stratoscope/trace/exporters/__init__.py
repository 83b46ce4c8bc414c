"""Writes span tables in the formats of other tools."""

from __future__ import annotations

from stratoscope.trace.exporters.export import EXPORTS, export_trace
from stratoscope.trace.exporters.otlp import push_otlp

__all__ = ["EXPORTS", "export_trace", "push_otlp"]
