"""The analyses A1 to A15 and those beyond, each with its table and, where it is a plot in XSP, its plot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import polars as pl

from stratoscope.explain.analyses.leveled_trace import LeveledTrace
from stratoscope.explain.analyses.registry import analyse, registry
from stratoscope.explain.analyses.result import AnalysisOptions, AnalysisResult
from stratoscope.report import format as fmt
from stratoscope.report.analysis import column_cells, fact_text, has_room, heading
from stratoscope.report.markup import Markup, element, join
from stratoscope.report.sections.analysis_plots import plot_of
from stratoscope.report.sections.base import Section, prose, table
from stratoscope.report.wording import sentence
from stratoscope.spec.record import RunRecord, Unavailable

#: Rows of a table on the page; CSV and JSON have them all.
MOST_ROWS: Final = 20
#: Trees are on the page already, and open at a click.
_ELSEWHERE: Final = frozenset({"tree", "tree-merged"})


def results(
    record: RunRecord,
    spans: pl.DataFrame | None,
    samples: pl.DataFrame | None,
    options: AnalysisOptions | None = None,
) -> list[AnalysisResult | Unavailable]:
    """Every analysis of a run but the trees, in the order of the registry."""
    trace = LeveledTrace.of_record(record, spans, samples)
    return [analyse(one, trace, options) for one in registry() if one not in _ELSEWHERE]


def section(found: Sequence[AnalysisResult | Unavailable]) -> Section | None:
    """None where no analysis tells anything."""
    told = [one for one in found if isinstance(one, AnalysisResult)]
    missing = [one for one in found if not isinstance(one, AnalysisResult)]
    if not told:
        return None
    parts: list[Markup | None] = [
        prose(
            "The analyses of XSP (arXiv 1908.06869) and some beyond. Each takes the time of a level from the runs that "
            "were profiled no deeper. ",
            element("code", "stratoscope analyze RUN --csv"),
            " writes any of them whole, with intervals.",
        )
    ]
    parts += [_analysis(one) for one in told]
    if missing:
        parts.append(_missing(missing))
    return Section("analyses", "Analyses", element("div", parts))


def _analysis(result: AnalysisResult) -> Markup:
    """One analysis, folded: a page of fifteen tables is read one by one."""
    facts = [fact_text(name, value) for name, value in result.facts.items() if value is not None]
    return element(
        "details",
        element(
            "summary", join(f"{result.id}  {result.title} ", element("small", fmt.count(result.frame.height, "row")))
        ),
        element("div", plot_of(result)),
        _table(result),
        prose(" · ".join(facts), class_="reason") if facts else None,
        [prose(sentence(note)) for note in result.notes],
        class_="group",
        id=f"analysis-{result.id}",
    )


def _table(result: AnalysisResult) -> Markup:
    frame = result.frame.head(MOST_ROWS)
    shown = [column for column in result.columns if has_room(column, result.frame)]
    cells = [column_cells(column, frame) for column in shown]
    more = result.frame.height - frame.height
    caption = f"The first {frame.height} of {fmt.count(result.frame.height, 'row')}" if more > 0 else result.title
    numbers = [place for place, column in enumerate(shown) if column.dtype.is_numeric()]
    head = [heading(column) for column in shown]
    return table(head, zip(*cells, strict=True), caption=caption, numbers=numbers)


def _missing(missing: Sequence[Unavailable]) -> Markup:
    """What could not be told, the analyses with one reason together."""
    items = []
    for why in dict.fromkeys(one.why for one in missing):
        names = ", ".join(one.what.split()[0] for one in missing if one.why == why)
        items.append(element("li", element("strong", names), f": {why}"))
    return element(
        "details", element("summary", "Unavailable"), element("ul", items), class_="group", id="analyses-unavailable"
    )
