"""The summary of a run on a terminal: the headline first, then what supports it, then where the time goes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from stratoscope.explain.layers import by_type, flop_rate, top
from stratoscope.report import format as fmt
from stratoscope.report import wording
from stratoscope.report.wording import Tone, Verdict
from stratoscope.spec.record import LoadSection, ProfileSection, RunRecord, SweepSection

_STYLES: dict[Tone, str] = {"good": "green", "warn": "yellow", "bad": "bold red", "unknown": "dim"}

#: Percentiles of the latency line; the full list is on the HTML page.
_PERCENTILES = ("p50", "p90", "p99", "p99.9")

#: Operators listed by type; the others are summed in one line of the HTML page.
_TYPES = 6


def render_record(record: RunRecord, console: Console, *, top: int = 10) -> None:
    """Prints a record: facts, then the `top` slowest layers, operators by time, and what was not available and why.

    Readable at 80 columns, without colour and in a pipe; names of models and layers are printed as they are, without
    markup and control characters. Raises ValueError if `top` is below 1.
    """
    if top < 1:
        raise ValueError(f"top is {top}: at least one layer has to be shown")
    blocks = [_title(record, console.width), _facts(record)]
    if record.sweep is not None:
        blocks.append(_sweep(record.sweep))
    if record.profile is not None and record.profile.layers:
        blocks += [_layers(record.profile, top, wide=console.width >= 100), _types(record.profile)]
    if record.unavailable:
        blocks.append(_unavailable(record))
    for block in blocks:
        console.print(block)
        console.print()


def _title(record: RunRecord, width: int) -> RenderableType:
    lines = Text()
    lines.append(_clean(record.model.id), style="bold")
    figure = wording.headline(record)
    if figure is not None:
        shown = fmt.show(figure.quantity)
        lines.append("  ")
        lines.append(shown.text, style="bold cyan")
        lines.append(f"  {figure.label}")
        if shown.status != "ok":
            lines.append(f" ({figure.quantity.reason})", style="dim")
    verdict = wording.validity(record)
    if verdict is not None:
        lines.append("  ")
        lines.append(verdict.word, style=_STYLES[verdict.tone])
        if verdict.tone == "bad":
            lines.append(f": {verdict.reason}")
    lines.append(f"\n{wording.backend_line(record)} · {_clean(wording.machine_line(record.hardware))}", style="dim")
    if record.load is not None:
        load = record.load
        size = f"{fmt.count(load.queries)} queries in {fmt.text(load.duration_s)}"
        lines.append(f"\n{wording.load_words(load.scenario)} · {size}", style="dim")
    return lines


def _facts(record: RunRecord) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _fact_rows(record):
        table.add_row(name, value)
    return table


def _fact_rows(record: RunRecord) -> Iterator[tuple[str, Text]]:
    if record.load is not None:
        yield "throughput", Text(fmt.text(record.load.throughput))
        yield "latency", _percentiles(record.load)
        cost = record.load.client.overhead_per_query_s
        overhead = f"{fmt.text(cost)} a query" if cost.value is not None else None
        for note in record.load.notes:
            yield "note", Text(_clean(note))
        yield "load generator", _verdict(wording.client(record.load.client), overhead)
    noise = record.load.noise if record.load else record.profile.noise if record.profile else None
    if noise is not None:
        yield "machine noise", _verdict(wording.noise(noise))
    if record.cold_start is not None:
        cold = record.cold_start
        parts = (("import", cold.import_s), ("load", cold.load_s), ("first inference", cold.first_inference_s))
        first = ", ".join(f"{name} {fmt.text(value)}" for name, value in parts)
        yield "cold start", Text(f"{first}; steady {fmt.text(cold.steady_s)}")
    if record.graph is not None:
        graph = record.graph
        yield (
            "model",
            Text(
                f"{fmt.text(graph.flops)}, {fmt.magnitude(graph.parameters)} parameters "
                f"({fmt.text(graph.parameter_bytes)}), {graph.layers} layers, {graph.unique_layers} unique"
            ),
        )
    if record.accuracy is not None:
        accuracy = record.accuracy
        metrics = ", ".join(
            f"{_clean(name)} {fmt.text(value, percent=value.unit == '1')}" for name, value in accuracy.metrics.items()
        )
        yield "accuracy", Text(f"{metrics} on {fmt.count(accuracy.samples)} samples of {_clean(accuracy.dataset)}")
    if record.profile is not None:
        yield "layers", _conservation(record.profile)


def _percentiles(load: LoadSection) -> Text:
    shown = [f"{key} {fmt.text(load.latency[key])}" for key in _PERCENTILES if key in load.latency]
    return Text("   ".join(part.replace(" ", "\u00a0") for part in shown))


def _conservation(profile: ProfileSection) -> Text:
    line = Text(
        f"sum {fmt.text(profile.layers_sum)} + between layers {fmt.text(profile.gap)}; "
        f"inference {fmt.text(profile.model_time)}, profiled {fmt.text(profile.profiled_model_time)}"
    )
    if profile.overhead_below_noise:
        line.append(" (profiling overhead below noise)", style="dim")
    else:
        line.append(f" (profiling overhead {fmt.text(profile.overhead)})")
    for name, holds in profile.checks.items():
        if not holds:
            line.append(f"\ncheck failed: {_clean(name)}", style=_STYLES["bad"])
    return line


def _sweep(sweep: SweepSection) -> RenderableType:
    table = _table("Throughput by batch size", caption=wording.batch(sweep))
    for name in ("batch", "throughput", "latency"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for point in sweep.points:
        best = point.batch_size == sweep.optimal_batch
        table.add_row(
            fmt.count(point.batch_size),
            fmt.text(point.throughput),
            fmt.text(point.latency),
            "<- optimal" if best else "",
            style="bold" if best else None,
        )
    return table


def _layers(profile: ProfileSection, count: int, *, wide: bool) -> RenderableType:
    slowest = top(profile, count)
    title = f"Slowest {len(slowest)} of {fmt.count(len(profile.layers))} layers"
    table = _table(title)
    table.add_column("layer", overflow="ellipsis", no_wrap=True, ratio=1)
    table.add_column("operator", overflow="ellipsis", no_wrap=True, max_width=16)
    if wide:
        table.add_column("output", no_wrap=True)
    for name in ("time", "share", "sum", "GFLOP/s"):
        table.add_column(name, justify="right", no_wrap=True)
    for entry in slowest:
        row = entry.layer
        rate = flop_rate(row.flops, row.time)
        cells = [_clean(row.name), _clean(row.op), *([fmt.shape(row.output_shape)] if wide else [])]
        cells += [fmt.text(row.time), fmt.share(row.share), fmt.share(entry.cumulative_share)]
        cells.append(fmt.bare(rate.value / 1e9, "1") if rate.value is not None else fmt.UNAVAILABLE)
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _types(profile: ProfileSection) -> RenderableType:
    groups = by_type(profile)
    others = len(groups) - _TYPES
    table = _table("Time by operator", caption=f"and {others} more operators" if others > 0 else None)
    table.add_column("operator", overflow="ellipsis", no_wrap=True)
    for name in ("layers", "time", "share", "GFLOP/s"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for group in groups[:_TYPES]:
        rate = group.flop_rate.value
        cells = [_clean(group.op), fmt.count(len(group.layers)), fmt.text(group.time), fmt.share(group.share)]
        cells.append(fmt.bare(rate / 1e9, "1") if rate is not None else fmt.UNAVAILABLE)
        bar = "█" * round((group.share or 0) * 20)
        table.add_row(*(Text(cell) for cell in cells), Text(bar, style="cyan"))
    return table


def _unavailable(record: RunRecord) -> RenderableType:
    lines = Text("Not available", style="bold")
    for item in record.unavailable:
        lines.append(f"\n  {_clean(item.what)}", style="not bold")
        lines.append(f": {_clean(item.why)}", style="not bold dim")
    return lines


def _table(title: str, caption: str | None = None) -> Table:
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        caption=caption,
        caption_justify="left",
        caption_style="dim",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
        header_style="dim",
    )


def _verdict(verdict: Verdict, *extra: str | None) -> Text:
    result = Text(verdict.word, style=_STYLES[verdict.tone])
    details: Sequence[str] = [part for part in (*extra, verdict.reason) if part]
    result.append(f" ({'; '.join(details)})" if details else "", style="dim")
    return result


def _clean(name: str) -> str:
    """A name without control characters, which could rewrite the terminal."""
    return "".join(c if c.isprintable() else "�" for c in name)
