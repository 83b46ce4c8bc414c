"""A report as one HTML page without scripts: time and memory as stacked bars, operators under the roofline, the
tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from stratoscope.llm.memory import Moment
from stratoscope.llm.ops import Op
from stratoscope.llm.render import formulas, plan_words, quantity
from stratoscope.llm.report import Node, Report
from stratoscope.llm.search import SearchResult

COLOURS = (
    *("#3b6fb6", "#d9822b", "#4a9a5b", "#b5483f", "#7d5ba6", "#8a6d3b", "#c45d9a", "#6b7785", "#a3a83a", "#2f9aa0"),
    *("#1d3d6b", "#f0b36e", "#98cfa4", "#5e1f1a", "#c3b1dd"),
)
# Kinds of memory keep their colours from figure to figure.
MEMORY_KINDS = (
    *("weights", "gradients", "optimizer", "activations", "logits", "working set", "framework and communicator"),
    *("cache", "gathered layers"),
)
WIDTH, HEIGHT, PAD = 640.0, 320.0, 52.0
STYLE = (
    "body{font:16px/1.45 system-ui,sans-serif;max-width:820px;margin:2em auto;padding:0 1em;color:#222}"
    "h1{font-size:1.5em}h2{font-size:1.2em}svg{width:100%;overflow:visible;font-size:14px}"
    "figure{margin:1.8em 0}figcaption{font-weight:600;margin-bottom:.5em}"
    ".bar{display:flex;height:24px;margin:.1em 0 .7em}.bar span{display:block}.keys{font-size:14px}"
    ".keys span{display:inline-block;margin-right:1.2em}.keys i{display:inline-block;width:.8em;height:.8em;"
    "margin-right:.35em}table{border-collapse:collapse;font-size:14px}td,th{padding:.25em .9em .25em 0;text-align:left;"
    "vertical-align:top}.tree{width:100%;font-size:13px}.tree tr{border-bottom:1px solid #eee}.fix{white-space:nowrap}"
    ".tree .name{min-width:11em}.break{overflow-wrap:anywhere}"
    "@media(max-width:700px){svg{font-size:20px}td,th{padding-right:.6em}.tree tr{display:grid;padding:.2em 0;"
    "grid-template-columns:1fr auto}.tree td,.tree th{padding:0 .6em 0 0}.tree .wide{grid-column:1/-1;color:#555}"
    ".tree .fix~.fix{color:#555}.front tr{display:grid;grid-template-columns:repeat(3,1fr);padding:.2em 0;"
    "border-bottom:1px solid #eee}.front .break{grid-column:1/-1}}"
)


def stacked_bars(title: str, bars: Sequence[tuple[str, Sequence[tuple[str, float]]]], unit: str) -> str:
    """Horizontal bars of named parts on one scale, with a legend in which a name has one colour on the whole figure."""
    longest = max((sum(value for _, value in parts) for _, parts in bars), default=0.0) or 1.0
    names = sorted({name for _, parts in bars for name, value in parts if value > 0})
    order = MEMORY_KINDS if set(names) <= set(MEMORY_KINDS) else names
    colour = {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(order)}
    body = ""
    for label, parts in bars:
        total = sum(value for _, value in parts)
        body += f'<div>{escape(label)}: {escape(quantity(total, unit))}</div><div class="bar">'
        for name, value in parts:
            if value > 0:
                style = f"width:{100 * value / longest:.3f}%;background:{colour[name]}"
                body += f'<span style="{style}" title="{escape(f"{name}: {quantity(value, unit)}")}"></span>'
        body += "</div>"
    keys = "".join(f'<span><i style="background:{colour[name]}"></i>{escape(name)}</span>' for name in names)
    return f'<figure><figcaption>{escape(title)}</figcaption>{body}<div class="keys">{keys}</div></figure>'


def scatter(
    title: str,
    points: Sequence[tuple[str, float, float]],
    x_name: str,
    y_name: str,
    roof: Sequence[tuple[float, float]] = (),
) -> str:
    """Points on logarithmic axes with a tip each, and a polyline (the roof)."""
    drawn = [point for point in points if point[1] > 0 and point[2] > 0]
    if not drawn:
        return ""
    x_low, x_high, x_ticks = _axis([point[1] for point in drawn] + [p[0] for p in roof])
    y_low, y_high, y_ticks = _axis([point[2] for point in drawn] + [p[1] for p in roof])

    def place(x: float, y: float) -> tuple[float, float]:
        across = PAD + (np.log10(x) - x_low) / (x_high - x_low) * (WIDTH - PAD - 16)
        return float(across), float(HEIGHT - PAD - (np.log10(y) - y_low) / (y_high - y_low) * (HEIGHT - PAD - 28))

    body = f'<text x="{WIDTH / 2:.0f}" y="{HEIGHT - 8:.0f}">{escape(x_name)}</text>'
    body += f'<text x="0" y="14">{escape(y_name)}</text>'
    for tick in x_ticks:
        x, _ = place(tick, 10.0**y_low)
        body += f'<line x1="{x:.1f}" y1="22" x2="{x:.1f}" y2="{HEIGHT - PAD:.0f}" stroke="#ddd"/>'
        body += f'<text x="{x:.1f}" y="{HEIGHT - PAD + 18:.0f}" text-anchor="middle">{_label(tick)}</text>'
    for tick in y_ticks:
        _, y = place(10.0**x_low, tick)
        body += f'<line x1="{PAD:.0f}" y1="{y:.1f}" x2="{WIDTH - 16:.0f}" y2="{y:.1f}" stroke="#ddd"/>'
        body += f'<text x="{PAD - 6:.0f}" y="{y + 4:.1f}" text-anchor="end">{_label(tick)}</text>'
    if roof:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*corner) for corner in roof))
        body += f'<polyline points="{path}" fill="none" stroke="#444" stroke-width="1.5"/>'
    for name, x_value, y_value in drawn:
        x, y = place(x_value, y_value)
        body += f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{COLOURS[0]}" fill-opacity="0.75">'
        body += f"<title>{escape(name)}</title></circle>"
    view = f'<svg viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" role="img" aria-label="{escape(title)}">{body}</svg>'
    return f"<figure><figcaption>{escape(title)}</figcaption>{view}</figure>"


def _axis(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """The log10 of the ends of an axis, which are 1, 2 or 5 times a power of ten and enclose all values; its ticks.

    Ticks are powers of ten where the axis has at least two of them, otherwise also 2 and 5 times those.
    """
    first, last = int(np.floor(np.log10(min(values)))), int(np.ceil(np.log10(max(values))))
    steps = [float(f"{digit}e{power}") for power in range(first, last + 1) for digit in (1, 2, 5)]
    low = max(step for step in steps if step <= min(values))
    high = min(step for step in steps if step >= max(values) and step > low)
    ticks = [step for step in steps if low <= step <= high]
    decades = [step for step in ticks if _label(step, 0).startswith("1e")]
    return float(np.log10(low)), float(np.log10(high)), decades if len(decades) > 2 else ticks


def _label(value: float, plain: int = 4) -> str:
    """A tick as 0.5, 200 or 5e15; `plain` is the power of ten from which on it is in scientific form."""
    digit, _, power = f"{value:.0e}".partition("e")
    return f"{value:g}" if -plain < int(power) < plain else f"{digit}e{int(power)}"


def roofline(ops: Sequence[tuple[Op, float]], peak: float, bandwidth: float) -> str:
    """Operators by arithmetic intensity and achieved FLOP/s under the dense peak and the memory roof."""
    points = []
    for op, seconds in ops:
        flops, nbytes = float(np.max(op.flops)), float(np.max(op.nbytes))
        if flops > 0 and nbytes > 0:
            tip = f"{op.name}: {flops / seconds / 1e12:.3g} TFLOP/s at {flops / nbytes:.3g} FLOP/byte"
            points.append((tip, flops / nbytes, flops / seconds))
    ridge = peak / bandwidth
    low = min([point[1] for point in points] + [1.0])
    high = max([point[1] for point in points] + [4 * ridge])
    return scatter(
        "Roofline of the operators of one layer", points, "FLOP / byte", "FLOP/s",
        [(low, low * bandwidth), (ridge, peak), (high, peak)],
    )  # fmt: skip


def _time_bars(report: Report) -> str:
    main = report.results.get("step_s") or report.results["latency_s"]
    bars = []
    for child in main.children:
        parts = [(leaf.name, leaf.value) for leaf in child.children] or [(child.name, child.value)]
        bars.append((child.name, parts))
    return stacked_bars("Where the time goes (each bar on the same scale; parts of one pass)", bars, "s")


def page(
    report: Report, *, timeline: Sequence[Moment] = (), ops: Sequence[tuple[Op, float]] = (),
    roofs: tuple[float, float] | None = None, search: SearchResult | None = None,
) -> str:  # fmt: skip
    """The page as text. `timeline` draws memory over the step, `ops` and `roofs` (FLOP/s, bytes/s) the roofline."""
    parts = [_time_bars(report)]
    memory = [(child.name, child.value) for child in report.memory.children]
    parts.append(stacked_bars("Memory at its peak", [(report.memory.name, memory)], "byte"))
    if timeline:
        bars = [
            (f"{moment.phase} ({moment.stage} stage)", [(n, float(np.max(v))) for n, v in moment.parts.items()])
            for moment in timeline
        ]
        parts.append(stacked_bars("Memory over the step", bars, "byte"))
    if ops and roofs is not None:
        parts.append(roofline(ops, *roofs))
    if search is not None:
        parts.append(pareto_plot(search))
    fits = "fits" if report.feasible else f"does not fit: {quantity(report.shortfall_bytes, 'byte')} a device short"
    tree = "".join(_tree_row(node, depth) for top in (*report.results.values(), report.memory)
                   for depth, node in top.walk())  # fmt: skip
    title = f"{report.model} on {report.hardware}"
    notes = "".join(f"<li>{escape(text)}</li>" for text in report.assumptions if text)
    notes += "".join(f"<li>{escape(f'{name}: {source}')}</li>" for name, source in formulas(report))
    return _document(title, f"<p>level {escape(report.level)}; {escape(fits)}</p>" + "".join(parts)
                     + f"<h2>Every number</h2><table class='tree'>{tree}</table><h2>Assumptions and sources</h2>"
                     + f"<ul>{notes}</ul>")  # fmt: skip


def _tree_row(node: Node, depth: int) -> str:
    """One number as a row: name, value, interval, bound, level and formula."""
    interval = f"{quantity(node.low, node.unit)} .. {quantity(node.high, node.unit)}"
    how = f"[{node.level}] {node.formula}" if node.level else node.formula
    return (
        f'<tr><td class="name" style="padding-left:{depth:d}em">{escape(node.name)}</td>'
        f'<td class="fix">{escape(quantity(node.value, node.unit))}</td><td class="fix">{escape(interval)}</td>'
        f'<td class="fix">{escape(node.bound)}</td><td class="wide">{escape(how)}</td></tr>'
    )


def pareto_plot(result: SearchResult) -> str:
    """The front: time against throughput per device, and each of its plans as a row."""
    points = [
        (f"{item.devices} devices, {item.plan}", item.time_s, item.tokens_per_s_per_device) for item in result.front
    ]
    columns: list[tuple[str, list[str]]] = [
        ("devices", [str(item.devices) for item in result.front]),
        ("time", [quantity(item.time_s, "s") for item in result.front]),
        ("memory", [quantity(item.memory_bytes, "byte") for item in result.front]),
        ("tokens/s a device", [f"{item.tokens_per_s_per_device:,.0f}" for item in result.front]),
    ]
    prices = [item.dollar_per_million_tokens for item in result.front]
    columns += [("$ a million tokens", ["" if p is None else f"{p:.3g}" for p in prices])] if any(prices) else []
    firsts = [item.ttft_s for item in result.front]
    columns += [("ttft", ["" if t is None else quantity(t, "s") for t in firsts])] if any(firsts) else []
    plans = [plan_words(item) for item in result.front]
    head = "".join(f"<th>{escape(name)}</th>" for name, _ in columns)
    rows = ""
    for at, plan in enumerate(plans):
        cells = "".join(f'<td class="fix">{escape(texts[at])}</td>' for _, texts in columns)
        rows += f'<tr>{cells}<td class="break">{escape(plan)}</td></tr>'
    table = f'<table class="front"><tr>{head}<th class="break">plan</th></tr>{rows}</table>' if rows else ""
    return scatter("Pareto front", points, "seconds", "tokens/s/device") + table


def search_page(title: str, result: SearchResult) -> str:
    """A page for a search alone."""
    counts = f"<p>{result.evaluated:,} plans priced, {result.feasible:,} feasible</p>"
    return _document(title, counts + pareto_plot(result))


def _document(title: str, body: str) -> str:
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"><style>{STYLE}</style></head>'
        f"<body><h1>{escape(title)}</h1>{body}</body></html>\n"
    )
