"""Latency: every percentile with its interval, the distribution of the samples, and how they moved over time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from stratoscope.report import format as fmt
from stratoscope.report import wording
from stratoscope.report.axes import Axis, axis_from_zero, linear_axis, spread_axis
from stratoscope.report.charts import Marker, band, dot, figure, line, path, plot, rect, steps
from stratoscope.report.markup import Markup, element
from stratoscope.report.sections.base import Section, prose, quantity, table
from stratoscope.spec.record import LoadSection, RunRecord
from stratoscope.spec.scenario import ScenarioKind
from stratoscope.stats.quantity import Quantity

Floats = npt.NDArray[np.float64]

#: Bins of the histogram: enough to see two modes, few enough that a bin holds several of a hundred samples.
MOST_BINS = 60
#: More samples than this over time are drawn as a band of percentiles instead of points.
MOST_POINTS = 1500
#: Slices of time of that band.
SLICES = 120
#: Percentiles marked in the distribution, where the record has them.
MARKED = ("p50", "p90", "p99")
#: Samples further from the median than this many times the spread of the middle 80 % are counted, not drawn.
REACH = 8.0


def section(record: RunRecord, samples: pl.DataFrame | None) -> Section | None:
    """Percentile table and charts; None where no load was measured. Without samples only the table."""
    load = record.load
    if load is None:
        return None
    parts = [element("div", _table(load), _rules(load), class_="columns")]
    if samples is None or samples.is_empty():
        parts.append(prose("The single samples of this run are not at hand: no distribution is drawn."))
        return Section("latency", "Latency", element("div", parts))
    sent, took, unit = _latencies(samples)
    parts.append(element("div", *_distribution(load, took, unit), class_="columns"))
    if sent.max() > 0:
        parts.append(_over_time(sent, took, unit))
    return Section("latency", "Latency", element("div", parts))


def _latencies(samples: pl.DataFrame) -> tuple[Floats, Floats, str]:
    """Scheduled time and latency in seconds, in the order of sending, one a query; and the word for what is counted.

    A query ends with its last sample. Where all samples came in one query (offline), each sample counts for itself.
    """
    one_query = samples["query"].n_unique() == 1 and samples.height > 1
    ended = samples.group_by("query").agg(pl.col("scheduled_ns").min(), pl.col("completed_ns").max())
    rows = samples if one_query else ended.sort("scheduled_ns", "query")
    sent = (rows["scheduled_ns"] - rows["scheduled_ns"].min()).to_numpy() / 1e9
    took = (rows["completed_ns"] - rows["scheduled_ns"]).to_numpy() / 1e9
    return sent, took, "samples" if one_query else "queries"


def _table(load: LoadSection) -> Markup:
    rows = []
    for key in wording.latency_keys(load):
        value = load.latency[key]
        name = wording.latency_short(key)
        label = element("strong", name) if key == load.headline else name
        rows.append((label, quantity(value), value.reason or _interval(value)))
    levels = {value.confidence for value in load.latency.values() if value.confidence is not None}
    level = f"{levels.pop() * 100:g} % " if len(levels) == 1 else ""
    offline = load.scenario.kind is ScenarioKind.OFFLINE
    counted = f"{fmt.count(load.samples)} samples" if offline else f"{fmt.count(load.queries)} queries"
    caption = f"Latency of {counted}, from the intended send time"
    return table(("", "value", f"{level}interval"), rows, numbers=(1,), caption=caption)


def _interval(value: Quantity) -> Markup:
    """Both ends of the interval, with more digits than the value shows."""
    if value.ci_low is None or value.ci_high is None:
        return element("span", "none", class_="spread")
    ends = f"{fmt.bare(value.ci_low, value.unit, 4)} to {fmt.bare(value.ci_high, value.unit, 4)}"
    return element("span", ends, class_="spread")


def _rules(load: LoadSection) -> Markup:
    validity, client, noise = load.validity, load.client, load.noise
    verdict = ("VALID" if validity.valid else "INVALID") + f" by {validity.source}"
    rows = [
        ("scenario", wording.load_words(load.scenario)),
        ("answered", wording.load_size(load)),
        ("duration", quantity(load.duration_s)),
        ("throughput", quantity(load.throughput)),
        ("verdict", "; ".join((verdict, *validity.reasons))),
        ("load generator", wording.client(client).reason),
        ("its cost a query", quantity(client.overhead_per_query_s)),
        ("send lag, p99", quantity(client.send_lag_p99_s)),
        ("machine noise", f"{wording.noise(noise).word}: {wording.noise(noise).reason}"),
    ]
    rows += [("note", note) for note in load.notes]
    return table((), rows, caption="What was asked, and whether it was kept")


def _distribution(load: LoadSection, times: Floats, unit: str) -> tuple[Markup, Markup]:
    low, high = _drawn_range(times)
    x = linear_axis(low, high, "s", ticks=4)
    beyond = int((times > high).sum())
    note = f"{fmt.count(times.size)} {unit}"
    if beyond:
        longest = fmt.bare(float(times.max()), "s")
        part = fmt.share(beyond / times.size)
        note += f"; {fmt.count(beyond)} ({part}) beyond {fmt.bare(high, 's')} are not drawn, the longest took {longest}"
    values = {key: load.latency[key].value for key in MARKED if key in load.latency}
    known = {key: value for key, value in values.items() if value is not None and low <= value <= high}
    markers = [Marker(x.at(value), f"{key} {fmt.bare(value, 's')}") for key, value in known.items()]
    histogram = figure("Histogram", _histogram(times, x, markers, unit), note=note)
    share_of = f"part of the {unit} that took at most this"
    ecdf = figure("Cumulative distribution", _ecdf(times, x, known, unit), note=share_of)
    return histogram, ecdf


def _drawn_range(times: Floats) -> tuple[float, float]:
    """The span of latencies to draw: all, unless a far tail would squeeze the rest."""
    low, tenth, median, ninetieth, longest = (float(value) for value in np.quantile(times, (0.0, 0.1, 0.5, 0.9, 1.0)))
    reach = median + REACH * (ninetieth - tenth)
    high = min(longest, reach) if ninetieth > tenth else longest
    margin = 0.02 * (high - low) or 0.05 * high or 1e-9
    return max(0.0, low - margin), high + margin


def _histogram(times: Floats, x: Axis, markers: list[Marker], unit: str) -> Markup:
    bins = max(10, min(MOST_BINS, round(2 * times.size ** (1 / 2))))
    counts, edges = np.histogram(times, bins=bins, range=(x.low, x.high))
    y = axis_from_zero(float(counts.max()), "1", ticks=4)
    width = 1 / bins
    marks = [
        rect(
            index * width,
            width * 0.94,
            y.at(float(number)),
            f"{fmt.bare(low, 's', 4)} to {fmt.bare(high, 's', 4)}: {fmt.count(int(number))} {unit}",
        )
        for index, (number, low, high) in enumerate(zip(counts, edges, edges[1:], strict=False))
        if number
    ]
    return plot(*marks, x=x, y=y, markers=markers, x_title="latency", y_title=unit)


def _ecdf(times: Floats, x: Axis, known: dict[str, float], unit: str) -> Markup:
    ordered = np.sort(times)
    chosen = np.unique(np.linspace(0, ordered.size - 1, min(ordered.size, 500)).round().astype(int))
    points = [(x.at(float(ordered[i])), (int(i) + 1) / ordered.size) for i in chosen if ordered[i] <= x.high]
    marks = [steps([*points, (1.0, points[-1][1])], "line c0")]
    for key, value in known.items():
        part = float(key.removeprefix("p")) / 100
        marks.append(line(x.at(value), 0, x.at(value), part, "guide"))
        marks.append(dot(x.at(value), part, f"{key}: {fmt.bare(value, 's', 4)}", "c5", 4))
    y = linear_axis(0, 1, "1", ticks=4)
    percent = Axis(0, 1, tuple(type(tick)(tick.at, f"{tick.at * 100:.0f} %") for tick in y.ticks))
    return plot(*marks, x=x, y=percent, x_title="latency", y_title=unit)


def _over_time(sent: Floats, took: Floats, unit: str) -> Markup:
    """Latency against the time of sending: points, or for many samples the 10th, 50th and 90th percentile by slice."""
    x = linear_axis(0.0, float(sent.max()) or 1.0, "s", ticks=6)
    y = spread_axis(float(took.min()), float(took.max()), "s")
    if took.size <= MOST_POINTS:
        marks = [
            dot(
                x.at(float(at)),
                y.at(float(value)),
                _at(float(at), float(value)),
                "c0 p",
                2,
            )
            for at, value in zip(sent, took, strict=True)
        ]
        note = f"{fmt.count(took.size)} {unit}, each at its intended send time"
    else:
        marks = _slices(sent, took, x, y)
        note = f"by {SLICES} slices of time: median, 10th to 90th percentile (band), slowest (points)"
    scale = "; logarithmic scale" if y.logarithmic else "; the axis does not start at zero" if y.low > 0 else ""
    drawing = plot(*marks, x=x, y=y, height=200, x_title="time since the first query", y_title="latency")
    return figure("Latency over time", drawing, note=note + scale, wide=True)


def _at(sent: float, took: float) -> str:
    return f"sent at {fmt.bare(sent, 's', 4)}: {fmt.bare(took, 's', 4)}"


def _slices(sent: Floats, took: Floats, x: Axis, y: Axis) -> list[Markup]:
    edges = np.linspace(0, sent.max(), SLICES + 1)
    slices = np.clip(np.searchsorted(edges, sent, side="right") - 1, 0, SLICES - 1)
    lower, middle, upper, slowest = [], [], [], []
    for index in range(SLICES):
        inside = took[slices == index]
        if not inside.size:
            continue
        at = x.at(float((edges[index] + edges[index + 1]) / 2))
        low, median, high = (y.at(float(value)) for value in np.quantile(inside, (0.1, 0.5, 0.9)))
        lower.append((at, low))
        middle.append((at, median))
        upper.append((at, high))
        tip = f"slowest of {fmt.count(inside.size)}: {fmt.bare(float(inside.max()), 's', 4)}"
        slowest.append(dot(at, y.at(float(inside.max())), tip, "c5 p", 2))
    return [band(lower, upper), path(middle, "line c0"), *slowest]
