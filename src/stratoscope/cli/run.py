"""`stratoscope run MODEL`: a model under one load scenario, with accuracy where it has a labelled data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stratoscope.cli.options import (
    BackendOption,
    DatabaseOption,
    HtmlOption,
    JsonOption,
    ModelArgument,
    SaveOption,
    SeedOption,
    ShapeOption,
    WaitOption,
)
from stratoscope.cli.schema_options import schema_options
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
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Inputs of one inference.")] = 1,
    shape: ShapeOption = None,
    sweep: Annotated[bool, typer.Option("--sweep", help="Also measure batch sizes and find the optimal one.")] = False,
    max_batch: Annotated[int, typer.Option("--max-batch", min=1, help="Largest batch size of the sweep.")] = 256,
    cold: Annotated[bool, typer.Option("--cold", help="Also measure import, load and first inference.")] = False,
    budget: Annotated[float, typer.Option("--budget", min=1, help="Seconds for the sweep.")] = 20.0,
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
    from stratoscope.cli.options import parse_shapes
    from stratoscope.measure.plan import Plan, Section

    sections = {Section.LOAD, Section.ACCURACY}
    sections |= {Section.SWEEP} if sweep else set()
    sections |= {Section.COLD_START} if cold else set()
    plan = Plan(
        model=model,
        backend=backend,
        options=options,
        scenario=scenario.model_copy(
            update={"batch_size": batch_size, "seeds": scenario.seeds.model_copy(update={"inputs": seed})}
        ),
        shapes=parse_shapes(shape),
        sections=frozenset(sections),
        max_batch=max_batch,
        sweep_budget_s=budget,
        wait=wait,
        log_dir=log_dir,
    )
    execute_and_show(plan, Outputs(json_file=json_file, html=html, database=db, save=save))
