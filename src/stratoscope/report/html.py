"""Writes a record as one HTML file that needs nothing else: no network, no other file, no font, no library."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from stratoscope._version import __version__
from stratoscope.explain.analyses.result import AnalysisResult
from stratoscope.report.files import write_text
from stratoscope.report.page import page
from stratoscope.report.sections import (
    accuracy,
    advice,
    analyses,
    batch,
    cold,
    environment,
    gaps,
    latency,
    layers,
    levels,
    summary,
    timeline,
)
from stratoscope.spec.record import RunRecord, Unavailable


def write_report(
    record: RunRecord,
    path: Path,
    *,
    samples: pl.DataFrame | None = None,
    spans: pl.DataFrame | None = None,
    found: Sequence[AnalysisResult | Unavailable] | None = None,
) -> Path:
    """Replaces `path` by the report of `record` and returns it; raises StoreError where it cannot be written.

    Args:
        record: any section may be absent; the page then says so.
        samples: one row a sample, with `query`, `scheduled_ns` and `completed_ns`; None leaves the distributions out.
        spans: the trace (`trace.spans.SPAN_SCHEMA`); None draws the timeline from the layers' own offsets.
        found: results of analyses; None makes all of them from the spans, without roofs.
    """
    return write_text(path, render(record, samples=samples, spans=spans, found=found))


def render(
    record: RunRecord,
    *,
    samples: pl.DataFrame | None = None,
    spans: pl.DataFrame | None = None,
    found: Sequence[AnalysisResult | Unavailable] | None = None,
) -> str:
    """The report as HTML text."""
    if found is None:
        found = analyses.results(record, spans, samples) if spans is not None else ()
    note = "The tip of a number says its statistic, its sample size and its interval."
    return page(
        title=record.model.id,
        hero=summary.hero(record),
        sections=[
            latency.section(record, samples),
            advice.section(record),
            batch.section(record),
            cold.section(record),
            layers.section(record),
            levels.section(record),
            analyses.section(found),
            timeline.section(record, spans),
            accuracy.section(record),
            environment.section(record),
            gaps.section(record),
        ],
        footer=f"Stratoscope {__version__} · run {record.id} · {note}",
        data=record.model_dump_json(by_alias=True),
    )
