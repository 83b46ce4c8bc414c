"""Cold start: what the first answer of a fresh process costs, beside a steady inference."""

from __future__ import annotations

from stratoscope.report import format as fmt
from stratoscope.report.charts import Bar, bar_list, figure
from stratoscope.report.sections.base import Section, quantity
from stratoscope.spec.record import RunRecord


def section(record: RunRecord) -> Section | None:
    """One bar a phase, all on one scale; None where cold start was not measured."""
    cold = record.cold_start
    if cold is None:
        return None
    phases = (
        ("import the back end", cold.import_s, "c1"),
        ("load the model", cold.load_s, "c0"),
        ("first inference", cold.first_inference_s, "c2"),
        ("steady inference", cold.steady_s, "cx"),
    )
    longest = max((phase.value for _, phase, _ in phases if phase.value is not None), default=0.0) or 1.0
    bars = [
        Bar(name, (phase.value or 0.0) / longest, quantity(phase), f"{name}: {fmt.text(phase)}", colour)
        for name, phase, colour in phases
    ]
    note = "each measured in a fresh process; steady state for comparison"
    return Section("cold", "Cold start", figure("Time to the first answer", bar_list(bars), note=note, wide=True))
