"""A model's graph on a terminal: inputs, layers, work; without anything measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stratoscope.report.format import bare, count, shape, text

if TYPE_CHECKING:
    from stratoscope.graph.ir import Layer, Work
    from stratoscope.spec.model import ModelManifest
    from stratoscope.spec.record import GraphSection


def render_graph(manifest: ModelManifest, graph: GraphSection, console: Console) -> None:
    """Prints what the model is and what one inference has to do."""
    console.print(f"[bold]{escape(manifest.id)}[/]  {escape(manifest.description)}", highlight=False)
    table = Table(box=None, show_header=False, pad_edge=False)
    for spec in manifest.inputs:
        table.add_row("input", f"{escape(spec.name)} {spec.element_type} {shape(spec.shape)}")
    for spec in manifest.outputs:
        table.add_row("output", f"{escape(spec.name)} {spec.element_type} {shape(spec.shape)}")
    table.add_row("layers", f"{count(graph.layers)}, {count(graph.unique_layers)} unique")
    table.add_row("work", text(graph.flops))
    table.add_row("parameters", f"{text(graph.parameters)} ({text(graph.parameter_bytes)}), weights {manifest.weights}")
    table.add_row("activations", text(graph.activation_bytes))
    kinds = sorted(graph.by_type.items(), key=lambda item: -item[1])
    table.add_row("types", ", ".join(f"{escape(name)} {number}" for name, number in kinds))
    if graph.unknown_work:
        table.add_row("work unknown", ", ".join(map(escape, graph.unknown_work)))
    console.print(table)


def render_layers(rows: Sequence[tuple[Layer, Work | None, str]], console: Console) -> None:
    """Prints one line a layer: its work (or that it is unknown) and its slug."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("", "layer", "type", "output", "work", "parameters", "key"):
        table.add_column(column, justify="right" if column in ("", "work", "parameters") else "left")
    for layer, work, slug in rows:
        output = layer.outputs[0].shape if layer.outputs else None
        table.add_row(
            str(layer.index),
            escape(layer.name),
            escape(layer.op),
            shape(output) if output is not None else "",
            bare(work.flops, "FLOP") if work is not None else "unavailable",
            count(work.parameters) if work is not None else "",
            slug,
        )
    console.print(table)
