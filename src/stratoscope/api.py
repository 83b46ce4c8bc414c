"""The verbs from Python: the same as on the command line, returning the record."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stratoscope.measure.execute import Outcome
    from stratoscope.measure.plan import Plan
    from stratoscope.spec.options import BackendOptions
    from stratoscope.spec.record import RunRecord
    from stratoscope.spec.scenario import ScenarioManifest


def run(
    model: Any,
    *,
    example_inputs: Any = None,
    backend: str = "onnxruntime",
    scenario: ScenarioManifest | str = "single-stream",
    options: BackendOptions | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    sweep: bool = False,
    cold: bool = False,
    db: str | None = None,
    save: bool = False,
) -> RunRecord:
    """Measures `model` under one load scenario.

    Args:
        model: a zoo name, a path, `hf:ORG/NAME`, a manifest's path, or a `torch.nn.Module`.
        example_inputs: for a module: its inputs, batch first (a tensor, a tuple of them, a mapping by argument name).
        scenario: a `ScenarioManifest`, or the name of one ("single-stream", "server", ...) with its defaults.
        options: of the back end; default: its own.
        shapes: input name -> shape, for free dimensions.
        sweep: also measure batch sizes.
        cold: also measure the cold start.
        db: database URL or file for `save`; default: STRATOSCOPE_DB, or the user's own.
        save: keep the run in the results database.

    Raises:
        StratoscopeError: naming what is wrong, where, and the way out.
    """
    from stratoscope.measure.plan import Plan, Section

    wanted = {Section.LOAD: True, Section.ACCURACY: True, Section.SWEEP: sweep, Section.COLD_START: cold}
    plan = Plan(
        model=model,
        example_inputs=example_inputs,
        backend=backend,
        scenario=_scenario(scenario),
        shapes=shapes or {},
        sections=frozenset(section for section, asked in wanted.items() if asked),
    )
    return _execute(plan, options, db, save).record


def diagnose(
    model: Any,
    *,
    example_inputs: Any = None,
    backend: str = "onnxruntime",
    scenario: ScenarioManifest | str = "single-stream",
    options: BackendOptions | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    html: str | Path | None = None,
    db: str | None = None,
    save: bool = False,
) -> RunRecord:
    """The whole story of `model` on this machine; arguments as in `run`, and the file of the HTML page, if wanted."""
    from stratoscope.measure.plan import Plan
    from stratoscope.report.html import write_report

    plan = Plan(
        model=model,
        example_inputs=example_inputs,
        backend=backend,
        scenario=_scenario(scenario),
        shapes=shapes or {},
    )
    outcome = _execute(plan, options, db, save)
    if html is not None:
        write_report(outcome.record, Path(html), samples=outcome.samples, spans=outcome.spans)
    return outcome.record


def _scenario(scenario: ScenarioManifest | str) -> ScenarioManifest:
    """A scenario by name, with its defaults; raises SpecError for an unknown one."""
    from stratoscope.errors import SpecError
    from stratoscope.spec.scenario import ScenarioKind, ScenarioManifest

    if isinstance(scenario, ScenarioManifest):
        return scenario
    known = [kind.value for kind in ScenarioKind]
    if scenario not in known:
        raise SpecError(f"no scenario {scenario!r}", hint=f"one of {', '.join(known)}")
    return ScenarioManifest(kind=ScenarioKind(scenario))


def _execute(plan: Plan, options: BackendOptions | None, db: str | None, save: bool) -> Outcome:
    from dataclasses import replace

    from stratoscope.measure.execute import execute

    outcome = execute(plan if options is None else replace(plan, options=options))
    if not save:
        return outcome
    from stratoscope.store.store import save_run

    return replace(outcome, record=save_run(db, outcome.record, outcome.samples, outcome.spans))
