"""Bounds and advice: how fast the model could be, what lies between, and what following the advice gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stratoscope.report import format as fmt
from stratoscope.report.advise_text import achieved, gain
from stratoscope.report.charts import Bar, bar_list, figure, legend, line
from stratoscope.report.markup import Child, Markup, element
from stratoscope.report.sections.base import Section, prose, quantity, table
from stratoscope.spec.advice import QUESTIONS, Advice, AdviceSection, LayerBound
from stratoscope.spec.record import RunRecord

#: Layers of the table of head-room, and the most that the graph is drawn for.
_LAYERS = 20
_MOST_DRAWN = 600
_LANE = 14
_MOST_LANES = 24


def section(record: RunRecord) -> Section | None:
    """None where no advice was asked for."""
    advice = record.advice
    if advice is None:
        return None
    parts: list[Markup | None] = [_lead(advice)]
    if advice.bounds:
        parts.append(element("div", _bounds_chart(advice), _gap_chart(advice), class_="columns"))
        parts += [_bounds_table(advice), _graph(advice), _headroom(advice)]
    parts += [element("h3", "Advice, the largest gain first"), _advice_table(advice)]
    if advice.notes:
        parts.append(prose(" ".join(advice.notes), class_="note"))
    return Section("advice", "How fast it could be, and what to do", element("div", parts))


def _lead(advice: AdviceSection) -> Markup:
    faster = [one for one in advice.advice if one.trial is not None and one.trial.status == "faster"]
    best = max((advice.together, *faster), key=_gain_of, default=None)
    if best is None or _gain_of(best) == 0:
        return prose("Nothing that was tried made it faster.", class_="lead")
    title = "All advice together" if best is advice.together else best.title if best else ""
    promised = f"predicted {gain(best.predicted)}, " if best is not None and best.predicted.value is not None else ""
    return prose(f"{title}: {promised}achieved {achieved(best).plain}." if best else "", class_="lead")


def _gain_of(advice: Advice | None) -> float:
    if advice is None or advice.trial is None or advice.trial.status != "faster":
        return 0.0
    return advice.trial.speedup.value or 0.0


def _bounds_chart(advice: AdviceSection) -> Markup:
    """The measured time and each bound, to one scale."""
    now = advice.measured.value or 0.0
    top = max([now, *(one.time.value or 0.0 for one in advice.bounds)]) or 1.0
    bars = [Bar("measured", now / top, fmt.text(advice.measured), "median of unprofiled inferences", "c0")]
    bars += [
        Bar(
            one.title,
            (one.time.value or 0.0) / top,
            fmt.bare(one.time.value, "s") if one.time.value is not None else fmt.UNAVAILABLE,
            f"{one.note}; {fmt.share(one.coverage)} of the layers' time covered",
            "c1" if one.key != "roofline" else "c2",
        )
        for one in advice.bounds
    ]
    return figure("Measured time and bounds", bar_list(bars), note=f"roofs: {advice.roofs}")


def _gap_chart(advice: AdviceSection) -> Markup:
    """A waterfall: each item begins where the one before has left off."""
    now = advice.measured.value or 0.0
    left = now
    bars = [Bar("measured", 1.0, fmt.bare(now, "s"), "median of unprofiled inferences", "c0")]
    for item in advice.gap:
        seconds = item.seconds.value or 0.0
        start = min(left, left - seconds)
        tip = f"{fmt.bare(seconds, 's')} of {fmt.bare(now, 's')}"
        colour = "c5" if seconds >= 0 else "c3"
        bars.append(
            Bar(
                item.title,
                abs(seconds) / now if now else 0.0,
                fmt.bare(seconds, "s"),
                tip,
                colour,
                start / now if now else 0.0,
            )
        )
        left -= seconds
    bars.append(Bar("best library calls", left / now if now else 0.0, fmt.bare(left, "s"), "one after the other", "c1"))
    return figure("From the measured time to the best library calls", bar_list(bars), note="by operator")


def _bounds_table(advice: AdviceSection) -> Markup:
    rows: list[list[Child]] = [
        [
            element("div", one.title, class_="seen"),
            quantity(one.time),
            quantity(one.ratio),
            fmt.share(one.coverage),
            element("div", one.note, class_="seen"),
        ]
        for one in advice.bounds
    ]
    head = ("bound", "time", "of the measured time", "coverage", "note")
    return table(head, rows, caption="Bounds; what is not measured counts as its roofline", numbers=(1, 2, 3))


def _headroom(advice: AdviceSection) -> Markup:
    ordered = sorted(advice.layers, key=lambda one: (one.bound.value or 0.0) - (one.measured.value or 0.0))[:_LAYERS]
    rows: list[list[Child]] = [
        [
            str(one.index),
            one.op,
            ", ".join(one.authored[:2]) or one.name,
            quantity(one.measured),
            quantity(one.best),
            one.best_candidate,
            quantity(one.roofline),
            one.limited_by,
        ]
        for one in ordered
    ]
    head = ("#", "operator", "layer", "now", "best call", "by", "roofline", "limited by")
    return table(head, rows, caption=f"The {len(rows)} layers with the most head-room", numbers=(0, 3, 4, 6))


def _graph(advice: AdviceSection) -> Markup | None:
    """Layers as bars over the time of the parallel bound, the longest chain in its own colour."""
    layers = advice.layers
    if not 1 < len(layers) <= _MOST_DRAWN:
        return None
    before: dict[int, list[int]] = {}
    for edge in advice.edges:
        before.setdefault(edge.target, []).append(edge.source)
    begin: dict[int, float] = {}
    end: dict[int, float] = {}
    for one in layers:
        begin[one.index] = max((end.get(source, 0.0) for source in before.get(one.index, ())), default=0.0)
        end[one.index] = begin[one.index] + (one.bound.value or 0.0)
    whole = max(end.values())
    if whole <= 0:
        return None
    lanes, count = _lanes(layers, begin, end)
    height = count * _LANE
    middle = {index: 1 - (lane * _LANE + _LANE / 2) / height for index, lane in lanes.items()}
    marks: list[Markup] = [
        line(end[edge.source] / whole, middle[edge.source], begin[edge.target] / whole, middle[edge.target], "grid")
        for edge in advice.edges
        if edge.source in middle and edge.target in middle and lanes[edge.source] != lanes[edge.target]
    ]
    for one in layers:
        tip = f"{one.op} {one.authored[0] if one.authored else one.name}: {fmt.bare(one.bound.value or 0.0, 's')}"
        marks.append(
            element(
                "rect",
                x=f"{begin[one.index] / whole * 100:.3f}%",
                y=lanes[one.index] * _LANE + 1,
                width=f"{max(0.05, (one.bound.value or 0.0) / whole * 100):.3f}%",
                height=_LANE - 2,
                class_="c5" if one.critical else "c0",
                data_tip=tip,
            )
        )
    drawing = element("svg", marks, class_="plot", width="100%", height=height, aria_hidden="true")
    chain = sum(one.critical for one in layers)
    return figure(
        "Longest chain of dependent layers",
        drawing,
        legend([("c5", "on the longest chain"), ("c0", "beside it")]),
        note=f"{fmt.bare(whole, 's')} from left to right, each layer at its bound",
        summary=f"{chain} of {len(layers)} layers are on the longest chain",
        wide=True,
    )


def _lanes(
    layers: Sequence[LayerBound], begin: Mapping[int, float], end: Mapping[int, float]
) -> tuple[dict[int, int], int]:
    """A lane for each layer so that none overlap, the critical ones in the first; and how many there are."""
    lanes: dict[int, int] = {}
    busy: list[float] = [0.0]
    for one in sorted(layers, key=lambda layer: (begin[layer.index], layer.index)):
        if one.critical:
            lanes[one.index] = 0
            continue
        free = next((lane for lane in range(1, len(busy)) if busy[lane] <= begin[one.index] + 1e-12), len(busy))
        free = min(free, _MOST_LANES)
        if free == len(busy):
            busy.append(0.0)
        busy[free] = end[one.index]
        lanes[one.index] = free
    return lanes, len(busy)


def _advice_table(advice: AdviceSection) -> Markup:
    every = [*([advice.together] if advice.together else []), *advice.advice]
    rows: list[list[Child]] = [
        [
            element("div", element("strong", one.title), element("br"), one.claim, class_="seen"),
            element("span", one.question, title=QUESTIONS[one.question]),
            gain(one.predicted),
            element("div", achieved(one).plain, class_="seen"),
            element("div", element("code", one.action), class_="seen"),
        ]
        for one in every
    ]
    head = ("what was seen", "question", "predicted", "achieved", "how")
    return table(
        head, rows, caption="Each was tried beside the original, in random order, its outputs compared", numbers=(2,)
    )
