"""A report as one HTML page without scripts: time and memory as stacked bars, operators under the roofline, the
tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from stratoscope.llm.memory import Moment
from stratoscope.llm.ops import Op
from stratoscope.llm.render import formulas, plan_words, quantity, row
from stratoscope.llm.report import Report
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
    "h1{font-size:1.5em}h2{font-size:1.2em}svg{width:100%;min-width:420px;font-size:14px}.plot{overflow-x:auto}"
    "figure{margin:1.8em 0}figcaption{font-weight:600;margin-bottom:.5em}pre{overflow-x:auto;font-size:13px}"
    ".bar{display:flex;height:24px;margin:.1em 0 .7em}.bar span{display:block}.keys{font-size:14px}"
    ".keys span{display:inline-block;margin-right:1.2em}.keys i{display:inline-block;width:.8em;height:.8em;"
    "margin-right:.35em}table{border-collapse:collapse;font-size:14px}td,th{padding:.25em .9em .25em 0;text-align:left}"
    "@media(max-width:700px){pre{white-space:pre-wrap;overflow-wrap:anywhere;font-size:12px}}"
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
    x_low, x_high = _decades([point[1] for point in drawn] + [p[0] for p in roof])
    y_low, y_high = _decades([point[2] for point in drawn] + [p[1] for p in roof])

    def place(x: float, y: float) -> tuple[float, float]:
        across = PAD + (np.log10(x) - x_low) / (x_high - x_low) * (WIDTH - PAD - 16)
        return float(across), float(HEIGHT - PAD - (np.log10(y) - y_low) / (y_high - y_low) * (HEIGHT - PAD - 28))

    body = f'<text x="{WIDTH / 2:.0f}" y="{HEIGHT - 8:.0f}">{escape(x_name)}</text>'
    body += f'<text x="0" y="14">{escape(y_name)}</text>'
    for decade in range(x_low, x_high + 1):
        x, _ = place(10.0**decade, 10.0**y_low)
        body += f'<line x1="{x:.1f}" y1="22" x2="{x:.1f}" y2="{HEIGHT - PAD:.0f}" stroke="#ddd"/>'
        body += f'<text x="{x:.1f}" y="{HEIGHT - PAD + 18:.0f}" text-anchor="middle">{_power(decade)}</text>'
    for decade in range(y_low, y_high + 1):
        _, y = place(10.0**x_low, 10.0**decade)
        body += f'<line x1="{PAD:.0f}" y1="{y:.1f}" x2="{WIDTH - 16:.0f}" y2="{y:.1f}" stroke="#ddd"/>'
        body += f'<text x="{PAD - 6:.0f}" y="{y + 4:.1f}" text-anchor="end">{_power(decade)}</text>'
    if roof:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*corner) for corner in roof))
        body += f'<polyline points="{path}" fill="none" stroke="#444" stroke-width="1.5"/>'
    for name, x_value, y_value in drawn:
        x, y = place(x_value, y_value)
        body += f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{COLOURS[0]}" fill-opacity="0.75">'
        body += f"<title>{escape(name)}</title></circle>"
    view = f'<svg viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" role="img" aria-label="{escape(title)}">{body}</svg>'
    return f'<figure><figcaption>{escape(title)}</figcaption><div class="plot">{view}</div></figure>'


def _decades(values: Sequence[float]) -> tuple[int, int]:
    """The powers of ten that enclose all values."""
    low, high = int(np.floor(np.log10(min(values)))), int(np.ceil(np.log10(max(values))))
    return low, max(high, low + 1)


def _power(decade: int) -> str:
    return f"1e{decade}" if abs(decade) > 3 else f"{10.0**decade:g}"


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
    tree = "\n".join(row(node, depth) for result in report.results.values() for depth, node in result.walk())
    title = f"{report.model} on {report.hardware}"
    notes = "".join(f"<li>{escape(text)}</li>" for text in report.assumptions if text)
    notes += "".join(f"<li>{escape(f'{name}: {source}')}</li>" for name, source in formulas(report))
    return _document(title, f"<p>level {escape(report.level)}; {escape(fits)}</p>" + "".join(parts)
                     + f"<h2>Every number</h2><pre>{escape(tree)}</pre><ul>{notes}</ul>")  # fmt: skip


def pareto_plot(result: SearchResult) -> str:
    """The front: time against throughput per device, and each of its plans as a row."""
    points = [
        (f"{item.devices} devices, {item.plan}", item.time_s, item.tokens_per_s_per_device) for item in result.front
    ]
    rows = "".join(
        f"<tr><td>{item.devices}</td><td>{escape(quantity(item.time_s, 's'))}</td>"
        f"<td>{escape(quantity(item.memory_bytes, 'byte'))}</td><td>{item.tokens_per_s_per_device:,.0f}</td>"
        f"<td>{escape(plan_words(item))}</td></tr>"
        for item in result.front
    )
    head = "<tr><th>devices</th><th>time</th><th>memory</th><th>tokens/s/device</th><th>plan</th></tr>"
    table = f'<div class="plot"><table>{head}{rows}</table></div>' if rows else ""
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
