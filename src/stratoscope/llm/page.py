"""A report as one HTML page without scripts: time and memory as stacked bars, operators under the roofline, the
tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from stratoscope.llm.memory import Moment
from stratoscope.llm.ops import Op
from stratoscope.llm.render import quantity, row
from stratoscope.llm.report import Report
from stratoscope.llm.search import SearchResult

COLOURS = ("#3b6fb6", "#d9822b", "#4a9a5b", "#b5483f", "#7d5ba6", "#8a6d3b", "#c45d9a", "#6b7785", "#a3a83a", "#2f9aa0")
WIDTH, BAR = 760, 26


def _svg(height: float, body: str, title: str) -> str:
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
        f'aria-label="{escape(title)}">{body}</svg></figure>'
    )


def stacked_bars(title: str, bars: Sequence[tuple[str, Sequence[tuple[str, float]]]], unit: str) -> str:
    """Horizontal bars of named parts on one scale, with a legend; parts under 0.2 % of the scale are still drawn."""
    longest = max((sum(value for _, value in parts) for _, parts in bars), default=0.0) or 1.0
    names = list(dict.fromkeys(name for _, parts in bars for name, _ in parts))
    colour = {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(names)}
    body, top = "", 4.0
    for label, parts in bars:
        total = sum(value for _, value in parts)
        body += f'<text x="0" y="{top + 12:.0f}">{escape(label)}: {escape(quantity(total, unit))}</text>'
        left = 0.0
        for name, value in parts:
            width = value / longest * WIDTH
            tip = escape(f"{name}: {quantity(value, unit)}")
            body += (
                f'<rect x="{left:.2f}" y="{top + 17:.0f}" width="{width:.2f}" height="{BAR}" fill="{colour[name]}">'
                f"<title>{tip}</title></rect>"
            )
            left += width
        top += BAR + 28
    for index, name in enumerate(names):
        x, y = (index % 4) * WIDTH / 4, top + 6 + 18 * (index // 4)
        body += f'<rect x="{x:.0f}" y="{y:.0f}" width="10" height="10" fill="{colour[name]}"/>'
        body += f'<text x="{x + 14:.0f}" y="{y + 10:.0f}">{escape(name[:28])}</text>'
    return _svg(top + 24 + 18 * (len(names) // 4 + 1), body, title)


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
    xs = np.log10([point[1] for point in drawn] + [p[0] for p in roof])
    ys = np.log10([point[2] for point in drawn] + [p[1] for p in roof])
    height, pad = 320.0, 40.0

    def place(x: float, y: float) -> tuple[float, float]:
        wide, tall = max(float(np.ptp(xs)), 1e-9), max(float(np.ptp(ys)), 1e-9)
        across = pad + (np.log10(x) - xs.min()) / wide * (WIDTH - 2 * pad)
        return float(across), float(height - pad - (np.log10(y) - ys.min()) / tall * (height - 2 * pad))

    body = f'<text x="{WIDTH / 2:.0f}" y="{height - 6:.0f}">{escape(x_name)}</text>'
    body += f'<text x="0" y="14">{escape(y_name)}</text>'
    if roof:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*corner) for corner in roof))
        body += f'<polyline points="{path}" fill="none" stroke="#444" stroke-width="1.5"/>'
    for name, x_value, y_value in drawn:
        x, y = place(x_value, y_value)
        body += f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{COLOURS[0]}" fill-opacity="0.7">'
        body += f"<title>{escape(name)}</title></circle>"
    return _svg(height, body, title)


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
    return _document(title, f"<p>level {escape(report.level)}; {escape(fits)}</p>" + "".join(parts)
                     + f"<h2>Every number</h2><pre>{escape(tree)}</pre><ul>{notes}</ul>")  # fmt: skip


def pareto_plot(result: SearchResult) -> str:
    """The front: time against throughput per device."""
    points = [
        (f"{item.devices} devices, {item.plan}", item.time_s, item.tokens_per_s_per_device) for item in result.front
    ]
    return scatter("Pareto front", points, "seconds", "tokens/s/device")


def search_page(title: str, result: SearchResult) -> str:
    """A page for a search alone."""
    return _document(title, pareto_plot(result) + f"<p>{result.evaluated} plans, {result.feasible} feasible</p>")


def _document(title: str, body: str) -> str:
    style = (
        "body{font:15px/1.45 system-ui,sans-serif;max-width:820px;margin:2em auto;padding:0 1em;color:#222}"
        "svg{width:100%;font-size:12px}figure{margin:1.5em 0}figcaption{font-weight:600}"
        "pre{overflow-x:auto;font-size:12px}"
    )
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"><style>{style}</style></head>'
        f"<body><h1>{escape(title)}</h1>{body}</body></html>\n"
    )
