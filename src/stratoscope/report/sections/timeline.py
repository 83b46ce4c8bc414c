"""One inference as a zoomable Gantt chart, a lane for each level and track; from the layers' offsets and the spans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from stratoscope.report import format as fmt
from stratoscope.report.axes import linear_axis
from stratoscope.report.charts import legend
from stratoscope.report.markup import Markup, element
from stratoscope.report.sections.base import OTHER, Section, operator_colours, operator_legend
from stratoscope.spec.record import ProfileSection, RunRecord
from stratoscope.trace.levels import Level

#: Bars that a browser still moves smoothly; of a larger trace the longest are drawn, and the page says so.
MOST_BARS = 5000


@dataclass(frozen=True, slots=True)
class Bar:
    """A span on a lane; times in nanoseconds from the start of the shown inference."""

    lane: tuple[int, int]
    name: str
    start_ns: int
    end_ns: int
    colour: str
    layer: int | None = None


def section(record: RunRecord, spans: pl.DataFrame | None) -> Section | None:
    """None where no layer has a place in time."""
    profile = record.profile
    if profile is None:
        return None
    layers = _layer_bars(profile)
    if not layers:
        return None
    enclosing = _enclosing_bars(profile, spans) if spans is not None else []
    bars = [*enclosing, *layers]
    return Section("timeline", "One inference in time", _chart(profile, bars))


def _layer_bars(profile: ProfileSection) -> list[Bar]:
    colours = operator_colours(profile)
    return [
        Bar(
            (Level.LAYER, row.track), row.name, row.start_ns, row.start_ns + row.duration_ns, colours[row.op], row.index
        )
        for row in profile.layers
        if row.start_ns is not None and row.duration_ns is not None
    ]


def _enclosing_bars(profile: ProfileSection, spans: pl.DataFrame) -> list[Bar]:
    """Spans of the shown inference at the other levels: of the run whose layers last exactly as long as the rows say.

    Empty where no run of the trace is the shown one, so that a bar never stands where it was not measured.
    """
    shown = [(row.name, row.duration_ns) for row in profile.layers if row.duration_ns is not None]
    layers = spans.filter(pl.col("level") == int(Level.LAYER))
    for (run,), rows in layers.group_by(["run"], maintain_order=True):
        found = [(name, end - start) for name, start, end in rows.select("name", "start_ns", "end_ns").iter_rows()]
        if sorted(found) != sorted(shown):
            continue
        first_layer = min(row.start_ns for row in profile.layers if row.start_ns is not None)
        origin = int(rows["start_ns"].min()) - first_layer  # type: ignore[arg-type]
        others = spans.filter((pl.col("run") == run) & (pl.col("level") != int(Level.LAYER)))
        columns = others.select("level", "track", "name", "start_ns", "end_ns").iter_rows()
        return [
            Bar((level, track), name, start - origin, end - origin, OTHER) for level, track, name, start, end in columns
        ]
    return []


def _chart(profile: ProfileSection, bars: Sequence[Bar]) -> Markup:
    drawn = sorted(bars, key=lambda bar: bar.start_ns - bar.end_ns)[:MOST_BARS]
    start, end = min(bar.start_ns for bar in drawn), max(bar.end_ns for bar in drawn)
    total = max(end - start, 1)
    lanes = sorted({bar.lane for bar in drawn})
    left_out = len(bars) - len(drawn)
    note = f"{fmt.count(len(drawn))} spans in {fmt.bare(total / 1e9, 's')}"
    note += f"; {fmt.count(left_out)} shorter spans are not drawn" if left_out else ""
    tracks = [
        element(
            "div",
            element("div", _lane_name(lane, lanes), class_="lane-name"),
            [_lane_row(row, start, total) for row in _rows([bar for bar in drawn if bar.lane == lane])],
            class_="lane",
        )
        for lane in lanes
    ]
    ruler = [
        element("span", tick.label, class_="tick", style=f"left:{tick.at * 100:.3f}%")
        for tick in linear_axis(0, total / 1e9, "s", ticks=5).ticks
    ]
    view = element("div", element("div", ruler, class_="ruler"), tracks, class_="gantt-view")
    window = element(
        "div",
        view,
        class_="gantt",
        id="gantt",
        tabindex="0",
        role="region",
        aria_label="Timeline of one inference; plus and minus zoom, arrows move",
        data_total_ns=str(total),
    )
    return element(
        "figure",
        element("figcaption", element("strong", "Spans"), element("span", note)),
        _controls(),
        legend(operator_legend(profile)),
        window,
        class_="chart wide",
    )


def _controls() -> Markup:
    buttons = [
        element("button", sign, type="button", data_zoom=zoom, aria_label=words, title=words)
        for sign, zoom, words in (("−", "out", "Zoom out"), ("+", "in", "Zoom in"), ("fit", "fit", "Whole inference"))
    ]
    hint = element("span", "Ctrl + wheel zooms, a click on a layer finds it in the table", class_="hint")
    return element("div", buttons, hint, class_="controls screen-only")


def _rows(bars: Sequence[Bar]) -> list[list[Bar]]:
    """Bars of a lane on as few rows as overlap asks for, each on the first row that is free when it starts."""
    rows: list[list[Bar]] = []
    for bar in sorted(bars, key=lambda bar: (bar.start_ns, -bar.end_ns)):
        row = next((row for row in rows if row[-1].end_ns <= bar.start_ns), None)
        if row is None:
            rows.append([bar])
        else:
            row.append(bar)
    return rows


def _lane_row(row: Sequence[Bar], start: int, total: int) -> Markup:
    return element("div", [_bar(bar, start, total) for bar in row], class_="lane-row")


def _bar(bar: Bar, start: int, total: int) -> Markup:
    left, width = (bar.start_ns - start) / total * 100, (bar.end_ns - bar.start_ns) / total * 100
    at, length = fmt.bare((bar.start_ns - start) / 1e9, "s", 4), fmt.bare((bar.end_ns - bar.start_ns) / 1e9, "s", 4)
    return element(
        "span",
        element("span", bar.name),
        class_=f"bar {bar.colour}",
        style=f"left:{left:.5f}%;width:{width:.5f}%",
        data_tip=f"{bar.name}: {length}, at {at}",
        data_layer=None if bar.layer is None else str(bar.layer),
    )


def _lane_name(lane: tuple[int, int], lanes: Sequence[tuple[int, int]]) -> str:
    level, track = lane
    name = Level(level).name.lower() if level in set(Level) else f"level {level}"
    several = sum(1 for other, _ in lanes if other == level) > 1
    return f"{name}, track {track}" if several else name
