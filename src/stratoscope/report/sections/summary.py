"""The top of the page: which model, how fast, under which load, how far to trust it, and what stands out."""

from __future__ import annotations

from stratoscope.report import format as fmt
from stratoscope.report import wording
from stratoscope.report.findings import findings
from stratoscope.report.markup import Child, Markup, element, join
from stratoscope.report.sections.base import badge, mark, quantity
from stratoscope.spec.record import RunRecord


def hero(record: RunRecord) -> Markup:
    """Name, headline and verdicts; then the key figures and the findings."""
    return element(
        "header",
        element("p", "Stratoscope report", class_="overline"),
        element("h1", record.model.id),
        element("p", _where(record), class_="where"),
        element("div", _headline(record), _verdicts(record), class_="headline"),
        _tiles(record),
        _findings(record),
        class_="hero",
    )


def _where(record: RunRecord) -> str:
    moment = record.created_at.strftime("%Y-%m-%d %H:%M %Z").strip()
    return f"{wording.backend_line(record)} on {wording.machine_line(record.hardware)} · {moment}"


def _headline(record: RunRecord) -> Markup:
    figure = wording.headline(record)
    if figure is None:
        return element("div", element("p", "No speed was measured in this run.", class_="label"), class_="figure-box")
    missing = figure.quantity.reason if figure.quantity.value is None else None
    load = wording.load_words(record.load.scenario) if record.load is not None else None
    return element(
        "div",
        element("p", quantity(figure.quantity, class_="big")),
        element("p", figure.label, class_="label"),
        element("p", missing, class_="reason") if missing else None,
        element("p", load, class_="load") if load else None,
        class_="figure-box",
    )


def _verdicts(record: RunRecord) -> Markup | None:
    rows: list[Markup] = []
    validity = wording.validity(record)
    if validity is not None:
        rows.append(_verdict("Result", validity))
    if record.load is not None:
        rows.append(_verdict("Load generator", wording.client(record.load.client)))
    for name, section in (("Noise, load", record.load), ("Noise, profile", record.profile)):
        if section is not None:
            rows.append(_verdict(name, wording.noise(section.noise)))
    return element("dl", rows, class_="verdicts") if rows else None


def _verdict(name: str, verdict: wording.Verdict) -> Markup:
    reason = element("span", verdict.reason, class_="reason")
    return element("div", element("dt", name), element("dd", badge(verdict), " ", reason))


def _tiles(record: RunRecord) -> Markup | None:
    tiles: list[Markup] = []
    if record.load is not None and record.load.headline != "throughput":
        tiles.append(_tile("Throughput", quantity(record.load.throughput), "completed samples a second"))
    if record.load is not None and "p50" in record.load.latency and record.load.headline != "p50":
        tiles.append(_tile("Median latency", quantity(record.load.latency["p50"]), "from the intended send time"))
    if record.graph is not None:
        graph = record.graph
        tiles.append(_tile("Work", quantity(graph.flops), f"{graph.layers} layers, {graph.unique_layers} unique"))
        size = join(quantity(graph.parameter_bytes), " of weights")
        tiles.append(_tile("Parameters", fmt.magnitude(graph.parameters), size))
    if record.sweep is not None:
        optimal = record.sweep.optimal_batch
        words = "optimal batch" if record.sweep.saturated else "best seen, not saturated"
        tiles.append(_tile("Batch", fmt.count(optimal) if optimal is not None else "none found", words))
    if record.accuracy is not None and record.accuracy.metrics:
        name, metric = next(iter(record.accuracy.metrics.items()))
        note = f"{fmt.count(record.accuracy.samples)} samples of {record.accuracy.dataset}"
        tiles.append(_tile(name, quantity(metric, percent=metric.unit == "1"), note))
    return element("ul", tiles, class_="tiles") if tiles else None


def _tile(name: str, value: Child, note: Child) -> Markup:
    return element(
        "li",
        element("span", name, class_="tile-name"),
        element("span", value, class_="tile-value"),
        element("span", note, class_="tile-note"),
    )


def _findings(record: RunRecord) -> Markup | None:
    items = [element("li", mark(item.tone), element("span", item.sentence)) for item in findings(record)]
    if not items:
        return None
    return element(
        "div", element("h2", "What stands out"), element("ul", items, class_="findings"), class_="stands-out"
    )
