"""`stratoscope predict MODEL`: what it takes on a machine that is not here, or here where it was never measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stratoscope.cli.options import DatabaseOption, JsonOption, WaitOption
from stratoscope.errors import SpecError

if TYPE_CHECKING:
    from stratoscope.host.roofs import Roofs

PredictedModels = Annotated[
    list[str], typer.Argument(help="Zoo names ('zoo': all of it), .onnx files, or manifests.", show_default=False)
]


def predict(
    models: PredictedModels,
    machine: Annotated[
        Path | None,
        typer.Option(
            "--machine",
            help="The other machine: a file that `stratoscope machine --json` wrote there.",
            show_default=False,
        ),
    ] = None,
    layers: Annotated[
        Path | None,
        typer.Option(
            "--layers",
            metavar="SUITE",
            help="This machine, without measuring: learn from this suite's layers (compose build --by node, run).",
            show_default=False,
        ),
    ] = None,
    here: Annotated[
        Path | None,
        typer.Option("--here", help="This machine's file; default: its last record here.", show_default=False),
    ] = None,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads that bricks are measured with here.")] = 1,
    threads_there: Annotated[
        int | None,
        typer.Option("--threads-there", min=1, help="Threads there; default: as here.", show_default=False),
    ] = None,
    batch_size: Annotated[
        list[int] | None, typer.Option("--batch-size", min=1, help="Repeat for several.", show_default=False)
    ] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Measure the bricks that are missing here first.")] = False,
    json_file: JsonOption = None,
    db: DatabaseOption = None,
    wait: WaitOption = True,
) -> None:
    """Say what MODELS take on another machine, from bricks measured here and the roofs of both machines.

    Or, with --layers, what they take here though they were never measured: layer by layer from those of other models,
    with the error of models left out.

    Where the database has bricks measured there too (`compose export` there, `compose merge` here), the exponents of
    the scaling are fitted to them, and the interval is the error of parts left out of the fit.
    """
    if (machine is None) == (layers is None):
        raise SpecError(
            "give either --machine FILE, for another machine, or --layers SUITE, for unmeasured models here"
        )
    if layers is not None:
        if measure or threads_there is not None:
            raise SpecError("--measure and --threads-there belong to --machine: --layers measures nothing")
        _predict_layers(models, layers, here, threads, batch_size, json_file, db)
        return
    assert machine is not None
    from rich.console import Console

    from stratoscope.cli.compose import environment_here, measure_missing, suite_of, to_stdout, write_json
    from stratoscope.explain.compose.assembly import POINT, estimates, placed, times_of
    from stratoscope.explain.predict.model import pairs_of, predict_model
    from stratoscope.explain.predict.scaling import SCALING_ERROR, fitted_scaling, resources_of
    from stratoscope.host.roofs import Roofs
    from stratoscope.measure.sequence import protocol_of
    from stratoscope.report.predict_terminal import render_predictions
    from stratoscope.spec.performance import Environment
    from stratoscope.store.performance import PerformanceDatabase

    theirs = Roofs.load(machine)
    there = resources_of(theirs, threads_there or threads)
    ours = resources_of(Roofs.load(here) if here is not None else _last_record(db), threads)
    suite = suite_of(models, "executed", "tensor", 1, None, batch_size, False)
    with PerformanceDatabase(db) as database:
        if measure:
            measure_missing(suite, database, threads, False, None, False, wait)
        times = times_of(suite, database, environment_here(), threads)
        both = [
            database.find(
                candidates=[suite.index.candidate],
                environment=environment,
                protocols=[protocol_of(POINT, number)],
            )
            for environment, number in (
                (environment_here(), threads),
                (Environment.of(theirs.record.hardware), threads_there or threads),
            )
        ]
    same = both[0] and both[1] and both[0][0].key[2:] == both[1][0].key[2:]
    fit = None if same else fitted_scaling(pairs_of(*both), ours, there)
    rows = [
        predict_model(
            row.model if row.batch_size in (None, 1) else f"{row.model} x{row.batch_size}",
            placed(suite, model),
            times[POINT],
            row.estimate.latency,
            row.estimate.coverage,
            ours,
            there,
            fit=fit,
            error=SCALING_ERROR,
        )
        for row, model in zip(estimates(suite, times, threads), suite.index.models, strict=True)
    ]
    render_predictions(rows, Console(stderr=to_stdout(json_file)))
    write_json(json_file, "stratoscope/prediction/1", rows)


def _predict_layers(
    models: list[str],
    layers: Path,
    here: Path | None,
    threads: int,
    batch_size: list[int] | None,
    json_file: Path | None,
    db: str | None,
) -> None:
    from rich.console import Console

    from stratoscope.cli.compose import environment_here, suite_of, to_stdout, write_json
    from stratoscope.cli.progress import progress
    from stratoscope.explain.compose.assembly import POINT, times_of
    from stratoscope.explain.predict.scaling import resources_of
    from stratoscope.explain.predict.unmeasured import known_layers, leave_one_out, predict_unmeasured
    from stratoscope.host.roofs import Roofs
    from stratoscope.measure.suite import read_suite
    from stratoscope.report.predict_terminal import render_unmeasured
    from stratoscope.store.performance import PerformanceDatabase

    known_suite = read_suite(layers)
    ours = resources_of(Roofs.load(here) if here is not None else _last_record(db), threads)
    with PerformanceDatabase(db) as database:
        known = known_layers(known_suite, times_of(known_suite, database, environment_here(), threads)[POINT])
        suite = suite_of(models, known_suite.index.graph, "node", 1, None, batch_size, False)
        times = times_of(suite, database, environment_here(), threads)[POINT]
    with progress("predict") as tell:
        judged = leave_one_out(known_suite, known, ours, tell)
        rows = predict_unmeasured(suite, times, known, ours, judged)
    render_unmeasured(rows, judged, len(known), Console(stderr=to_stdout(json_file)))
    write_json(json_file, "stratoscope/unmeasured/1", rows)


def _last_record(db: str | None) -> Roofs:
    from stratoscope.errors import StoreError
    from stratoscope.host.roofs import Roofs
    from stratoscope.store.machines import get_machine

    try:
        return Roofs(get_machine("last", db))
    except StoreError as error:
        raise StoreError(
            f"this machine's roofs are not known: {error.message}",
            hint="`stratoscope machine` measures them, or give a file with --here",
        ) from error
