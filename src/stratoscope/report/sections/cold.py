"""Cold start: what the first answer of a fresh process costs, beside a steady inference."""

from __future__ import annotations

from stratoscope.report import format as fmt
from stratoscope.report.charts import Bar, bar_list, figure
from stratoscope.report.markup import Markup, join
from stratoscope.report.sections.base import Section, quantity
from stratoscope.spec.record import ColdStartSection, RunRecord


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
    body = figure("Time to the first answer", bar_list(bars), note=note, wide=True)
    return Section("cold", "Cold start", join([body, *_waterfalls(cold)]))


def _waterfalls(cold: ColdStartSection) -> list[Markup]:
    """One figure a state, all on one scale: an empty stretch before each bar is when its step began."""
    longest = max((state.total_s.value or 0.0 for state in cold.states), default=0.0) or 1.0
    figures = []
    for state in cold.states:
        bars = [
            Bar(
                ("\u2003" if step.inside else "") + step.name,
                (step.duration_s.value or 0.0) / longest,
                quantity(step.duration_s),
                f"{step.name}: {fmt.text(step.duration_s)}, from {fmt.text(step.start_s)}",
                "c1" if step.inside else "c0",
                (step.start_s.value or 0.0) / longest,
            )
            for step in state.steps
        ]
        note = (
            f"{state.meaning}; load and first run {fmt.text(state.load_and_first_s)}, "
            f"private memory {fmt.text(state.private_bytes)}"
        )
        figures.append(figure(state.state, bar_list(bars), note=note, wide=True))
    return figures
