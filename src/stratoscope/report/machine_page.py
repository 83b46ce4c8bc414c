"""Writes a machine record as one HTML page that needs nothing else, in the style of the run report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from stratoscope._version import __version__
from stratoscope.host.roofs import MEMORY, Roofs
from stratoscope.report import format as fmt
from stratoscope.report import machine_words as words
from stratoscope.report import wording
from stratoscope.report.files import write_text
from stratoscope.report.machine_charts import bandwidth_chart, latency_chart, roofline
from stratoscope.report.markup import Child, Markup, element
from stratoscope.report.page import page
from stratoscope.report.sections.base import Section, badge, prose, quantity, table
from stratoscope.spec.machine import MachineRecord


def write_machine_page(record: MachineRecord, path: Path) -> Path:
    """Replaces `path` by the page and returns it; raises StoreError where it cannot be written."""
    return write_text(path, render_machine_page(record))


def render_machine_page(record: MachineRecord) -> str:
    """The page as HTML text."""
    roofs = Roofs(record)
    note = "The tip of a number says its statistic, its sample size and its interval."
    return page(
        title=words.title(record),
        hero=_hero(record, roofs),
        sections=[
            _memory(record, roofs),
            _compute(roofs),
            _costs(record, roofs),
            _gpu(record),
            _all(record),
            _environment(record),
            _missing(record),
        ],
        footer=f"Stratoscope {__version__} · machine record {record.id} · {note}",
        data=record.model_dump_json(by_alias=True),
    )


def _hero(record: MachineRecord, roofs: Roofs) -> Markup:
    moment = record.created_at.strftime("%Y-%m-%d %H:%M %Z").strip()
    verdict = wording.noise(record.noise)
    noise = element("dd", badge(verdict), " ", element("span", verdict.reason, class_="reason"))
    taken = element("dd", element("span", words.how_measured(record), class_="reason"))
    judged = element(
        "dl",
        element("div", element("dt", "Measured"), taken),
        element("div", element("dt", "Machine"), noise),
        class_="verdicts",
    )
    return element(
        "header",
        element("p", "Machine characterisation", class_="overline"),
        element("h1", words.title(record)),
        element("p", f"{words.machine_line(record)} · {moment}", class_="where"),
        judged,
        _tiles(roofs),
        class_="hero",
    )


def _tiles(roofs: Roofs) -> Markup | None:
    most = max(roofs.thread_counts, default=1)
    tiles: list[Markup] = []
    if MEMORY in roofs.levels:
        roof = roofs.bandwidth(MEMORY, most)
        tiles.append(_tile("Memory bandwidth", quantity(roof.figure), words.thread_word(most)))
    for dtype in roofs.dtypes:
        peak = roofs.peak(dtype, most)
        ridge = roofs.ridge(dtype, most)
        note = f"ridge {fmt.bare(ridge.value, '1')} FLOP a byte" if ridge.value is not None else words.thread_word(most)
        tiles.append(_tile(f"Peak {dtype}", quantity(peak.figure), note))
    if MEMORY in roofs.levels and roofs.latency(MEMORY).value is not None:
        tiles.append(_tile("Memory latency", quantity(roofs.latency(MEMORY).figure), "one dependent load"))
    return element("ul", tiles, class_="tiles") if tiles else None


def _tile(name: str, value: Child, note: Child) -> Markup:
    return element(
        "li",
        element("span", name, class_="tile-name"),
        element("span", value, class_="tile-value"),
        element("span", note, class_="tile-note"),
    )


def _memory(record: MachineRecord, roofs: Roofs) -> Section | None:
    charts = [chart for chart in (bandwidth_chart(record), latency_chart(record)) if chart is not None]
    if not charts and not roofs.levels:
        return None
    rows = []
    for level, found in words.bandwidth_rows(roofs):
        cells: list[Child] = [level, quantity(roofs.latency(level).figure)]
        cells += [quantity(roof.figure) for roof in found]
        rows.append([*cells, found[0].source])
    head = ["level", "latency", *map(words.thread_word, roofs.thread_counts), "largest on the first column by"]
    caption = "The largest of STREAM's kernels and reading; bytes as STREAM counts them"
    numbers = tuple(range(1, len(head) - 1))
    parts: list[Child] = [*charts]
    if rows:
        parts.append(table(head, rows, caption=caption, numbers=numbers))
    return Section("memory", "Memory", element("div", *parts))


def _compute(roofs: Roofs) -> Section | None:
    if not roofs.dtypes:
        return None
    charts = [chart for chart in (roofline(roofs, threads) for threads in roofs.thread_counts) if chart is not None]
    rows = [
        (dtype, str(threads), quantity(peak.figure), quantity(gemm.figure), quantity(ridge), peak.source)
        for dtype, threads, peak, gemm, ridge in words.peak_rows(roofs)
        if peak.value is not None
    ]
    caption = "Peaks: the roof is the larger of arithmetic in registers and the best library's matrix product"
    head = ("dtype", "threads", "roof", "best product", "ridge point (memory)", "roof by")
    body = element("div", charts, table(head, rows, caption=caption, numbers=(1, 2, 3, 4)))
    return Section("compute", "Compute", body)


def _costs(record: MachineRecord, roofs: Roofs) -> Section | None:
    groups = (("Costs", words.cost_rows(roofs)), ("Transfers", words.transfer_rows(roofs)))
    tables = [_rows(title, rows) for title, rows in groups if rows]
    return Section("costs", "Costs and transfers", element("div", tables, class_="columns")) if tables else None


def _gpu(record: MachineRecord) -> Section | None:
    rows = words.gpu_rows(record)
    return Section("gpu", "GPU", _rows("By the device's own events", rows)) if rows else None


def _rows(caption: str, rows: Sequence[words.Row]) -> Markup:
    cells = [(row.name, quantity(row.figure), row.source) for row in rows]
    return table(("", "median", "by"), cells, caption=caption, numbers=(1,))


def _all(record: MachineRecord) -> Section | None:
    if not record.measurements:
        return None
    rows = [
        (m.name, quantity(m.figure), quantity(m.best), f"{m.figure.n} + {m.rejected} refused", m.note or m.gate)
        for m in record.measurements
    ]
    caption = (
        "Every benchmark: median with its 95 % interval, the best repeat, repeats kept and refused by the noise gate"
    )
    drawn = table(("benchmark", "median", "best", "repeats", "note"), rows, caption=caption, numbers=(1, 2))
    summary = element("summary", f"{fmt.count(len(rows))} benchmarks")
    return Section("all", "All benchmarks", element("details", summary, drawn, class_="group"))


def _environment(record: MachineRecord) -> Section:
    parts: list[Child] = []
    if record.command:
        parts += [prose("The command that reproduces it:"), element("pre", element("code", record.command))]
    state = [(row.name, quantity(row.figure), row.figure.reason or "") for row in words.state_rows(record)]
    parts.append(table(("", "over the measurement", "why not"), state, caption="State over time", numbers=(1,)))
    facts = [
        ("Hardware", record.hardware.model_dump(mode="json")),
        ("Software", record.software.model_dump(mode="json")),
    ]
    for name, manifest in facts:
        rows = [
            (
                fact.path,
                element("span", f"{fact.value}: {fact.reason}", class_="unavailable") if fact.reason else fact.value,
            )
            for fact in wording.facts(manifest)
        ]
        parts.append(element("details", element("summary", name), _facts(rows), class_="group"))
    parts += [prose(note) for note in record.notes]
    return Section("environment", "Environment", element("div", *parts))


def _facts(rows: Iterable[tuple[str, Child]]) -> Markup:
    return element(
        "dl", [element("div", element("dt", name), element("dd", value)) for name, value in rows], class_="facts"
    )


def _missing(record: MachineRecord) -> Section | None:
    if not record.unavailable:
        return None
    rows = [(item.what, item.why) for item in record.unavailable]
    return Section(
        "missing", "Not available", table(("what", "why"), rows, caption="What was asked for and is not there")
    )
