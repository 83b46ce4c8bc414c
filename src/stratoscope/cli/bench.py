"""`stratoscope bench`: what every library takes for the layers of a model; measured once, kept, shared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stratoscope.cli.errors import EXIT_INTERRUPTED
from stratoscope.cli.options import BatchOption, DatabaseOption, JsonOption, ShapeOption, WaitOption, parse_shapes
from stratoscope.cli.progress import progress

if TYPE_CHECKING:
    from stratoscope.measure.parts.fill import Plan, Wanted
    from stratoscope.measure.parts.status import Status
    from stratoscope.spec.performance import Environment

bench_app = typer.Typer(help="Micro-benchmarks of layers with every library, and their database.", no_args_is_help=True)

ModelsArgument = Annotated[
    list[str],
    typer.Argument(help="Zoo names, .onnx files, hf:ORG/NAME, or model manifests (.yaml).", show_default=False),
]
LibraryOption = Annotated[
    list[str] | None,
    typer.Option(
        "--library",
        help="Only this library: onnxruntime, pytorch, onednn, openvino, torch.compile; repeat for several.",
        show_default=False,
    ),
]
PrecisionOption = Annotated[
    list[str] | None,
    typer.Option(
        "--precision", help="float32 (the default), bfloat16 or int8; repeat for several.", show_default=False
    ),
]
CacheOption = Annotated[
    list[str] | None,
    typer.Option(
        "--cache", help="hot, flushed or evicted; default: hot and flushed; repeat for several.", show_default=False
    ),
]
ThreadsOption = Annotated[
    list[int] | None,
    typer.Option("--threads", min=1, help="Threads of a library; default: 1; repeat for several.", show_default=False),
]
PartsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--parts",
        help="layers (the default), or the nodes that ONNX Runtime executes at a graph level: executed:extended, "
        "executed:all; repeat for several.",
        show_default=False,
    ),
]


@bench_app.command("status")
def status(
    models: ModelsArgument,
    library: LibraryOption = None,
    precision: PrecisionOption = None,
    cache: CacheOption = None,
    threads: ThreadsOption = None,
    parts: PartsOption = None,
    batch_size: BatchOption = None,
    shape: ShapeOption = None,
    all_rows: Annotated[bool, typer.Option("--all", help="Every part that is missing, not only the largest.")] = False,
    json_file: JsonOption = None,
    db: DatabaseOption = None,
) -> None:
    """Say which layers of MODELS have no measurement here, and how much of their time is covered."""
    from stratoscope.measure.parts.status import status_of
    from stratoscope.store.performance import PerformanceDatabase

    plan = _plan(models, _wanted(library, precision, cache, threads, parts), batch_size, shape)
    environment = _environment()
    with PerformanceDatabase(db) as database:
        found = status_of(plan, database, environment)
    _show(found, json_file, all_rows)


@bench_app.command("fill")
def fill_command(
    models: ModelsArgument,
    library: LibraryOption = None,
    precision: PrecisionOption = None,
    cache: CacheOption = None,
    threads: ThreadsOption = None,
    parts: PartsOption = None,
    batch_size: BatchOption = None,
    shape: ShapeOption = None,
    budget: Annotated[
        float | None, typer.Option("--budget", min=0, help="Begin no part after so many seconds.", show_default=False)
    ] = None,
    retry: Annotated[
        bool, typer.Option("--retry", help="Also measure again what failed, was wrong or was unsupported.")
    ] = False,
    json_file: JsonOption = None,
    db: DatabaseOption = None,
    wait: WaitOption = True,
) -> None:
    """Measure the layers of MODELS that have no measurement here; each result is kept at once."""
    from rich.console import Console

    from stratoscope.measure.parts.fill import fill
    from stratoscope.measure.parts.status import status_of
    from stratoscope.report.bench_terminal import render_fill
    from stratoscope.store.performance import PerformanceDatabase

    plan = _plan(models, _wanted(library, precision, cache, threads, parts), batch_size, shape)
    environment = _environment()
    interrupted = False
    with PerformanceDatabase(db) as database:
        with progress("bench fill") as report:
            done = fill(
                plan,
                database,
                environment,
                budget_s=budget,
                retry=("failed", "wrong", "unsupported") if retry else (),
                wait=wait,
                on_wait=lambda line: typer.echo(line, err=True),
                progress=report,
            )
        interrupted = done.interrupted
        found = status_of(plan, database, environment)
    render_fill(done, Console(stderr=_to_stdout(json_file)))
    _show(found, json_file, False)
    if interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)


@bench_app.command("export")
def export_command(
    file: Annotated[Path, typer.Argument(help="The JSONL file to write.")],
    here: Annotated[bool, typer.Option("--here", help="Only what was measured on a machine like this one.")] = False,
    db: DatabaseOption = None,
) -> None:
    """Write the measurements to FILE, to share them."""
    from stratoscope.store.performance import PerformanceDatabase

    with PerformanceDatabase(db, create=False) as database:
        count = database.export(file, environment=_environment() if here else None)
    typer.echo(f"{count} measurements in {file}")


@bench_app.command("merge")
def merge_command(
    files: Annotated[list[Path], typer.Argument(help="Files that `bench export` wrote.")],
    db: DatabaseOption = None,
) -> None:
    """Add the measurements of FILES; what is there already stays."""
    from stratoscope.store.performance import PerformanceDatabase

    with PerformanceDatabase(db) as database:
        for file in files:
            done = database.merge(file)
            typer.echo(
                f"{file}: {done.added} added, {done.present} there already, "
                f"{done.differing} there with other samples (kept as they were)"
            )


def _wanted(
    library: list[str] | None,
    precision: list[str] | None,
    cache: list[str] | None,
    threads: list[int] | None,
    parts: list[str] | None,
) -> Wanted:
    from stratoscope.measure.parts.fill import Wanted

    return Wanted.parse(library, precision, cache, threads, parts)


def _plan(models: list[str], wanted: Wanted, batch_size: int | None, shape: list[str] | None) -> Plan:
    from stratoscope.measure.parts.fill import plan_of
    from stratoscope.models.resolve import resolve

    shapes = parse_shapes(shape)
    return plan_of([resolve(name, batch_size=batch_size, shapes=shapes) for name in models], wanted)


def _environment() -> Environment:
    import platform

    from stratoscope.host.capture import capture_hardware
    from stratoscope.spec.performance import Environment

    return Environment.of(capture_hardware(), platform.release())


def _to_stdout(json_file: Path | None) -> bool:
    return json_file is not None and str(json_file) == "-"


def _show(found: Status, json_file: Path | None, all_rows: bool) -> None:
    import json

    from rich.console import Console

    from stratoscope.report.bench_terminal import render_status
    from stratoscope.report.files import write_text

    render_status(found, Console(stderr=_to_stdout(json_file)), all_rows=all_rows)
    if json_file is None:
        return
    text = json.dumps(found.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if _to_stdout(json_file):
        typer.echo(text, nl=False)
    else:
        write_text(json_file, text)
