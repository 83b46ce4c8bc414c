"""`stratoscope diagnose MODEL`: the whole story of a model on this machine, as a summary and an HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from stratoscope.cli.run import SCENARIO_EXCLUDED, SCENARIO_NAMES
from stratoscope.cli.schema_options import schema_options
from stratoscope.spec.options import BackendOptions
from stratoscope.spec.scenario import ScenarioManifest

if TYPE_CHECKING:
    from stratoscope.cli.progress import Report
    from stratoscope.measure.execute import Outcome
    from stratoscope.measure.plan import Plan


@schema_options(ScenarioManifest, "scenario", exclude=SCENARIO_EXCLUDED, names=SCENARIO_NAMES, panel="Scenario")
@schema_options(BackendOptions, "options", names={"providers": "--provider"}, panel="Back end")
def diagnose(
    model: ModelArgument,
    scenario: ScenarioManifest,
    options: BackendOptions,
    backend: BackendOption = "onnxruntime",
    batch_size: BatchOption = None,
    shape: ShapeOption = None,
    sweep: Annotated[bool, typer.Option(help="Measure batch sizes and find the optimal one.")] = True,
    max_batch: MaxBatchOption = 64,
    cold: Annotated[bool, typer.Option(help="Measure import, load and first inference.")] = True,
    advice: Annotated[bool, typer.Option(help="Try what makes it faster, and say what it gave.")] = True,
    budget: BudgetOption = 20.0,
    seed: SeedOption = 0,
    json_file: JsonOption = None,
    html: HtmlOption = None,
    db: DatabaseOption = None,
    save: SaveOption = True,
    wait: WaitOption = True,
) -> None:
    """Say how fast MODEL is here, under which load, and in which layers the time goes."""
    from stratoscope.cli.advise import with_advice
    from stratoscope.cli.execute import Outputs, execute_and_show
    from stratoscope.measure.plan import Plan, Section

    left_out = {Section.SWEEP: not sweep, Section.COLD_START: not cold}
    plan = Plan(
        model=model,
        backend=backend,
        options=options,
        scenario=scenario.at(batch_size or 1, seed),
        batch_size=batch_size,
        shapes=parse_shapes(shape),
        sections=frozenset(section for section in Section if not left_out.get(section, False)),
        max_batch=max_batch,
        sweep_budget_s=budget,
        wait=wait,
    )

    def then(outcome: Outcome, plan: Plan, report: Report) -> Outcome:
        if not advice:
            return outcome
        return with_advice(
            outcome, plan, report, budget_s=_ADVICE_S, predict_s=_PREDICT_S, database=db, keep=save, quick=True
        )

    execute_and_show(plan, Outputs(json_file, html or _default_page(model), db, save), then=then)


#: Seconds for trying advice, and for benchmarking new layers: a diagnosis takes about a minute.
_ADVICE_S = 8.0
_PREDICT_S = 10.0


def _default_page(model: str) -> Path:
    """The report's file in the working folder, after the model's name; other characters than letters and digits go."""
    stem = Path(model.rsplit(":", 1)[-1]).name.removesuffix(".onnx").removesuffix(".yaml")
    safe = "".join(c if c.isalnum() or c in ".-_" else "-" for c in stem)
    return Path(f"stratoscope-report-{safe or 'model'}.html")
