"""`stratoscope models`: what the zoo holds, what a model is, and where its file lies."""

from __future__ import annotations

from typing import Annotated

import typer

from stratoscope.cli.options import BatchOption, JsonOption, ModelArgument, ShapeOption

models_app = typer.Typer(help="The zoo, and what a model is.", no_args_is_help=False, invoke_without_command=True)


@models_app.callback(invoke_without_command=True)
def list_models(context: typer.Context) -> None:
    """List the zoo (the default)."""
    if context.invoked_subcommand is None:
        _list()


@models_app.command("list")
def list_command() -> None:
    """List the zoo."""
    _list()


def _list() -> None:
    from rich.console import Console
    from rich.table import Table

    from stratoscope.models.zoo import list_zoo

    table = Table(box=None, header_style="bold")
    for column in ("model", "task", "input", "needs"):
        table.add_column(column)
    for entry in list_zoo():
        shape = ", ".join(f"{spec.name} {'x'.join(map(str, spec.shape))}" for spec in entry.inputs)
        table.add_row(entry.name, entry.task, shape, "torch extra" if entry.needs_torch else "")
    Console().print(table)


@models_app.command("show")
def show(
    model: ModelArgument,
    batch_size: BatchOption = None,
    shape: ShapeOption = None,
    layers: Annotated[bool, typer.Option("--layers", help="Also list every layer with its work.")] = False,
    json_file: JsonOption = None,
) -> None:
    """Show a model's inputs, layers, work and parameters, without running it."""
    from rich.console import Console

    from stratoscope.cli.options import parse_shapes
    from stratoscope.graph.onnx_reader import read_graph
    from stratoscope.graph.signature import slug
    from stratoscope.graph.summary import summarize
    from stratoscope.graph.work import work_of
    from stratoscope.models.resolve import resolve
    from stratoscope.report.files import write_text
    from stratoscope.report.graph import render_graph, render_layers

    loadable = resolve(model, batch_size=batch_size, shapes=parse_shapes(shape))
    if loadable.path is None:
        raise typer.BadParameter("this model has no graph file to show")
    graph = read_graph(loadable.path, loadable.bound_shapes())
    summary = summarize(graph)
    console = Console()
    render_graph(loadable.manifest, summary, console)
    if layers:
        render_layers([(layer, work_of(layer), slug(layer)) for layer in graph.layers], console)
    if json_file is not None:
        write_text(json_file, summary.model_dump_json(indent=2) + "\n")


@models_app.command("path")
def path(model: ModelArgument) -> None:
    """Print the file of a model, materialising it first where needed."""
    from stratoscope.models.resolve import resolve

    typer.echo(str(resolve(model).path))
