"""Writes a record as one HTML file that needs nothing else: no network, no other file, no font, no library."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from string import Template

import polars as pl

from stratoscope._version import __version__
from stratoscope.explain.analyses.result import AnalysisResult
from stratoscope.report.files import write_text
from stratoscope.report.markup import Markup, element, join, script_data
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
from stratoscope.report.sections.base import Section
from stratoscope.spec.record import RunRecord, Unavailable

#: Nothing is fetched; styles and the empty icon are inline; the only script that runs is the page's own, by its hash.
_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
    "base-uri 'none'; form-action 'none'"
)


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
    """The report as HTML text.

    The page forbids itself all connections and every script but its own by a content security policy, so a name in a
    model cannot do anything even if it were not escaped.
    """
    if found is None:
        found = analyses.results(record, spans, samples) if spans is not None else ()
    present: list[Section | None] = [
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
    ]
    sections = [section for section in present if section is not None]
    script = _asset("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    links = [element("a", section.title, href=f"#{section.anchor}") for section in sections]
    return Template(_asset("page.html")).substitute(
        policy=_POLICY.format(digest=digest),
        title=join(f"{record.model.id} — Stratoscope"),
        style=_asset("page.css"),
        hero=summary.hero(record),
        navigation=join(links),
        sections=join([section.render() for section in sections]),
        footer=_footer(record),
        record=script_data(record.model_dump_json(by_alias=True)),
        script=script,
    )


def _footer(record: RunRecord) -> Markup:
    note = "The tip of a number says its statistic, its sample size and its interval."
    return join(f"Stratoscope {__version__} · run {record.id} · {note}")


def _asset(name: str) -> str:
    """A file of the page's templates, which are data of the package."""
    return (files("stratoscope.report") / "templates" / name).read_text(encoding="utf-8")
