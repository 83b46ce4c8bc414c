"""`stratoscope advise MODEL`: how fast the model could be here, what stops it, and what to do, proved by doing it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stratoscope.cli.options import (
    BackendOption,
    BatchOption,
    DatabaseOption,
    HtmlOption,
    JsonOption,
    ModelArgument,
    SeedOption,
    ShapeOption,
    WaitOption,
    parse_shapes,
)
from stratoscope.cli.schema_options import schema_options
from stratoscope.spec.options import BackendOptions

if TYPE_CHECKING:
    from stratoscope.cli.progress import Report
    from stratoscope.measure.execute import Outcome
    from stratoscope.measure.plan import Plan


@schema_options(BackendOptions, "options", names={"providers": "--provider"}, panel="Back end")
def advise(
    model: ModelArgument,
    options: BackendOptions,
    backend: BackendOption = "onnxruntime",
    batch_size: BatchOption = None,
    shape: ShapeOption = None,
    budget: Annotated[float, typer.Option("--budget", min=0, help="Seconds for trying advice; 0: try nothing.")] = 30.0,
    predict: Annotated[
        float, typer.Option("--predict", min=0, help="Seconds for benchmarking new layers, to predict gains.")
    ] = 60.0,
    save: Annotated[
        Path | None, typer.Option("--save", help="Write the rewritten model to this .onnx file.", show_default=False)
    ] = None,
    lower_precision: Annotated[
        bool, typer.Option("--lower-precision", help="Let what is saved compute in a lower precision.")
    ] = False,
    seed: SeedOption = 0,
    json_file: JsonOption = None,
    html: HtmlOption = None,
    db: DatabaseOption = None,
    store: Annotated[bool, typer.Option("--store/--no-store", help="Keep the run in the results database.")] = True,
    wait: WaitOption = True,
) -> None:
    """Say how fast MODEL could be here, what stops it and what to do; try it, and say what it gave."""
    from stratoscope.cli.execute import Outputs, execute_and_show
    from stratoscope.improve.advise import require_onnx_path
    from stratoscope.measure.plan import Plan, Section
    from stratoscope.report.files import check_writable
    from stratoscope.spec.scenario import ScenarioManifest

    require_onnx_path(save)
    if save is not None:
        check_writable(save)
    plan = Plan(
        model=model,
        backend=backend,
        options=options,
        scenario=ScenarioManifest().at(batch_size or 1, seed),
        batch_size=batch_size,
        shapes=parse_shapes(shape),
        sections=frozenset({Section.PROFILE}),
        wait=wait,
    )

    def then(outcome: Outcome, plan: Plan, report: Report) -> Outcome:
        return with_advice(
            outcome,
            plan,
            report,
            budget_s=budget,
            predict_s=predict,
            database=db,
            keep=store,
            lower_precision=lower_precision,
            save=save,
        )

    execute_and_show(plan, Outputs(json_file, html, db, store), then=then, brief=True)


def with_advice(
    outcome: Outcome,
    plan: Plan,
    report: Report,
    *,
    budget_s: float,
    predict_s: float,
    database: str | None,
    keep: bool,
    lower_precision: bool = False,
    save: Path | None = None,
    quick: bool = False,
) -> Outcome:
    """The outcome with the section of advice; where there can be none, with the reason under `unavailable`.

    Args:
        database: where roofs and measured parts are looked for, and kept if `keep`.
    """
    from dataclasses import replace

    from stratoscope.errors import StratoscopeError
    from stratoscope.improve.advise import Request
    from stratoscope.improve.known import advise_with_database
    from stratoscope.measure.execute import resolved_model
    from stratoscope.spec.record import Unavailable

    def say(text: str) -> None:
        report(text, None)

    record = outcome.record
    if record.status != "complete":
        return outcome
    try:
        if record.profile is None:
            raise StratoscopeError("there is no layer profile")
        request = Request(
            model=resolved_model(plan),
            backend=plan.backend,
            options=plan.options,
            profile=record.profile,
            operators=record.graph.by_type if record.graph is not None else {},
            sweep=record.sweep,
            chosen=_chosen(plan.options),
            budget_s=budget_s,
            quick=quick,
            lower_precision=lower_precision,
            save=save,
            seed=plan.scenario.seeds.inputs,
            wait=plan.wait,
        )
        section = advise_with_database(request, database, predict_s=predict_s, keep=keep, on_progress=say)
    except StratoscopeError as error:
        missing = Unavailable(what="advice", why=str(error))
        return replace(outcome, record=record.model_copy(update={"unavailable": (*record.unavailable, missing)}))
    return replace(outcome, record=record.model_copy(update={"advice": section}))


def _chosen(options: BackendOptions) -> frozenset[str]:
    """The options that differ from their defaults: the user's own choice."""
    defaults = BackendOptions()
    return frozenset(name for name in BackendOptions.model_fields if getattr(options, name) != getattr(defaults, name))
