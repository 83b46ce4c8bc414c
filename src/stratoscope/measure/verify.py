"""Runs a reference log again and compares: reproduced or not, and which aspect differs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from stratoscope.errors import SpecError
from stratoscope.measure.execute import Outcome, execute
from stratoscope.measure.plan import Plan, Section
from stratoscope.spec.options import BackendOptions
from stratoscope.spec.reference import ReferenceLog, Verdict, compare_to_reference
from stratoscope.spec.yamlio import load_as

#: First part of a metric's name -> the section of the record that holds it.
_SECTION_OF = {
    "latency": Section.LOAD,
    "throughput": Section.LOAD,
    "cold_start": Section.COLD_START,
    "accuracy": Section.ACCURACY,
    "sweep": Section.SWEEP,
    "profile": Section.PROFILE,
}


def verify(path: Path, *, on_progress: Callable[[str, float | None], None] | None = None) -> tuple[Verdict, Outcome]:
    """Measures what the reference log at `path` promises, under its scenario and options, and judges it.

    Raises:
        SpecError: the log does not validate, or asks for options that this version does not know.
        ModelError: its model is not to be had here, or is another one (by digest).
    """
    reference = load_as(ReferenceLog, path)
    outcome = execute(plan_of(reference, path.parent), on_progress=on_progress)
    verdict = compare_to_reference(reference, outcome.record, outputs_sha256=outcome.record.outputs_sha256)
    return verdict, outcome


def plan_of(reference: ReferenceLog, folder: Path) -> Plan:
    """The run that a reference log describes; its model's file is looked for in `folder` where its path is relative."""
    try:
        options = BackendOptions(**reference.backend.requested)
    except ValidationError as error:
        first = error.errors()[0]
        raise SpecError(
            f"reference log {reference.id!r}: backend.requested.{first['loc'][0]}: {first['msg']}"
        ) from None
    return Plan(
        model=reference.model,
        model_folder=folder,
        backend=reference.backend.name,
        options=options,
        scenario=reference.scenario,
        sections=sections_of(reference),
        command=f"stratoscope spec verify {reference.id}",
    )


def sections_of(reference: ReferenceLog) -> frozenset[Section]:
    """The sections that hold the log's metrics ("latency.p90", "cold_start.load_s", ...) and its outputs."""
    heads = {name.split(".")[0] for name in reference.metrics}
    sections = {section for head, section in _SECTION_OF.items() if head in heads}
    if reference.outputs_sha256 is not None:
        sections.add(Section.LOAD)
    return frozenset(sections)
