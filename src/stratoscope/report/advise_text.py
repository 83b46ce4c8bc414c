"""Advice on a terminal: what was found, what it was predicted to give and what it gave, the largest gain first."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from stratoscope.explain.advice.calibration import Calibration
from stratoscope.report import format as fmt
from stratoscope.report.terminal import clean, plain_table
from stratoscope.spec.advice import Advice, AdviceSection, Trial
from stratoscope.stats.quantity import Quantity

_STYLES = {"faster": "green", "no gain": "dim", "unsure": "yellow", "wrong": "bold red", "failed": "yellow"}
#: Pieces of advice that did not help are named in one line each, at most so many.
_MOST_WITHOUT_GAIN = 12
_LAYERS = 8
_LAYER_WIDTH = 30
_LONGEST_BAR = 24
UNKNOWN = "unknown"


def render_advice(section: AdviceSection, console: Console) -> None:
    """Prints the advice; readable at 80 columns, without colour and in a pipe."""
    for block in _blocks(section):
        console.print(block)
        console.print()


def _blocks(section: AdviceSection) -> Iterator[RenderableType]:
    yield _title(section)
    if section.bounds:
        yield _bounds(section)
        if section.gap:
            yield _gap(section)
        yield _headroom(section)
    worth = [one for one in section.advice if one.trial is None or one.trial.status == "faster"]
    if worth:
        yield Group(*(_advice(place, one) for place, one in enumerate(worth, start=1)))
    else:
        yield Text("Nothing that was tried made it faster.", style="bold")
    if section.together is not None:
        yield _together(section.together)
    rest = [one for one in section.advice if one not in worth]
    if rest:
        yield _without_gain(rest)
    notes = [*section.notes, *([f"rewritten model: {section.saved}"] if section.saved else [])]
    if section.quiet is False:
        notes.append(f"the machine was not quiet: {section.noise}")
    if notes:
        yield Text("\n".join(clean(note) for note in notes), style="dim")


def _title(section: AdviceSection) -> Text:
    line = Text("Advice", style="bold")
    threads = fmt.count(section.threads, "thread")
    line.append(f"  {section.backend}, {threads}, inference {fmt.text(section.measured)}", style="not bold dim")
    return line


def _bounds(section: AdviceSection) -> Table:
    table = plain_table("How fast it could be", f"roofs: {section.roofs}")
    for name in ("bound", "time", "of measured", "coverage"):
        table.add_column(name, justify="left" if name == "bound" else "right")
    for bound in section.bounds:
        ratio = UNKNOWN if bound.ratio.value is None else fmt.bare(bound.ratio.value, "1")
        table.add_row(bound.title, fmt.text(bound.time), ratio, fmt.share(bound.coverage))
    return table


def _gap(section: AdviceSection) -> Table:
    """The waterfall from the measured time to the sequential library bound."""
    table = plain_table("From the measured time to the best library calls, one after the other")
    table.add_column("what goes")
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    whole = section.measured.value or 0.0
    for item in section.gap:
        seconds = item.seconds.value or 0.0
        bar = "█" * round(_LONGEST_BAR * max(0.0, seconds) / whole) if whole else ""
        table.add_row(clean(item.title), fmt.bare(seconds, "s"), Text(bar, style="cyan"))
    return table


def _headroom(section: AdviceSection) -> Table:
    rows = sorted(section.layers, key=lambda one: (one.bound.value or 0.0) - (one.measured.value or 0.0))[:_LAYERS]
    table = plain_table(f"Layers with the most head-room, {len(rows)} of {fmt.count(len(section.layers))}")
    for name in ("layer", "now", "best call", "roofline", "by"):
        table.add_column(name, justify="left" if name in ("layer", "by") else "right", no_wrap=name != "layer")
    for row in rows:
        best = fmt.UNJUSTIFIED if row.best.value is None else fmt.bare(row.best.value, "s")
        roof = fmt.UNJUSTIFIED if row.roofline.value is None else fmt.bare(row.roofline.value, "s")
        now = fmt.UNJUSTIFIED if row.measured.value is None else fmt.bare(row.measured.value, "s")
        label = f"{clean(row.op)} {clean(row.authored[0] if row.authored else row.name)}"
        table.add_row(_cut(label, _LAYER_WIDTH), now, best, roof, clean(row.best_candidate or row.limited_by or ""))
    return table


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _advice(place: int, advice: Advice) -> RenderableType:
    head = Text(f"{place}. ", style="bold")
    head.append(advice.title, style="bold")
    head.append(f"  [{advice.question}]", style="not bold dim")
    lines = Text()
    lines.append(clean(advice.claim))
    lines.append("\n")
    if advice.predicted.value is not None:
        lines.append("predicted ", style="dim")
        lines.append(f"{gain(advice.predicted)}, ")
    if advice.trial is not None:
        lines.append("achieved ", style="dim")
    lines.append_text(achieved(advice))
    lines.append(f"\n{clean(advice.action)}", style="cyan")
    return Group(head, Padding(lines, (0, 0, 0, 3)))


def _together(advice: Advice) -> RenderableType:
    line = Text("All of it at once: ", style="bold")
    line.append_text(achieved(advice))
    line.append(f"  (the product of the gains is {gain(advice.predicted)}; {clean(advice.claim)})", style="dim")
    return line


def _without_gain(rest: list[Advice]) -> Table:
    table = plain_table("Tried without a sure gain")
    for name in ("what", "predicted", "achieved"):
        table.add_column(name, justify="left" if name == "what" else "right")
    for advice in rest[:_MOST_WITHOUT_GAIN]:
        table.add_row(advice.title, gain(advice.predicted), achieved(advice, brief=True))
    return table


def render_calibration(found: Calibration, console: Console) -> None:
    """Prints predicted against achieved speed-ups, and how good the predictions are together."""
    table = plain_table("Advice that was predicted and tried")
    for name in ("model", "back end", "advice", "predicted", "achieved", "of the gain"):
        table.add_column(name, justify="left" if name in ("model", "back end", "advice") else "right")
    for one in found.tried:
        realised = fmt.UNJUSTIFIED if one.realised is None else fmt.share(one.realised)
        figures = (f"{fmt.bare(one.predicted, '1')}x", f"{fmt.bare(one.achieved, '1')}x", realised)
        table.add_row(clean(one.model), one.backend, one.key, *figures)
    console.print(table)
    for name, quantity in (
        ("part of the predicted gain that was achieved", found.realised),
        ("difference between achieved and predicted speed-up", found.error),
        ("achieved over predicted speed-up", found.bias),
    ):
        percent = quantity is not found.bias
        label = fmt.statistic_label(quantity.statistic)
        console.print(f"{label} of {name}: {fmt.text(quantity, percent=percent)}", highlight=False)


def gain(speedup: Quantity) -> str:
    """A speed-up as people write it: "1.84x ± 0.05"; a dash where there is none."""
    if speedup.value is None:
        return "—"
    shown = fmt.show(speedup)
    return f"{shown.value}x {shown.spread}".rstrip()


def achieved(advice: Advice, *, brief: bool = False) -> Text:
    """What following the advice gave, with how far the outputs differ."""
    trial = advice.trial
    if trial is None:
        return Text(f"not tried ({advice.not_tried})", style="dim")
    if trial.speedup.value is None:
        return Text(
            trial.status if brief else f"{trial.status}: {clean(trial.reason or '')}", style=_STYLES[trial.status]
        )
    line = Text(gain(trial.speedup), style=_STYLES[trial.status])
    if trial.status == "unsure":
        line.append(" (unsure)" if brief else f"  unsure: {clean(trial.reason or '')}", style="dim")
    if not brief:
        line.append(f"  ({_equality(trial)})", style="dim")
    return line


def _equality(trial: Trial) -> str:
    if trial.max_error is None:
        return "outputs not compared"
    words = f"outputs within {trial.max_error:.1g} of the original's, {trial.tolerance:.0e} allowed"
    if trial.accuracy is not None and trial.accuracy_before is not None:
        before, after = fmt.text(trial.accuracy_before, percent=True), fmt.text(trial.accuracy, percent=True)
        words += f"; top-1 {before} before, {after} after"
    return words
