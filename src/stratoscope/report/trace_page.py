"""Writes what a trace file tells as one HTML page that needs nothing else, in the style of the run report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stratoscope._version import __version__
from stratoscope.explain.analyses.result import AnalysisResult
from stratoscope.explain.trace_summary import TraceSummary
from stratoscope.report import format as fmt
from stratoscope.report.files import write_text
from stratoscope.report.markup import Child, Markup, element
from stratoscope.report.page import page
from stratoscope.report.sections import analyses
from stratoscope.report.sections.base import Section, prose, table
from stratoscope.report.trace_tables import duration, summary_tables
from stratoscope.spec.record import Unavailable
from stratoscope.trace.importers import ImportReport

#: Kernels and operators on the page.
_TOP: Final = 20
#: Characters from which on a name may be cut off.
_LONG: Final = 24


@dataclass(frozen=True, slots=True)
class TracePage:
    """What is shown of a trace file.

    Attributes:
        name: of the file.
        read: how the reading went.
        summary: of `explain.trace_summary.summarise`.
        track_names: what the tracks are called.
        found: results of the analyses A1 to A15 and beyond, the missing ones with the reason.
    """

    name: str
    read: ImportReport
    summary: TraceSummary
    track_names: Mapping[int, str]
    found: Sequence[AnalysisResult | Unavailable]


def write_trace_page(shown: TracePage, path: Path) -> Path:
    """Replaces `path` by the page and returns it; raises StoreError where it cannot be written."""
    return write_text(path, render_trace_page(shown))


def render_trace_page(shown: TracePage) -> str:
    """The page as HTML text."""
    return page(
        title=shown.name,
        hero=_hero(shown),
        sections=[_where(shown), analyses.section(shown.found), _reading(shown.read)],
        footer=f"Stratoscope {__version__} · trace file {shown.name}",
        data=json.dumps({"import": shown.read.as_dict(), **shown.summary.as_dict()}),
    )


def _hero(shown: TracePage) -> Markup:
    read, summary = shown.read, shown.summary
    dropped = sum(read.dropped.values())
    tiles = [
        ("From first to last", duration(summary.duration_ns), "of the file's own clock"),
        ("Spans", fmt.count(read.spans), f"of {fmt.count(read.records, 'record')}"),
        ("Dropped", fmt.count(dropped), "see how it was read" if dropped or read.lost_bytes else "nothing was lost"),
    ]
    if summary.temporal is not None:
        idle = fmt.share(summary.temporal.idle_ns / summary.temporal.total_ns)
        tiles.append(("Device idle", idle, f"of {duration(summary.temporal.total_ns)}"))
    return element(
        "header",
        element("p", "Trace of other software", class_="overline"),
        element("h1", shown.name),
        element("p", f"read as {read.format}", class_="where"),
        element("ul", [_tile(*tile) for tile in tiles], class_="tiles"),
        class_="hero",
    )


def _tile(name: str, value: str, note: str) -> Markup:
    return element(
        "li",
        element("span", name, class_="tile-name"),
        element("span", value, class_="tile-value"),
        element("span", note, class_="tile-note"),
    )


def _where(shown: TracePage) -> Section:
    parts: list[Child] = [
        prose(
            "A profiler slows down all above the level that it traces: of one file, times of the deepest level are "
            "to be trusted most."
        )
    ]
    for figures in summary_tables(shown.summary, shown.track_names, _TOP):
        numbers = tuple(place for place in range(len(figures.head)) if place not in figures.texts)
        rows = [[_short(cell) for cell in row] for row in figures.rows]
        parts.append(table(figures.head, rows, caption=figures.title, numbers=numbers))
    return Section("time", "Where the time went", element("div", *parts))


def _short(cell: str) -> Child:
    """A cell; the signature of a kernel is cut off where the page ends, and whole under the pointer."""
    return element("span", cell, class_="long", title=cell) if len(cell) > _LONG else cell


def _reading(read: ImportReport) -> Section:
    rows: list[Sequence[Child]] = [("spans", "", fmt.count(read.spans))]
    rows += [("passed over", reason, fmt.count(number)) for reason, number in sorted(read.skipped.items())]
    rows += [("dropped", reason, fmt.count(number)) for reason, number in sorted(read.dropped.items())]
    if read.lost_bytes:
        rows.append(("unreadable", "at the end", fmt.count(read.lost_bytes, "byte")))
    rows += [("clock", str(key).replace("_", " "), str(value)) for key, value in sorted(read.clock.items())]
    what = table(("", "reason", ""), rows, caption="What became of the file's records", numbers=(2,))
    return Section("reading", "How it was read", element("div", what, [prose(note) for note in read.notes]))
