"""What is not on the page and why: refused statistics, unknown work, sections that were not measured."""

from __future__ import annotations

from collections.abc import Iterator

from stratoscope.report.format import statistic_label
from stratoscope.report.markup import element
from stratoscope.report.sections.base import Section, prose, table
from stratoscope.spec.record import RunRecord


def section(record: RunRecord) -> Section:
    """One row for everything that a reader may look for in vain."""
    rows = list(missing(record))
    if not rows:
        return Section("gaps", "Not available", prose("Everything that this page can show was measured."))
    body = table(("what", "why"), rows, caption="Nothing here is zero; it is not known")
    return Section("gaps", "Not available", element("div", body))


def missing(record: RunRecord) -> Iterator[tuple[str, str]]:
    """(what, why) of everything absent from the record, its own list first."""
    for item in record.unavailable:
        yield item.what, item.why
    if record.load is not None:
        for key, value in record.load.latency.items():
            if value.value is None:
                yield f"{statistic_label(key)} of latency", value.reason or ""
        if record.load.noise.throttled.value is None:
            yield "throttling during the load", record.load.noise.throttled.reason or ""
    if record.graph is not None and record.graph.unknown_work:
        yield "work of some operators", f"no work function for {', '.join(record.graph.unknown_work)}"
    named = {item.what.replace("_", " ") for item in record.unavailable}
    sections = {
        "graph": record.graph,
        "load": record.load,
        "batch sweep": record.sweep,
        "cold start": record.cold_start,
        "layer profile": record.profile,
        "accuracy": record.accuracy,
    }
    for name, part in sections.items():
        if part is None and name not in named:
            why = "the run ended before it" if record.status != "complete" else "not asked for in this run"
            yield name, why
