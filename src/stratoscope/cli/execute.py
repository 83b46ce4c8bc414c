"""Runs a plan with progress on the terminal, keeps the record and shows it: what `run` and `diagnose` share."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from stratoscope.cli.errors import EXIT_INTERRUPTED
from stratoscope.cli.progress import Report, progress

if TYPE_CHECKING:
    from stratoscope.measure.execute import Outcome
    from stratoscope.measure.plan import Plan

#: Adds to what was measured, under the same progress bar.
Then = Callable[["Outcome", "Plan", Report], "Outcome"]


@dataclass(frozen=True, slots=True)
class Outputs:
    """Where a run goes besides the terminal."""

    json_file: Path | None
    html: Path | None
    database: str | None
    save: bool


def execute_and_show(plan: Plan, outputs: Outputs, *, then: Then | None = None, brief: bool = False) -> None:
    """Measures, stores, prints; exits with 130 where Ctrl-C cut the run short (what was measured is kept).

    Args:
        then: what adds to the outcome before it is kept (advice).
        brief: print the headline and what `then` added, without the tables of the profile.
    """
    from stratoscope.measure.execute import execute

    _refuse_unwritable(outputs)
    plan = replace(plan, command=plan.command or _command_line())
    with progress(str(plan.model)) as report:
        outcome = execute(plan, on_progress=report)
        if then is not None:
            outcome = then(outcome, plan, report)
    outcome = keep(outcome, outputs)
    _show(outcome, outputs, brief=brief)
    if outcome.record.status == "interrupted":
        raise typer.Exit(EXIT_INTERRUPTED)


def _command_line() -> str:
    return shlex.join(["stratoscope", *sys.argv[1:]])


def _refuse_unwritable(outputs: Outputs) -> None:
    """Fails before the measurement where a file or the database could not be written after it."""
    from stratoscope.report.files import check_writable

    for path in (outputs.html, outputs.json_file):
        if path is not None and str(path) != "-":
            check_writable(path)
    if outputs.save:
        from stratoscope.store.store import Store

        Store.open(outputs.database).close()


def keep(outcome: Outcome, outputs: Outputs) -> Outcome:
    """Saves the run where that is wanted; returns it with the names of its artefacts."""
    if not outputs.save:
        return outcome
    from stratoscope.store.store import save_run

    record = save_run(outputs.database, outcome.record, outcome.samples, outcome.spans)
    return replace(outcome, record=record)


def _show(outcome: Outcome, outputs: Outputs, *, brief: bool) -> None:
    from rich.console import Console

    from stratoscope.report.advise_text import render_advice
    from stratoscope.report.cold_text import render_cold
    from stratoscope.report.files import write_json
    from stratoscope.report.html import write_report
    from stratoscope.report.profile_text import render_profile
    from stratoscope.report.terminal import render_record

    to_stdout = outputs.json_file is not None and str(outputs.json_file) == "-"
    console = Console(stderr=to_stdout)
    render_record(outcome.record, console, brief=brief)
    render_cold(outcome.record.cold_start, console)
    if not brief:
        render_profile(outcome.record, console)
    if outcome.record.advice is not None:
        render_advice(outcome.record.advice, console)
    if outputs.json_file is not None:
        write_json(outcome.record, outputs.json_file)
        if not to_stdout:
            console.print(f"record  {outputs.json_file}", highlight=False, markup=False)
    if outputs.html is not None:
        page = write_report(outcome.record, outputs.html, samples=outcome.samples, spans=outcome.spans)
        console.print(f"report  {page}", highlight=False, markup=False)
    if outputs.save:
        console.print(f"run     {outcome.record.id}   (stratoscope results show {outcome.record.id})", highlight=False)
