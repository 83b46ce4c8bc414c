"""The layers by time: what adds up to what, by operator, in the order of execution, and every layer in a table."""

from __future__ import annotations

from collections.abc import Sequence

from stratoscope.explain.layers import LayerGroup, by_type, flop_rate, layers_for_share, ranked, total
from stratoscope.report import format as fmt
from stratoscope.report import wording
from stratoscope.report.axes import Axis, Tick, axis_from_zero, linear_axis
from stratoscope.report.charts import Bar, bar_list, figure, legend, plot, rect
from stratoscope.report.markup import Child, Markup, element, join
from stratoscope.report.sections.base import (
    Section,
    operator_colours,
    operator_legend,
    prose,
    quantity,
)
from stratoscope.spec.record import LayerRow, ProfileSection, RunRecord

#: Operators with a bar of their own; the rest is summed in one bar.
MOST_OPERATORS = 12

#: Rows of the layer table that are printed; the style sheet has the same number.
PRINTED_ROWS = 60

_COLUMNS: Sequence[tuple[str, str, bool]] = (
    ("#", "place in the order of execution", True),
    ("layer", "executed layer, and the authored layers fused into it", False),
    ("operator", "operator that the runtime executed", False),
    ("output", "shape of the output", False),
    ("time", "time, from runs profiled at layer level", True),
    ("share", "of the summed layer time", True),
    ("GFLOP/s", "nominal work over time", True),
    ("work", "floating-point operations; a multiply-add is two", True),
    ("bytes", "read + written + parameters, each once", True),
    ("parameters", "number of weights", True),
)


def section(record: RunRecord) -> Section | None:
    """None where no profile was made."""
    profile = record.profile
    if profile is None:
        return None
    parts: list[Markup | None] = [_adds_up(profile)]
    if profile.layers:
        parts += [_types(profile), _in_order(profile), _table(profile)]
    else:
        parts.append(prose("The profile holds no layers."))
    return Section("layers", "Layers by time", element("div", parts))


def _adds_up(profile: ProfileSection) -> Markup:
    rows = (
        ("one inference, not profiled", profile.model_time, "c0"),
        ("one inference, profiled", profile.profiled_model_time, "c0"),
        ("sum of its layers", profile.layers_sum, "c1"),
        ("between layers", profile.gap, "cx"),
    )
    longest = max((value.value for _, value, _ in rows if value.value is not None), default=0.0) or 1.0
    bars = [
        Bar(name, (q.value or 0.0) / longest, quantity(q), f"{name}: {fmt.text(q)}", colour) for name, q, colour in rows
    ]
    if profile.overhead_below_noise:
        overhead = join("Profiling overhead is below the noise (", quantity(profile.overhead), ").")
    else:
        overhead = join("Profiling adds ", quantity(profile.overhead), " to an inference.")
    checks = [
        element("li", "✓ " if holds else "✗ ", name.replace("_", " "), class_="good" if holds else "bad")
        for name, holds in profile.checks.items()
    ]
    return element(
        "div",
        figure("What adds up to what", bar_list(bars), note=f"{fmt.count(profile.repeats)} repeats"),
        element(
            "div",
            prose(overhead),
            _other_sum(profile),
            prose(wording.sentence(profile.note)) if profile.note else None,
            element("ul", checks, class_="checks", aria_label="Conservation checks") if checks else None,
        ),
        class_="columns",
    )


def _other_sum(profile: ProfileSection) -> Markup | None:
    """A warning where the layers' own times, which the tables show, do not add up to the sum of whole inferences."""
    low, high = profile.layers_sum.ci_low, profile.layers_sum.ci_high
    if low is None or high is None or not profile.layers:
        return None
    added = total((row.time for row in profile.layers), "s")
    if added.value is None or low <= added.value <= high:
        return None
    words = "The times of the single layers below add up to "
    why = ": each is estimated by itself, the sum above over whole inferences. Noise makes them differ."
    return prose("! ", words, quantity(added), why, class_="warn")


def _types(profile: ProfileSection) -> Markup:
    groups = by_type(profile)
    colours = operator_colours(profile)
    longest = max((group.time.value or 0.0 for group in groups), default=0.0) or 1.0
    bars = [_type_bar(group, longest, colours[group.op]) for group in groups[:MOST_OPERATORS]]
    rest = groups[MOST_OPERATORS:]
    shares = [group.share for group in rest if group.share is not None]
    if rest:
        words = f"{len(rest)} more operators"
        part = sum(shares) if len(shares) == len(rest) else None
        length = sum(group.time.value or 0.0 for group in rest) / longest
        tip = ", ".join(group.op for group in rest)
        bars.append(Bar(words, length, fmt.share(part), tip, "cx"))
    note = "time (the ends of the layers' intervals added), part of the layer time, work over time"
    return figure("By operator", bar_list(bars, class_="types"), note=note, wide=True)


def _type_bar(group: LayerGroup, longest: float, colour: str) -> Bar:
    number = fmt.count(len(group.layers), "layer")
    label = join(group.op, element("small", f" {number}"))
    rate = fmt.show(group.flop_rate)
    value = join(
        quantity(group.time),
        element("span", fmt.share(group.share), class_="part"),
        element("span", rate.value, class_=f"rate {rate.status}", title=rate.detail),
    )
    tip = f"{group.op}: {number}, {fmt.text(group.time)}, {fmt.share(group.share)}, {rate.text}"
    return Bar(label, (group.time.value or 0.0) / longest, value, tip, colour)


def _in_order(profile: ProfileSection) -> Markup:
    rows = sorted(profile.layers, key=lambda row: row.index)
    colours = operator_colours(profile)
    highest = max((row.time.value for row in rows if row.time.value is not None), default=0.0)
    y = axis_from_zero(highest, "s", ticks=4)
    width = 1 / len(rows)
    marks = []
    for place, row in enumerate(rows):
        if row.time.value is not None:
            bar = rect(place * width, width * 0.9, y.at(row.time.value), _tip(row), colours[row.op], layer=row.index)
            marks.append(bar)
    drawing = plot(
        *marks, x=_index_axis(rows), y=y, height=200, x_title="layer, in the order of execution", y_title="time"
    )
    return figure("In order of execution", legend(operator_legend(profile)), drawing, wide=True)


def _index_axis(rows: Sequence[LayerRow]) -> Axis:
    """Whole-numbered ticks in the middle of the bars they belong to."""
    round_places = linear_axis(0, max(len(rows) - 1, 1), "1", ticks=6).ticks
    places = sorted({round(tick.at * max(len(rows) - 1, 1)) for tick in round_places})
    ticks = tuple(
        Tick((place + 0.5) / len(rows), fmt.count(rows[place].index)) for place in places if place < len(rows)
    )
    return Axis(0, 1, ticks)


def _tip(row: LayerRow) -> str:
    return f"{row.index} {row.name} ({row.op}): {fmt.text(row.time)}, {fmt.share(row.share)}"


def _table(profile: ProfileSection) -> Markup:
    entries = ranked(profile)
    enough = layers_for_share(profile, 0.9)
    number = fmt.count(len(entries), "layer")
    caption = f"All {number}, slowest first"
    if enough is not None and enough < len(entries):
        caption += f"; the first {fmt.count(enough)} make up 90 % of the layer time"
    cut = f"in print: the first {PRINTED_ROWS} rows"
    printed = element("span", cut, class_="print-only") if len(entries) > PRINTED_ROWS else None
    operators = sorted({entry.layer.op for entry in entries})
    colours = operator_colours(profile)
    highest = max((entry.layer.share or 0.0 for entry in entries), default=0.0) or 1.0
    head = [
        element(
            "th",
            element("button", name, type="button", title=f"Sort by {name}: {meaning}"),
            class_="n" if number else None,
            scope="col",
            aria_sort="descending" if name == "time" else "none",
        )
        for name, meaning, number in _COLUMNS
    ]
    body = element("tbody", [_row(entry.layer, colours[entry.layer.op], highest) for entry in entries])
    grid = element("table", element("thead", element("tr", head)), body, class_="layers", id="layer-table")
    return element(
        "figure",
        element("figcaption", element("strong", "Every layer"), element("span", caption), printed),
        _controls(operators, number),
        element("div", grid, class_="scroll tall", tabindex="0", role="region", aria_label="All layers"),
        class_="chart wide",
    )


def _controls(operators: Sequence[str], number: str) -> Markup:
    options = [element("option", "all operators", value=""), *(element("option", op, value=op) for op in operators)]
    return element(
        "div",
        element(
            "input", type="search", id="layer-search", placeholder="Find a layer", aria_label="Find a layer by name"
        ),
        element("select", options, id="layer-operator", aria_label="Show one operator"),
        element("output", number, id="layer-count", aria_live="polite"),
        class_="controls",
    )


def _row(row: LayerRow, colour: str, highest: float) -> Markup:
    rate = flop_rate(row.flops, row.time)
    rate_text = fmt.bare(rate.value / 1e9, "1") if rate.value is not None else fmt.UNAVAILABLE
    state = "" if rate.value is not None else " unavailable"
    cells: list[tuple[Child, float | str | None, bool]] = [
        (fmt.count(row.index), float(row.index), True),
        (_name(row), row.name, False),
        (join(element("i", class_=f"swatch {colour}"), row.op), row.op, False),
        (fmt.shape(row.output_shape), fmt.shape(row.output_shape), False),
        (quantity(row.time), row.time.value, True),
        (_share(row, colour, highest), row.share, True),
        (element("span", rate_text, class_=f"q{state}", title=fmt.show(rate).detail), rate.value, True),
        (quantity(row.flops), row.flops.value, True),
        (quantity(row.bytes), row.bytes.value, True),
        (quantity(row.parameters), row.parameters.value, True),
    ]
    built = [
        element("td", content, class_="n" if number else None, data_v=_sort_key(value))
        for content, value, number in cells
    ]
    return element("tr", built, data_op=row.op, data_layer=str(row.index))


def _name(row: LayerRow) -> Markup:
    others = [name for name in row.authored if name != row.name]
    if not others:
        return element("span", row.name, class_="name")
    shown = ", ".join(others)
    return join(
        element("span", row.name, class_="name"), element("small", f"from {shown}", class_="authored", title=shown)
    )


def _share(row: LayerRow, colour: str, highest: float) -> Markup:
    width = f"width:{(row.share or 0.0) / highest * 100:.2f}%"
    bar = element("span", element("span", class_=f"fill {colour}", style=width), class_="cell-bar")
    return join(bar, fmt.share(row.share))


def _sort_key(value: float | str | None) -> str:
    """What the page sorts by; empty where there is no value, which always sorts last."""
    return "" if value is None else value if isinstance(value, str) else repr(value)
