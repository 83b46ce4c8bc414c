"""Cold starts on the terminal: for each state a waterfall, in which every step begins where it began."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from stratoscope.report import format as fmt
from stratoscope.spec.record import ColdStartSection, ColdState, ColdStep

_BAR_WIDTH = 36


def render_cold(section: ColdStartSection | None, console: Console) -> None:
    """Prints a comparison of the states and their waterfalls on one scale; nothing where no states were made."""
    if section is None or not section.states:
        return
    console.print(_comparison(section))
    longest = max(state.total_s.value or 0.0 for state in section.states)
    for state in section.states:
        if state.steps:
            console.print()
            console.print(_waterfall(state, longest))
    console.print()


def _comparison(section: ColdStartSection) -> Table:
    table = Table(title="Load and first run", title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("state", no_wrap=True)
    for name in ("load + first run", "private memory", "weights in"):
        table.add_column(name, justify="right", no_wrap=True)
    for state in section.states:
        figures = (fmt.text(state.load_and_first_s), fmt.show(state.private_bytes).value, state.tier)
        table.add_row(state.state, *figures)
    return table


def _waterfall(state: ColdState, longest: float) -> Table:
    table = Table(
        title=f"{state.state}: {state.meaning}", title_justify="left", title_style="bold", box=None, pad_edge=False
    )
    table.add_column("step", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, width=_BAR_WIDTH)
    for step in state.steps:
        indent = "  " if step.inside else ""
        table.add_row(f"{indent}{step.name}", fmt.show(step.duration_s).value, _bar(step, longest))
    return table


def _bar(step: ColdStep, longest: float) -> Text:
    scale = _BAR_WIDTH / (longest or 1.0)
    begin = min(round((step.start_s.value or 0.0) * scale), _BAR_WIDTH - 1)
    length = max(1, round((step.duration_s.value or 0.0) * scale))
    return Text(" " * begin + ("▒" if step.inside else "█") * min(length, _BAR_WIDTH - begin))
