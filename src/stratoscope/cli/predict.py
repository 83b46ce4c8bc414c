"""`stratoscope predict MODEL --machine FILE`: what a model takes on a machine that is not here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stratoscope.cli.options import DatabaseOption, JsonOption, WaitOption

if TYPE_CHECKING:
    from stratoscope.host.roofs import Roofs

PredictedModels = Annotated[
    list[str], typer.Argument(help="Zoo names ('zoo': all of it), .onnx files, or manifests.", show_default=False)
]


def predict(
    models: PredictedModels,
    machine: Annotated[
        Path, typer.Option("--machine", help="The other machine: a file that `stratoscope machine --json` wrote there.")
    ],
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

    Where the database has bricks measured there too (`compose export` there, `compose merge` here), the exponents of
    the scaling are fitted to them, and the interval is the error of parts left out of the fit.
    """
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
