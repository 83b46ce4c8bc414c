"""The verbs from Python: the same as on the command line, returning the record."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stratoscope.measure.execute import Outcome
    from stratoscope.spec.record import RunRecord


def run(
    model: Any,
    *,
    backend: str = "onnxruntime",
    scenario: Any = None,
    options: Any = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    sweep: bool = False,
    cold: bool = False,
    db: str | None = None,
    save: bool = False,
) -> RunRecord:
    """Measures `model` under one load scenario.

    Args:
        model: a zoo name, a path, `hf:ORG/NAME`, a manifest's path, or a `torch.nn.Module`.
        scenario: a `ScenarioManifest`, or the name of one ("single-stream", "server", ...); default: single stream.
        options: a `BackendOptions`; default: the back end's own.
        shapes: input name -> shape, for free dimensions.
        sweep: also measure batch sizes.
        cold: also measure the cold start.
        db: database URL or file for `save`; default: STRATOSCOPE_DB, or the user's own.
        save: keep the run in the results database.

    Raises:
        StratoscopeError: naming what is wrong, where, and the way out.
    """
    from stratoscope.measure.plan import Section

    sections = {Section.LOAD, Section.ACCURACY}
    sections |= {Section.SWEEP} if sweep else set()
    sections |= {Section.COLD_START} if cold else set()
    return _execute(model, backend, scenario, options, shapes, frozenset(sections), db, save).record


def diagnose(
    model: Any,
    *,
    backend: str = "onnxruntime",
    scenario: Any = None,
    options: Any = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    html: str | Path | None = None,
    db: str | None = None,
    save: bool = False,
) -> RunRecord:
    """The whole story of `model` on this machine; arguments as in `run`, and the file of the HTML page, if wanted."""
    from stratoscope.measure.plan import Section
    from stratoscope.report.html import write_report

    outcome = _execute(model, backend, scenario, options, shapes, frozenset(Section), db, save)
    if html is not None:
        write_report(outcome.record, Path(html), samples=outcome.samples, spans=outcome.spans)
    return outcome.record


def _execute(
    model: Any,
    backend: str,
    scenario: Any,
    options: Any,
    shapes: Mapping[str, tuple[int, ...]] | None,
    sections: frozenset[Any],
    db: str | None,
    save: bool,
) -> Outcome:
    from dataclasses import replace

    from stratoscope.measure.execute import execute
    from stratoscope.measure.plan import Plan
    from stratoscope.spec.options import BackendOptions
    from stratoscope.spec.scenario import ScenarioKind, ScenarioManifest

    if scenario is None or isinstance(scenario, str):
        scenario = ScenarioManifest(kind=ScenarioKind(scenario or ScenarioKind.SINGLE_STREAM))
    plan = Plan(
        model=model,
        backend=backend,
        options=options or BackendOptions(),
        scenario=scenario,
        shapes=shapes or {},
        sections=sections,
    )
    outcome = execute(plan)
    if save:
        from stratoscope.store.store import Store

        with Store.open(db) as store:
            outcome = replace(outcome, record=store.save(outcome.record, samples=outcome.samples, spans=outcome.spans))
    return outcome
