"""`stratoscope diagnose MODEL`: the whole story of a model on this machine, as a summary and an HTML page."""

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
from stratoscope.cli.run import SCENARIO_EXCLUDED, SCENARIO_NAMES
from stratoscope.cli.schema_options import schema_options
from stratoscope.spec.options import BackendOptions
from stratoscope.spec.scenario import ScenarioManifest


@schema_options(ScenarioManifest, "scenario", exclude=SCENARIO_EXCLUDED, names=SCENARIO_NAMES, panel="Scenario")
@schema_options(BackendOptions, "options", names={"providers": "--provider"}, panel="Back end")
def diagnose(
    model: ModelArgument,
    scenario: ScenarioManifest,
    options: BackendOptions,
    backend: BackendOption = "onnxruntime",
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Inputs of one inference.")] = 1,
    shape: ShapeOption = None,
    sweep: Annotated[bool, typer.Option(help="Measure batch sizes and find the optimal one.")] = True,
    max_batch: Annotated[int, typer.Option("--max-batch", min=1, help="Largest batch size of the sweep.")] = 64,
    cold: Annotated[bool, typer.Option(help="Measure import, load and first inference.")] = True,
    budget: Annotated[float, typer.Option("--budget", min=1, help="Seconds for the sweep.")] = 20.0,
    seed: SeedOption = 0,
    json_file: JsonOption = None,
    html: HtmlOption = None,
    db: DatabaseOption = None,
    save: SaveOption = True,
    wait: WaitOption = True,
) -> None:
    """Say how fast MODEL is here, under which load, and in which layers the time goes."""
    from stratoscope.cli.execute import Outputs, execute_and_show
    from stratoscope.cli.options import parse_shapes
    from stratoscope.measure.plan import Plan, Section

    sections = set(Section)
    if not sweep:
        sections.discard(Section.SWEEP)
    if not cold:
        sections.discard(Section.COLD_START)
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
    )
    page = html if html is not None else Path(f"stratoscope-report-{_file_name(model)}.html")
    execute_and_show(plan, Outputs(json_file=json_file, html=page, database=db, save=save))


def _file_name(model: str) -> str:
    """A model's name as a file name: its last part, other characters than letters, digits, dot and dash replaced."""
    stem = Path(model.rsplit(":", 1)[-1]).name.removesuffix(".onnx").removesuffix(".yaml")
    return "".join(c if c.isalnum() or c in ".-_" else "-" for c in stem) or "model"
