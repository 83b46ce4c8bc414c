"""`stratoscope machine`: what this machine can do, measured; list the probes, compare two measurements."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stratoscope.cli.errors import EXIT_ERROR, EXIT_INTERRUPTED
from stratoscope.cli.options import DatabaseOption, HtmlOption, JsonOption, WaitOption
from stratoscope.cli.progress import progress

if TYPE_CHECKING:
    from stratoscope.spec.machine import MachineRecord
    from stratoscope.store.machine_comparison import MachineComparison

machine_app = typer.Typer(
    help="What this machine can do, measured: bandwidths, latencies, peaks, costs.",
    no_args_is_help=False,
    invoke_without_command=True,
)

GoogleJsonOption = Annotated[
    Path | None,
    typer.Option(
        "--json",
        help="Write Google Benchmark's JSON, the full record inside ('-': standard output).",
        show_default=False,
    ),
]
#: Rows of the table that `compare` prints without --all.
_MOST_ROWS = 20


@machine_app.callback(invoke_without_command=True)
def machine(
    context: typer.Context,
    budget: Annotated[
        float | None, typer.Option("--budget", min=0, help="Seconds to measure; default: 60, with --full 600.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="More sizes, thread counts and dtypes.")] = False,
    probe: Annotated[
        list[str] | None,
        typer.Option("--probe", help="Only this probe (see `machine list`); repeat for several.", show_default=False),
    ] = None,
    json_file: GoogleJsonOption = None,
    html: HtmlOption = None,
    db: DatabaseOption = None,
    save: Annotated[bool, typer.Option("--save/--no-save", help="Keep the record in the results database.")] = True,
    wait: WaitOption = True,
) -> None:
    """Measure what this machine can do (the default), or use a command below."""
    if context.invoked_subcommand is not None:
        context.obj = db
        return
    from stratoscope.measure.machine.characterize import Request, characterize

    _refuse_unwritable(json_file, html, db if save else None, save)
    command = shlex.join(["stratoscope", *sys.argv[1:]])
    request = Request(tuple(probe or ()) or None, budget, full, wait, command=command)
    with progress("machine") as report:
        record = characterize(request, report, on_wait=lambda line: typer.echo(line, err=True))
    _show(record, json_file, html, db, save)
    if record.status == "interrupted":
        raise typer.Exit(EXIT_INTERRUPTED)
    unknown = [item for item in record.unavailable if item.why.startswith("no probe is called")]
    for item in unknown:
        typer.echo(f"error: {item.why}; the others were measured", err=True)
    if unknown:
        raise typer.Exit(EXIT_ERROR)


@machine_app.command("list")
def list_probes(
    full: Annotated[bool, typer.Option("--full", help="Count the cases of the full set.")] = False,
) -> None:
    """List the probes, with the number of cases here, or why one cannot run."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from stratoscope.measure.machine.characterize import availability

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("probe", no_wrap=True)
    table.add_column("cases", justify="right")
    table.add_column("what it measures, or why it cannot here", overflow="fold")
    for found in availability(full=full):
        cases = str(found.cases) if found.why is None else "-"
        table.add_row(found.name, cases, Text(found.title if found.why is None else f"{found.title}: {found.why}"))
    Console().print(table)


@machine_app.command("show")
def show(
    context: typer.Context,
    record: Annotated[str, typer.Argument(help="A file, or a record's id, 'last' or 'last~1'.")] = "last",
    json_file: GoogleJsonOption = None,
    html: HtmlOption = None,
    db: DatabaseOption = None,
) -> None:
    """Show a record as it was printed when it was measured."""
    _show(_find(record, _database(context, db)), json_file, html, None, False)


@machine_app.command("compare")
def compare_command(
    context: typer.Context,
    a: Annotated[str, typer.Argument(help="The baseline: a file that --json wrote, an id, 'last~1'.")],
    b: Annotated[str, typer.Argument(help="The record to judge, named alike.")],
    all_rows: Annotated[bool, typer.Option("--all", help="Every benchmark, not only those that differ most.")] = False,
    json_file: JsonOption = None,
    db: DatabaseOption = None,
) -> None:
    """Compare two machines, or two measurements of one."""
    import json

    from stratoscope.report.files import write_text
    from stratoscope.store.machine_comparison import compare_machines

    database = _database(context, db)
    comparison = compare_machines(_find(a, database), _find(b, database))
    text = json.dumps(comparison.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if json_file is not None and str(json_file) == "-":
        typer.echo(text, nl=False)
        return
    if json_file is not None:
        write_text(json_file, text)
    _print_comparison(comparison, all_rows)


def _database(context: typer.Context, db: str | None) -> str | None:
    """`--db` as given after the command, else as given before it."""
    given_here = context.get_parameter_source("db")
    before: str | None = context.obj
    return before if before is not None and (given_here is None or given_here.name != "COMMANDLINE") else db


def _find(name: str, database: str | None) -> MachineRecord:
    """A record from a file where there is one of this name, else from the database."""
    from stratoscope.host.roofs import read_record
    from stratoscope.store.machines import get_machine

    path = Path(name)
    if path.is_file() or path.suffix == ".json":
        return read_record(path)
    return get_machine(name, database)


def _refuse_unwritable(json_file: Path | None, html: Path | None, db: str | None, save: bool) -> None:
    """Fails before the measurement where a file or the database could not be written after it."""
    from stratoscope.report.files import check_writable

    for path in (json_file, html):
        if path is not None and str(path) != "-":
            check_writable(path)
    if save:
        from stratoscope.store.store import Store

        Store.open(db).close()


def _show(record: MachineRecord, json_file: Path | None, html: Path | None, db: str | None, save: bool) -> None:
    from rich.console import Console

    from stratoscope.report.files import write_text
    from stratoscope.report.google_benchmark import google_benchmark_json
    from stratoscope.report.machine_terminal import render_machine

    to_stdout = json_file is not None and str(json_file) == "-"
    console = Console(stderr=to_stdout)
    render_machine(record, console)
    kept: list[str] = []
    if json_file is not None:
        text = google_benchmark_json(record)
        if to_stdout:
            sys.stdout.write(text)
        else:
            write_text(json_file, text)
            kept.append(f"record  {json_file}")
    if html is not None:
        from stratoscope.report.machine_page import write_machine_page

        kept.append(f"report  {write_machine_page(record, html)}")
    if save:
        _save(db, record)
        kept.append(f"saved   {record.id}   (stratoscope machine show {record.id})")
    if kept:
        console.print()
    for line in kept:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _save(db: str | None, record: MachineRecord) -> None:
    """Keeps the record; where the database cannot take it after all, in a file of its own that the error names."""
    import tempfile

    from stratoscope.errors import StoreError
    from stratoscope.report.files import write_text
    from stratoscope.store.machines import save_machine

    try:
        save_machine(db, record)
    except StoreError as error:
        file = Path(tempfile.mkdtemp(prefix="stratoscope-machine-")) / "machine.json"
        write_text(file, record.model_dump_json(by_alias=True, indent=2) + "\n")
        way_out = f"`stratoscope machine show {file}` shows it"
        raise StoreError(f"{error.message}; the record is kept in {file}", hint=way_out) from error


def _print_comparison(comparison: MachineComparison, all_rows: bool) -> None:
    from rich.console import Console

    from stratoscope.report.machine_comparison import render_comparison

    render_comparison(comparison, Console(), most=None if all_rows else _MOST_ROWS)
