"""`stratoscope results`: list the runs that were kept, show one, delete it, take it elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stratoscope.cli.options import DatabaseOption, JsonOption

if TYPE_CHECKING:
    from stratoscope.store.store import Store
    from stratoscope.store.summary import RunSummary

results_app = typer.Typer(
    help="The runs that were kept: list, show, delete, export, merge.",
    no_args_is_help=False,
    invoke_without_command=True,
)

RunArgument = Annotated[
    str, typer.Argument(help="A run's id or its beginning, 'last', 'last~1', or a model's name (its newest run).")
]
ModelFilter = Annotated[str | None, typer.Option("--model", help="Only runs of this model.", show_default=False)]
BackendFilter = Annotated[
    str | None, typer.Option("--backend", "-b", help="Only runs on this back end.", show_default=False)
]
LimitOption = Annotated[int, typer.Option("--limit", "-n", min=1, help="Show at most so many, the newest.")]


#: A model's name up to this length stays on one line in a narrow terminal.
_MODEL_WIDTH = 20


@results_app.callback(invoke_without_command=True)
def list_runs(
    context: typer.Context,
    model: ModelFilter = None,
    backend: BackendFilter = None,
    limit: LimitOption = 20,
    json_file: JsonOption = None,
    db: DatabaseOption = None,
) -> None:
    """List the runs, the newest first (the default), or use a command below."""
    if context.invoked_subcommand is None:
        _list(model, backend, limit, json_file, db)
    else:
        context.obj = db


@results_app.command("list")
def list_command(
    context: typer.Context,
    model: ModelFilter = None,
    backend: BackendFilter = None,
    limit: LimitOption = 20,
    json_file: JsonOption = None,
    db: DatabaseOption = None,
) -> None:
    """List the runs, the newest first."""
    _list(model, backend, limit, json_file, _database(context, db))


@results_app.command("show")
def show(
    context: typer.Context,
    run: RunArgument = "last",
    layers: Annotated[int, typer.Option("--layers", min=1, help="How many of the slowest layers to show.")] = 10,
    json_file: JsonOption = None,
    db: DatabaseOption = None,
) -> None:
    """Show one run as it was printed when it was measured."""
    from rich.console import Console

    from stratoscope.report.advise_text import render_advice
    from stratoscope.report.files import write_json
    from stratoscope.report.terminal import render_record

    with _open(context, db) as store:
        record = store.get(run)
    if json_file is not None:
        write_json(record, json_file)
    if json_file is None or str(json_file) != "-":
        render_record(record, Console(), top=layers)
        if record.advice is not None:
            render_advice(record.advice, Console())


@results_app.command("advice")
def advice(
    context: typer.Context,
    model: ModelFilter = None,
    backend: BackendFilter = None,
    db: DatabaseOption = None,
) -> None:
    """Say how good the advice was: predicted against achieved, over all runs that tried some."""
    from rich.console import Console

    from stratoscope.explain.advice.calibration import calibration
    from stratoscope.report.advise_text import render_calibration

    with _open(context, db) as store:
        records = (store.get(found.id) for found in store.list(model=model, backend=backend))
        render_calibration(calibration(records), Console())


@results_app.command("html")
def html(
    context: typer.Context,
    run: RunArgument = "last",
    output: Annotated[
        Path | None, typer.Option("--html", help="File to write; else named after the run.", show_default=False)
    ] = None,
    db: DatabaseOption = None,
) -> None:
    """Write the report page of one run."""
    from stratoscope.report.html import write_report

    with _open(context, db) as store:
        record = store.get(run)
        samples, spans = store.samples(record.id), store.spans(record.id)
    page = write_report(record, output or Path(f"stratoscope-report-{record.id}.html"), samples=samples, spans=spans)
    typer.echo(str(page))


@results_app.command("delete")
def delete(
    context: typer.Context,
    runs: Annotated[list[str], typer.Argument(help="Runs: ids or their beginnings, 'last', names of models.")],
    db: DatabaseOption = None,
) -> None:
    """Delete runs with their samples and spans. All are looked up before the first is deleted."""
    with _open(context, db) as store:
        for run_id in dict.fromkeys([store.resolve(run) for run in runs]):
            typer.echo(f"deleted {store.delete(run_id)}")


@results_app.command("export")
def export(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="JSONL file to write; samples and spans go in a folder beside it.")],
    runs: Annotated[
        list[str] | None, typer.Argument(help="Runs to export; all where none is named.", show_default=False)
    ] = None,
    db: DatabaseOption = None,
) -> None:
    """Write runs to a file that `merge` takes into another database."""
    with _open(context, db) as store:
        ids = store.export(file, runs or None)
    typer.echo(f"{file}: {_count(len(ids))}")


@results_app.command("merge")
def merge(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A file that `export` wrote, or in which a run was kept.")],
    db: DatabaseOption = None,
) -> None:
    """Add the runs of a file; those that are here already stay as they are."""
    with _open(context, db, create=True) as store:
        result = store.merge(file)
    parts = [f"{_count(len(result.added))} added", f"{len(result.present)} here already"]
    if result.without_tables:
        parts.append(f"{len(result.without_tables)} came without samples or spans")
    typer.echo(", ".join(parts))


def _database(context: typer.Context, db: str | None) -> str | None:
    """`--db` as given after the command, else as given before it (where the environment variable counts too)."""
    given_here = context.get_parameter_source("db")
    before: str | None = context.obj
    return before if before is not None and (given_here is None or given_here.name != "COMMANDLINE") else db


def _open(context: typer.Context, db: str | None, *, create: bool = False) -> Store:
    from stratoscope.store.store import Store

    return Store.open(_database(context, db), create=create)


def printable(text: str) -> str:
    """`text` without control characters, which could rewrite the terminal: records may come from elsewhere."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def _count(number: int) -> str:
    return f"{number} run" if number == 1 else f"{number} runs"


def _list(model: str | None, backend: str | None, limit: int, json_file: Path | None, db: str | None) -> None:
    from stratoscope.store.store import Store

    with Store.open(db, create=False) as store:
        runs = store.list(model=model, backend=backend, limit=limit)
        place = str(store)
    if json_file is not None:
        _write_json(
            {"schema": "stratoscope/results/1", "database": place, "runs": [run.to_json() for run in runs]}, json_file
        )
    if json_file is None or str(json_file) != "-":
        _print(runs, place)


def _write_json(value: dict[str, Any], file: Path) -> None:
    import json

    from stratoscope.report.files import write_text

    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if str(file) == "-":
        typer.echo(text, nl=False)
    else:
        write_text(file, text)


def _print(runs: list[RunSummary], place: str) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not runs:
        console.print(f"no such runs in {place}", markup=False, highlight=False)
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("run", no_wrap=True)
    table.add_column("when", no_wrap=True)
    longest = max(len(run.model_name) for run in runs)
    table.add_column("model", overflow="fold", min_width=min(longest, _MODEL_WIDTH))
    table.add_column("load", overflow="fold")
    table.add_column("result", overflow="fold")
    for run in runs:
        when = run.created_at.astimezone().strftime("%Y-%m-%d %H:%M")
        batch = f", batch {run.batch_size}" if run.batch_size not in (None, 1) else ""
        name = run.model_name if run.backend == "onnxruntime" else f"{run.model_name} on {run.backend}"
        cells = (run.id, when, name, f"{run.scenario_kind}{batch}", _result(run))
        table.add_row(*(Text(printable(cell)) for cell in cells))
    console.print(table)


def _result(run: RunSummary) -> str:
    """The run's figure with its interval, what it is, and how the run ended where it is not complete."""
    from stratoscope.report.format import text
    from stratoscope.stats.quantity import Quantity

    ending = "" if run.status == "complete" else f" ({run.status})"
    if run.metric_name is None or run.metric_unit is None:
        return f"nothing measured{ending}"
    section, _, name = run.metric_name.partition(".")
    label = name.replace(".", " ").replace("_", " ").removeprefix("latency ")
    what = f"{label} latency" if section == "load" and label != "throughput" else label
    if run.metric_value is None:
        return f"{what} unavailable{ending}"
    figure = Quantity(value=run.metric_value, unit=run.metric_unit, ci_low=run.metric_low, ci_high=run.metric_high)
    return f"{text(figure)} {what}{ending}"
