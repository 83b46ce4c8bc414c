"""The summary of a run on a terminal: the headline first, then what supports it, then where the time goes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from stratoscope.explain.layers import LayerGroup, RankedLayer, by_type, flop_rate, top
from stratoscope.report import format as fmt
from stratoscope.report import wording
from stratoscope.report.wording import Tone, Verdict
from stratoscope.spec.record import LoadSection, ProfileSection, RunRecord, SweepSection

_STYLES: dict[Tone, str] = {"good": "green", "warn": "yellow", "bad": "bold red", "unknown": "dim"}

#: Percentiles of the latency line; the full list is on the HTML page.
_PERCENTILES = ("p50", "p90", "p99")

#: Characters: between two cells, of the longest operator, of the shortest name that is cut, of a bar for 100 %.
_GAP = 3
_OPERATOR_WIDTH = 18
_LEAST_NAME = 12
_LONGEST_BAR = 30

#: Columns of words, set left; the others are numbers.
_WORDS = frozenset({"layer", "operator", "output"})

#: Operators listed by type; the others are summed in one line of the HTML page.
_TYPES = 6


def render_record(record: RunRecord, console: Console, *, top: int = 10, brief: bool = False) -> None:
    """Prints a record: facts, then the `top` slowest layers, operators by time, and what was not available and why.

    `brief` leaves the tables of layers and operators out.

    Readable at 80 columns, without colour and in a pipe; names of models and layers are printed as they are, without
    markup and control characters. Raises ValueError if `top` is below 1.
    """
    if top < 1:
        raise ValueError(f"top is {top}: at least one layer has to be shown")
    blocks = [_title(record, console.width), _facts(record)]
    if record.sweep is not None:
        blocks.append(_sweep(record.sweep))
    if record.profile is not None and record.profile.layers and not brief:
        blocks += [_layers(record.profile, top, console.width), _types(record.profile, console.width)]
    if record.unavailable:
        blocks.append(_unavailable(record))
    for block in blocks:
        console.print(block)
        console.print()


def _title(record: RunRecord, width: int) -> RenderableType:
    lines = Text()
    lines.append(clean(record.model.id), style="bold")
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
    lines.append(f"\n{wording.backend_line(record)} · {clean(wording.machine_line(record.hardware))}", style="dim")
    if record.load is not None:
        load = record.load
        size = f"{wording.load_size(load)} in {fmt.text(load.duration_s)}"
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
            yield "note", Text(clean(note))
        yield "load generator", _verdict(wording.client(record.load.client), overhead)
    for name, section in (("noise, load", record.load), ("noise, profile", record.profile)):
        if section is not None:
            yield name, _verdict(wording.noise(section.noise))
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
            f"{clean(name)} {fmt.text(value, percent=value.unit == '1')}" for name, value in accuracy.metrics.items()
        )
        yield "accuracy", Text(f"{metrics} on {fmt.count(accuracy.samples)} samples of {clean(accuracy.dataset)}")
    if record.profile is not None:
        yield "layers", _conservation(record.profile)


def _percentiles(load: LoadSection) -> Text:
    shown = [f"{key} {fmt.text(load.latency[key])}" for key in _PERCENTILES if key in load.latency]
    return Text("   ".join(shown))


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
            line.append(f"\ncheck failed: {clean(name).replace('_', ' ')}", style=_STYLES["bad"])
    return line


def _sweep(sweep: SweepSection) -> RenderableType:
    table = plain_table("Throughput by batch size", caption=wording.batch(sweep))
    for name in ("batch", "throughput", "latency"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for point in sweep.points:
        best = point.batch_size == sweep.optimal_batch
        table.add_row(
            fmt.count(point.batch_size),
            fmt.text(point.throughput),
            fmt.text(point.latency),
            (f"<- {'optimal' if sweep.saturated else 'best seen'}") if best else "",
            style="bold" if best else None,
        )
    return table


def _layers(profile: ProfileSection, count: int, width: int) -> RenderableType:
    """The slowest layers; names give way first, then the operator, so that no figure is ever cut."""
    slowest = top(profile, count)
    wide = width >= 100
    rows = [_layer_cells(entry, wide=wide) for entry in slowest]
    head = ["operator", *(["output"] if wide else []), "time", "share", *(["sum"] if wide else []), "GFLOP/s"]
    rows = [[_shortened(operator, _OPERATOR_WIDTH), *others] for operator, *others in rows]
    places = [fmt.count(entry.layer.index) for entry in slowest]
    left = max(width - _taken(head, rows) - max(map(len, places)) - _GAP * (len(head) + 1), _LEAST_NAME)
    table = plain_table(f"Slowest {len(slowest)} of {fmt.count(len(profile.layers))} layers")
    for name in ("#", "layer", *head):
        table.add_column(name, justify="left" if name in _WORDS else "right", no_wrap=True)
    for place, entry, cells in zip(places, slowest, rows, strict=True):
        table.add_row(*(Text(cell) for cell in (place, _shortened(clean(entry.layer.name), left), *cells)))
    return table


def _taken(head: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """The width of all columns together, without the gaps between them."""
    return sum(max(len(cell) for cell in column) for column in zip(head, *rows, strict=True))


def _layer_cells(entry: RankedLayer, *, wide: bool) -> list[str]:
    """The cells after the name."""
    row = entry.layer
    rate = flop_rate(row.flops, row.time)
    return [
        clean(row.op),
        *([fmt.shape(row.output_shape)] if wide else []),
        fmt.text(row.time),
        fmt.share(row.share),
        *([fmt.share(entry.cumulative_share)] if wide else []),
        fmt.bare(rate.value / 1e9, "1") if rate.value is not None else fmt.UNAVAILABLE,
    ]


def _shortened(name: str, width: int) -> str:
    """A name within `width`, its middle left out: both ends tell layers apart."""
    if len(name) <= width:
        return name
    tail = (width - 1) // 2
    return f"{name[: width - 1 - tail]}…{name[len(name) - tail :]}"


def _types(profile: ProfileSection, width: int) -> RenderableType:
    groups = by_type(profile)
    others = len(groups) - _TYPES
    table = plain_table("Time by operator", caption=f"and {others} more operators" if others > 0 else None)
    head = ["operator", "layers", "time", "share", "GFLOP/s"]
    rows = [_type_cells(group) for group in groups[:_TYPES]]
    for name in head:
        table.add_column(name, justify="left" if name in _WORDS else "right", no_wrap=True)
    table.add_column("", no_wrap=True)
    longest = max(0, min(_LONGEST_BAR, width - _taken(head, rows) - _GAP * len(head)))
    for group, cells in zip(groups, rows, strict=False):
        bar = "█" * round((group.share or 0) * longest)
        table.add_row(*(Text(cell) for cell in cells), Text(bar, style="cyan"))
    return table


def _type_cells(group: LayerGroup) -> list[str]:
    rate = group.flop_rate.value
    return [
        _shortened(clean(group.op), _OPERATOR_WIDTH),
        fmt.count(len(group.layers)),
        fmt.text(group.time),
        fmt.share(group.share),
        fmt.bare(rate / 1e9, "1") if rate is not None else fmt.UNAVAILABLE,
    ]


def _unavailable(record: RunRecord) -> RenderableType:
    lines = Text("Not available", style="bold")
    for item in record.unavailable:
        lines.append(f"\n  {clean(item.what)}", style="not bold")
        lines.append(f": {clean(item.why)}", style="not bold dim")
    return lines


def plain_table(title: str, caption: str | None = None) -> Table:
    """A table in the house's style: a title above, no lines but one under the head."""
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


def clean(name: str) -> str:
    """A name without control characters, which could rewrite the terminal."""
    return "".join(c if c.isprintable() else "�" for c in name)
