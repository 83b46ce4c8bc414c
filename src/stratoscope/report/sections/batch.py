"""Throughput by batch size, with the optimal batch marked."""

from __future__ import annotations

from stratoscope.report import format as fmt
from stratoscope.report import wording
from stratoscope.report.axes import Axis, Tick, axis_from_zero
from stratoscope.report.charts import Marker, dot, figure, line, path, plot
from stratoscope.report.markup import Markup, element
from stratoscope.report.sections.base import Section, prose, quantity, table
from stratoscope.spec.record import RunRecord, SweepPoint, SweepSection


def section(record: RunRecord) -> Section | None:
    """The sweep's chart and table; None where no sweep was made."""
    sweep = record.sweep
    if sweep is None:
        return None
    body = element("div", _chart(sweep), _table(sweep), class_="columns")
    return Section(
        "batch", "Throughput by batch size", element("div", prose(wording.batch(sweep), class_="lead"), body)
    )


def _chart(sweep: SweepSection) -> Markup:
    points = [(point, point.throughput.value) for point in sweep.points if point.throughput.value is not None]
    if not points:
        return prose("No batch size has a throughput: see the table for the reasons.")
    highest = max(point.throughput.ci_high or value for point, value in points)
    y = axis_from_zero(highest, "1/s", ticks=4)
    width = max(len(points), 2)
    places = {point.batch_size: (index + 0.5) / width for index, (point, _) in enumerate(points)}
    x = Axis(0, 1, tuple(Tick(place, fmt.count(batch)) for batch, place in places.items()))
    marks = [path([(places[point.batch_size], y.at(value)) for point, value in points], "line c0")]
    for point, value in points:
        place = places[point.batch_size]
        low, high = point.throughput.ci_low, point.throughput.ci_high
        if low is not None and high is not None:
            marks.append(line(place, y.at(max(low, 0.0)), place, y.at(high), "whisker"))
        optimal = point.batch_size == sweep.optimal_batch
        marks.append(dot(place, y.at(value), _tip(point), "c5" if optimal else "c0", 5 if optimal else 4))
    markers = []
    if sweep.optimal_batch in places:
        word = "optimal" if sweep.saturated else "best seen"
        markers = [Marker(places[sweep.optimal_batch], f"{word}: {fmt.count(sweep.optimal_batch)}")]
    return figure(
        "Throughput",
        plot(*marks, x=x, y=y, markers=markers, x_title="batch size", y_title="inputs a second"),
        note="whiskers: interval",
        summary=wording.batch(sweep),
    )


def _tip(point: SweepPoint) -> str:
    return f"batch {point.batch_size}: {fmt.text(point.throughput)}, latency {fmt.text(point.latency)}"


def _table(sweep: SweepSection) -> Markup:
    rows = []
    previous: float | None = None
    for point in sweep.points:
        value = point.throughput.value
        gain = f"{value / previous:.2f}×" if value is not None and previous else ""
        star = " ★" if sweep.saturated and point.batch_size == sweep.optimal_batch else ""
        batch = f"{fmt.count(point.batch_size)}{star}"
        rows.append((batch, quantity(point.throughput), gain, quantity(point.latency)))
        previous = value
    caption = "Steady state; the latency is that of a whole batch"
    return table(("batch", "inputs /s", "gain", "latency"), rows, numbers=(1, 2, 3), caption=caption)
