"""`stratoscope run MODEL`: a model under one load scenario, with accuracy where it has a labelled data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stratoscope.cli.options import (
    BackendOption,
    BatchOption,
    BudgetOption,
    DatabaseOption,
    HtmlOption,
    JsonOption,
    MaxBatchOption,
    ModelArgument,
    SaveOption,
    SeedOption,
    ShapeOption,
    WaitOption,
    parse_shapes,
)
from stratoscope.cli.schema_options import schema_options
from stratoscope.measure.plan import Mode
from stratoscope.spec.options import BackendOptions
from stratoscope.spec.scenario import ScenarioManifest

SCENARIO_EXCLUDED = ("schema_", "description", "seeds", "batch_size", "mode")
SCENARIO_NAMES = {"kind": "--scenario"}


@schema_options(ScenarioManifest, "scenario", exclude=SCENARIO_EXCLUDED, names=SCENARIO_NAMES, panel="Scenario")
@schema_options(BackendOptions, "options", names={"providers": "--provider"}, panel="Back end")
def run(
    model: ModelArgument,
    scenario: ScenarioManifest,
    options: BackendOptions,
    backend: BackendOption = "onnxruntime",
    mode: Annotated[
        Mode, typer.Option("--mode", help="Answers, training steps, or generation; the last two on PyTorch.")
    ] = Mode.INFER,
    batch_size: BatchOption = None,
    shape: ShapeOption = None,
    sweep: Annotated[bool, typer.Option("--sweep", help="Also measure batch sizes and find the optimal one.")] = False,
    max_batch: MaxBatchOption = 256,
    cold: Annotated[bool, typer.Option("--cold", help="Also measure import, load and first inference.")] = False,
    trace: Annotated[
        bool,
        typer.Option(
            "--trace",
            help="Trace the layers of every request: `analyze -a tail` then says what the slow ones were slow in.",
        ),
    ] = False,
    budget: BudgetOption = 20.0,
    seed: SeedOption = 0,
    json_file: JsonOption = None,
    html: HtmlOption = None,
    db: DatabaseOption = None,
    save: SaveOption = True,
    wait: WaitOption = True,
    log_dir: Annotated[
        Path | None, typer.Option("--log-dir", help="Keep LoadGen's own log files here.", show_default=False)
    ] = None,
) -> None:
    """Measure MODEL under one load scenario."""
    from stratoscope.cli.execute import Outputs, execute_and_show
    from stratoscope.measure.plan import Plan, Section

    wanted = {Section.LOAD: True, Section.ACCURACY: True, Section.SWEEP: sweep, Section.COLD_START: cold}
    plan = Plan(
        model=model,
        backend=backend,
        options=options,
        scenario=scenario.at(batch_size or 1, seed),
        batch_size=batch_size,
        shapes=parse_shapes(shape),
        sections=frozenset(section for section, asked in wanted.items() if asked)
        if mode is Mode.INFER
        else frozenset({Section.PROFILE}),
        mode=mode,
        max_batch=max_batch,
        sweep_budget_s=budget,
        wait=wait,
        log_dir=log_dir,
        trace_load=trace,
    )
    execute_and_show(plan, Outputs(json_file, html, db, save))
