"""Reports as text for a terminal: results with interval, bound and level; the tree behind them; validation tables."""

from __future__ import annotations

from collections.abc import Iterable

from stratoscope.llm.diff import Change
from stratoscope.llm.hardware import HardwareSpec, HardwareTable
from stratoscope.llm.report import Node, Report
from stratoscope.llm.search import Candidate, SearchResult
from stratoscope.llm.validate import Suite

_SCALES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))


def quantity(value: float, unit: str) -> str:
    """A number with three significant digits in a readable unit."""
    if unit == "s":
        for scale, name in _SCALES:
            if abs(value) >= scale or name == "ns":
                return f"{value / scale:.3g} {name}" if value < 1000 else f"{value:,.0f} s"
    if unit == "byte":
        return f"{value / 2**30:.2f} GiB"
    if unit == "1":
        return f"{100 * value:.1f} %"
    if unit == "1/s":
        return f"{value:,.0f} /s" if value >= 100 else f"{value:.3g} /s"
    return f"{value:.3g} {unit}"


def row(node: Node, indent: int = 0) -> str:
    """One line: name, value, interval, bound, formula, level."""
    name = ("  " * indent + node.name)[:46]
    interval = f"{quantity(node.low, node.unit)} .. {quantity(node.high, node.unit)}"
    tail = "  ".join(part for part in (node.bound, f"[{node.level}]" if node.level else "", node.formula) if part)
    return f"{name:<46} {quantity(node.value, node.unit):>12}   {interval:<26} {tail}".rstrip()


def report_lines(report: Report, *, explain: bool) -> list[str]:
    """A report: verdict on memory, then each result, with its tree when `explain` is set."""
    fits = "fits" if report.feasible else f"DOES NOT FIT: {quantity(report.shortfall_bytes, 'byte')} a device short"
    out = [f"{report.model} on {report.hardware}, level {report.level}: {fits}", ""]
    for node in report.results.values():
        if explain:
            out += [row(item, depth) for depth, item in node.walk()]
        else:
            out.append(row(node))
    out.append("")
    out += [row(item, depth) for depth, item in report.memory.walk()] if explain else [row(report.memory)]
    if explain:
        out += ["", *(f"assumes: {text}" for text in report.assumptions if text)]
        out += [f"formula: {name}: {source}" for name, source in formulas(report)]
    return out


def formulas(report: Report) -> list[tuple[str, str]]:
    """Each formula of the report's leaves with its source, in order of first use."""
    leaves = (node for result in report.results.values() for _, node in result.walk() if node.unit == "s")
    named = {leaf.formula.split(" x ")[0]: leaf.source for leaf in leaves if leaf.source and not leaf.children}
    return list(named.items())


def suite_lines(suites: Iterable[Suite], *, rows: bool) -> list[str]:
    """The verdict on each suite; with `rows` every prediction beside the published number."""
    out = []
    for suite in suites:
        yes_or_no = all(prediction.row.metric == "fits" for prediction in suite.predictions)
        out.append(f"{suite.name}: {suite.title}")
        if yes_or_no:
            right = sum(prediction.value == prediction.row.value for prediction in suite.predictions)
            out.append(f"  rows {suite.rows}  failures {len(suite.failures)}  right {right}")
        else:
            out.append(
                f"  rows {suite.rows}  coverage {100 * suite.coverage:.0f} %  failures {len(suite.failures)}  "
                f"MAPE {100 * suite.mape:.1f} %  bias {100 * suite.bias:+.1f} %  "
                f"inside interval {100 * suite.interval_coverage:.0f} %  "
                f"(stretched by {suite.error:.2f})"
            )
        if suite.note:
            out.append(f"  note: {suite.note}")
        shown = suite.predictions if rows else suite.worst()
        if not yes_or_no:
            out += [
                f"    {p.row.id:<48} predicted {p.value:>11.4g}  [{p.low:.4g} .. {p.high:.4g}]  "
                f"published {p.row.value:>11.4g} {p.row.unit:<12} {100 * p.ratio:+6.1f} %"
                for p in shown
            ]
        out += [f"    failed {name}: {why}" for name, why in suite.failures]
        out.append("")
    return out


def memory_lines(answers: dict[str, object]) -> list[str]:
    """Each answer on a line, bytes in GiB."""
    out = []
    for name, value in answers.items():
        if name.endswith("_bytes") and isinstance(value, int):
            name, value = name.removesuffix("_bytes"), quantity(value, "byte")
        elif isinstance(value, bool):
            value = "yes" if value else "no"
        out.append(f"{name:<28} {value!s:>14}")
    return out


def search_lines(result: SearchResult) -> list[str]:
    """Counts, then the front."""
    rejected = ", ".join(f"{count} by {why}" for why, count in result.rejected.items() if count)
    out = [
        f"{result.evaluated} plans priced, {result.feasible} feasible"
        + (f" (rejected: {rejected})" if rejected else "")
    ]
    if not result.feasible and result.smallest_shortfall_bytes > 0:
        out.append(f"nothing fits: the best plan is {quantity(result.smallest_shortfall_bytes, 'byte')} a device short")
    elif not result.feasible:
        out.append("plans fit in memory, none keeps the limits: relax them, or allow more devices")
    return out + [_candidate(item) for item in result.front]


def plan_words(item: Candidate) -> str:
    """The plan in the form that `--plan` takes, what is left at its default left out, with the batch beside it."""
    given = item.plan
    parts = [f"{name}{given[name]}" for name in ("tp", "cp", "pp", "vpp", "ep", "dp") if given.get(name, 1) > 1]
    parts += [f"zero{given['zero']}"] if given.get("zero") else []
    parts += ["sp"] if given.get("sequence_parallel") and given["tp"] > 1 else []
    parts += [given["recompute"]] if given.get("recompute", "none") != "none" else []
    batch = f"--mbs {given['micro_batch']}" if "micro_batch" in given else f"-b {given['batch']}"
    return f"{','.join(parts) or 'tp1'}  {batch}"


def _candidate(item: Candidate) -> str:
    plan = plan_words(item)
    cost = f"  ${item.dollar_per_million_tokens:.3g}/Mtok" if item.dollar_per_million_tokens is not None else ""
    first = f"  ttft {quantity(item.ttft_s, 's')}" if item.ttft_s is not None else ""
    return (
        f"  {item.devices:>5} devices  {quantity(item.time_s, 's'):>9}{first}  "
        f"{quantity(item.memory_bytes, 'byte'):>10}  "
        f"{item.tokens_per_s_per_device:>8,.0f} tok/s/device{cost}  {plan}"
    )


def diff_lines(before: Report, after: Report, changes: list[Change]) -> list[str]:
    """Both totals, then what changed, largest first."""
    name = "step_s" if before.kind == "train" else "latency_s"
    left, right = before.results[name], after.results[name]
    out = [
        f"A: {quantity(left.value, 's')}  B: {quantity(right.value, 's')}  B takes {right.value / left.value:.2f} of A",
        f"{'part':<52} {'A':>10} {'B':>10} {'saved':>10}",
    ]
    out += [
        f"{change.name[:52]:<52} {quantity(change.before_s, 's'):>10} {quantity(change.after_s, 's'):>10} "
        f"{quantity(change.gain_s, 's'):>10}  {change.bound}"
        for change in changes
        if abs(change.gain_s) > 1e-3 * left.value or change is changes[0]
    ]
    return out


def hardware_lines(table: HardwareTable, device: HardwareSpec | None) -> list[str]:
    """All devices, or one with the source of each figure."""
    if device is None:
        return [
            f"{item.name:<14} {item.vendor:<7} {_peaks(item):<44} {item.memory / 2**30:>6.1f} GiB "
            f"{item.memory_bandwidth / 1e12:>6.3f} TB/s  {item.scale_up.bandwidth_bytes_per_s.value / 1e9:>5.0f} GB/s"
            for item in table.devices
        ]
    figures = {f"dense {name} peak, TFLOP/s": (figure, 1e12) for name, figure in device.peak_flops_per_s.items()}
    figures |= {
        f"measured {name} matmul, TFLOP/s": (figure, 1e12)
        for name, figure in device.measured_matmul_flops_per_s.items()
    }
    figures["memory, GiB"] = (device.memory_bytes, 2**30)
    figures["memory bandwidth, GB/s"] = (device.memory_bandwidth_bytes_per_s, 1e9)
    figures["scale-up bandwidth per direction, GB/s"] = (device.scale_up.bandwidth_bytes_per_s, 1e9)
    figures["scale-up latency, us"] = (device.scale_up.latency_s, 1e-6)
    if device.scale_out is not None:
        figures["scale-out bandwidth per direction, GB/s"] = (device.scale_out.bandwidth_bytes_per_s, 1e9)
    if device.host_bytes_per_s is not None:
        figures["host link per direction, GB/s"] = (device.host_bytes_per_s, 1e9)
    if device.tdp_w is not None:
        figures["power, W"] = (device.tdp_w, 1.0)
    sources = table.sources
    return [
        f"{name:<42} {figure.value / scale:>10.4g}  {sources.get(figure.source, {}).get('title', figure.source)}, "
        f"{sources.get(figure.source, {}).get('date', '')}"
        for name, (figure, scale) in figures.items()
    ]


def _peaks(device: HardwareSpec) -> str:
    return " ".join(f"{name}:{figure.value / 1e12:.0f}" for name, figure in device.peak_flops_per_s.items())
