"""`stratoscope profile MODEL`: where the time goes, from the model down to primitives, and what looking costs."""

from __future__ import annotations

from typing import Annotated

import typer

from stratoscope.cli.options import (
    BackendOption,
    BatchOption,
    DatabaseOption,
    HtmlOption,
    JsonOption,
    ModelArgument,
    SaveOption,
    SeedOption,
    ShapeOption,
    WaitOption,
    parse_shapes,
)
from stratoscope.cli.schema_options import schema_options
from stratoscope.measure.plan import Mode, ProfileLevel
from stratoscope.spec.options import BackendOptions


@schema_options(BackendOptions, "options", names={"providers": "--provider"}, panel="Back end")
def profile(
    model: ModelArgument,
    options: BackendOptions,
    backend: BackendOption = "onnxruntime",
    level: Annotated[ProfileLevel, typer.Option("--level", "-l", help="Deepest level to trace.")] = ProfileLevel.LAYER,
    mode: Annotated[Mode, typer.Option("--mode", help="What is profiled.")] = Mode.INFER,
    batch_size: BatchOption = None,
    shape: ShapeOption = None,
    repeats: Annotated[
        int | None,
        typer.Option("--repeats", min=1, help="Runs of each level; default: what the budget has room for."),
    ] = None,
    budget: Annotated[float, typer.Option("--budget", min=1, help="Seconds for the runs of all levels.")] = 20.0,
    new_tokens: Annotated[
        int | None,
        typer.Option("--new-tokens", min=1, help="Tokens of a generation (--mode generate); default: 32."),
    ] = None,
    seed: SeedOption = 0,
    json_file: JsonOption = None,
    html: HtmlOption = None,
    db: DatabaseOption = None,
    save: SaveOption = True,
    wait: WaitOption = True,
) -> None:
    """Say where the time of MODEL goes at every level of the stack, with the cost of looking.

    A level that the back end does not have is named with the reason. Each level's times come from the runs that were
    traced no deeper.
    """
    from stratoscope.cli.execute import Outputs, execute_and_show
    from stratoscope.errors import MeasurementError
    from stratoscope.measure.plan import Plan, Section
    from stratoscope.spec.scenario import ScenarioManifest

    if new_tokens is not None and mode is not Mode.GENERATE:
        raise MeasurementError("--new-tokens is of generation only", hint="add --mode generate")
    plan = Plan(
        model=model,
        backend=backend,
        options=options,
        scenario=ScenarioManifest().at(batch_size or 1, seed),
        batch_size=batch_size,
        shapes=parse_shapes(shape),
        sections=frozenset({Section.PROFILE}),
        profile_budget_s=budget,
        profile_level=level,
        profile_repeats=repeats,
        mode=mode,
        new_tokens=new_tokens,
        wait=wait,
    )
    execute_and_show(plan, Outputs(json_file, html, db, save))
