"""Charts as inline SVG with positions in per cent, so that they fill any width without scaling their text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stratoscope.report.axes import Axis
from stratoscope.report.markup import Child, Markup, element, join


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of a list: its label, its length (0 to 1), the value written after it, its colour class and its tip.

    In a waterfall `start` is where it begins (0 to 1).
    """

    label: Child
    length: float
    value: Child
    tip: str
    colour: str = "c0"
    start: float = 0.0


@dataclass(frozen=True, slots=True)
class Marker:
    """A line across a plot with a word at its end: a percentile, an optimum."""

    at: float
    label: str


def figure(title: str, *content: Child, note: Child = None, summary: str | None = None, wide: bool = False) -> Markup:
    """A captioned chart; `summary` says in words what the chart shows, for those who do not see it."""
    return element(
        "figure",
        element("figcaption", element("strong", title), element("span", note) if note is not None else None),
        element("div", *content, class_="drawing", role="img", aria_label=summary or title),
        class_="chart wide" if wide else "chart",
    )


def plot(
    *marks: Child,
    x: Axis,
    y: Axis,
    height: int = 220,
    x_title: str | None = None,
    y_title: str | None = None,
    markers: Sequence[Marker] = (),
) -> Markup:
    """A plot area with both axes, grid lines and vertical markers; `marks` are SVG built by the functions below."""
    grid = [line(0, tick.at, 1, tick.at, "grid") for tick in y.ticks]
    lines = [line(marker.at, 0, marker.at, 1, "marker") for marker in markers]
    width = max((len(tick.label) for tick in y.ticks), default=3)
    rows = _marker_rows(markers)
    return element(
        "div",
        element("div", y_title, class_="y-title") if y_title else None,
        element("div", rows, class_="markers", style=f"height:{_marker_height(markers)}em") if markers else None,
        element("div", [_tick(tick.label, "bottom", tick.at) for tick in y.ticks], class_="y-axis"),
        element("svg", grid, lines, *marks, class_="plot", height=height, aria_hidden="true"),
        element("div", [_tick(tick.label, "left", tick.at) for tick in x.ticks], class_="x-axis"),
        element("div", x_title, class_="x-title") if x_title else None,
        class_="frame",
        style=f"--y-width:{width * 0.58:.2f}em;--height:{height}px",
    )


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """A straight line; positions are parts of the plot, y upwards."""
    return element("line", x1=_x(x1), y1=_y(y1), x2=_x(x2), y2=_y(y2), class_=class_)


def rect(x: float, width: float, height: float, tip: str, class_: str = "c0", *, layer: int | None = None) -> Markup:
    """A bar that stands on the x-axis; with `layer`, a click on it finds that layer in the table."""
    return element(
        "rect",
        x=_x(x),
        y=_y(height),
        width=_x(width),
        height=_x(height),
        class_=class_,
        data_tip=tip,
        data_layer=None if layer is None else str(layer),
    )


def dot(x: float, y: float, tip: str | None = None, class_: str = "c0", radius: float = 3) -> Markup:
    """A point."""
    return element("circle", cx=_x(x), cy=_y(y), r=radius, class_=class_, data_tip=tip)


def path(points: Sequence[tuple[float, float]], class_: str) -> Markup:
    """A line through points that stretches with the plot but keeps its stroke."""
    commands = "L".join(f"{x * 1000:.2f} {1000 - y * 1000:.2f}" for x, y in points)
    return element(
        "svg",
        element("path", d=f"M{commands}", class_=class_, vector_effect="non-scaling-stroke"),
        viewBox="0 0 1000 1000",
        preserveAspectRatio="none",
        width="100%",
        height="100%",
    )


def steps(points: Sequence[tuple[float, float]], class_: str) -> Markup:
    """A staircase: each point's height holds from its x to the next point's x."""
    corners: list[tuple[float, float]] = []
    previous = 0.0
    for x, y in points:
        corners += [(x, previous), (x, y)]
        previous = y
    return path(corners, class_)


def band(lower: Sequence[tuple[float, float]], upper: Sequence[tuple[float, float]], class_: str = "band") -> Markup:
    """The area between two lines over the same x."""
    return path([*lower, *reversed(upper)], class_)


def bar_list(bars: Sequence[Bar], *, class_: str = "") -> Markup:
    """Horizontal bars under one another, label before and value after, as an HTML list."""
    return element("ul", [_bar_row(bar) for bar in bars], class_=f"bars {class_}".strip())


def legend(entries: Sequence[tuple[str, str]]) -> Markup:
    """(colour class, word) pairs."""
    items = [join(element("span", element("i", class_=f"swatch {colour}"), word)) for colour, word in entries]
    return element("div", items, class_="legend")


def _bar_row(bar: Bar) -> Markup:
    style = f"width:{max(0.0, min(1.0, bar.length)) * 100:.3f}%"
    if bar.start:
        style += f";margin-left:{max(0.0, min(1.0, bar.start)) * 100:.3f}%"
    fill = element("span", class_=f"fill {bar.colour}", style=style)
    return element(
        "li",
        element("span", bar.label, class_="bar-label"),
        element("span", fill, class_="bar-track"),
        element("span", bar.value, class_="bar-value"),
        data_tip=bar.tip,
    )


def _tick(label: str, side: str, at: float) -> Markup:
    edge = " first" if at < 0.03 else " last" if at > 0.97 else ""
    return element("span", label, class_=f"tick{edge}", style=f"{side}:{at * 100:.3f}%")


def _marker_rows(markers: Sequence[Marker]) -> list[Markup]:
    """Labels of markers, each on the lowest row where it touches no other (a label is taken as 16 % of the width)."""
    ends: list[float] = []
    result = []
    for marker in sorted(markers, key=lambda marker: marker.at):
        row = next((index for index, end in enumerate(ends) if marker.at >= end), len(ends))
        if row == len(ends):
            ends.append(0.0)
        ends[row] = marker.at + 0.16
        side = "last" if marker.at > 0.85 else "first" if marker.at < 0.06 else ""
        style = f"left:{marker.at * 100:.3f}%;bottom:{row * 1.25:.2f}em"
        result.append(element("span", marker.label, class_=f"tick {side}".strip(), style=style))
    return result


def _marker_height(markers: Sequence[Marker]) -> float:
    ends: list[float] = []
    for marker in sorted(markers, key=lambda marker: marker.at):
        row = next((index for index, end in enumerate(ends) if marker.at >= end), len(ends))
        if row == len(ends):
            ends.append(0.0)
        ends[row] = marker.at + 0.16
    return max(1, len(ends)) * 1.25


def _x(part: float) -> str:
    return f"{part * 100:.3f}%"


def _y(part: float) -> str:
    return f"{100 - part * 100:.3f}%"
