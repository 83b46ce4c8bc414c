"""A deep profile on a terminal: what each level costs, reorders, and the tree from the model down to primitives."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stratoscope.explain.profile_tree import Node, profile_tree
from stratoscope.report import format as fmt
from stratoscope.spec.profile import GenerationSection, Reorders, TrainingSection
from stratoscope.spec.record import ProfileSection, RunRecord
from stratoscope.stats.quantity import Quantity

_LEAST_SHARE = 0.002
_STYLES = {"model": "bold", "layer": "", "operator": "cyan", "primitive": "green", "rest": "dim"}


def render_profile(record: RunRecord, console: Console, *, top: int = 10) -> None:
    """Prints what a record holds below the layer, of training and of generation; nothing where it holds none."""
    blocks: list[Table | Text] = []
    profile = record.profile
    if profile is not None and profile.levels:
        blocks.append(_levels(profile))
        if profile.reorders is not None:
            blocks.append(_reorders(profile.reorders))
        if profile.operators or profile.primitives:
            blocks.append(_tree(profile, record.model.id, top, console.width))
    if record.training is not None:
        blocks.append(_training(record.training))
    if record.generation is not None:
        blocks.append(_generation(record.generation))
    for block in blocks:
        console.print(block)
        console.print()


def _levels(profile: ProfileSection) -> Table:
    together = {one.level: one for one in profile.reconstructions}
    notes = [] if profile.control is None else [f"unprofiled against unprofiled: {fmt.text(profile.control)}"]
    if any(one.agrees for one in together.values()):
        notes.append("✓: less the cost of its spans, a profiled inference takes what an unprofiled one does")
    notes += [
        f"✗: down to the {one.level} it differs by {fmt.text(one.difference)}"
        for one in together.values()
        if one.agrees is False and one.difference is not None
    ]
    table = _table("Cost of looking", "\n".join(notes))
    for name in ("down to", "spans", "inference", "added", *(["less its spans"] if together else [])):
        table.add_column(name, justify="left" if name == "down to" else "right", no_wrap=True)
    table.add_row("model", "1", _bare(profile.model_time))
    for level in profile.levels:
        found = together.get(level.level)
        mark = {True: " ✓", False: " ✗", None: ""}[found.agrees if found else None]
        table.add_row(
            level.level,
            fmt.count(round(level.spans + 1)),
            _bare(level.model_time),
            f"{fmt.text(level.total)}{' (noise)' if level.below_noise else ''}",
            *([] if not together else [""] if found is None else [_bare(found.time) + mark]),
        )
    return table


def _bare(time: Quantity | None) -> str:
    """A time without its interval, which the page and the record have."""
    if time is None:
        return ""
    return fmt.UNAVAILABLE if time.value is None else fmt.bare(time.value, time.unit)


def _reorders(reorders: Reorders) -> Text:
    line = Text("Weight reorders ", style="bold")
    line.append(
        f"{fmt.text(reorders.weights)} an inference, {fmt.share(reorders.weights_share)} of it, "
        f"in {reorders.weights_count:g} calls: constants that are repacked every time; other reorders "
        f"{fmt.text(reorders.activations)} in {reorders.activations_count:g} calls.",
        style="not bold",
    )
    return line


def _tree(profile: ProfileSection, name: str, top: int, width: int) -> Table:
    root = profile_tree(profile, name, top=top, least_share=_LEAST_SHARE)
    table = _table(
        "Model > layer > operator > primitive",
        "times of a level from the runs traced no deeper; own: without what is inside at the same level",
    )
    table.add_column("", no_wrap=True, max_width=max(24, width - 34), overflow="ellipsis")
    for heading in ("time", "own", "share"):
        table.add_column(heading, justify="right", no_wrap=True)
    for prefix, node in _lines(root, ""):
        label = Text(prefix, style="dim")
        label.append(_clean(node.name), style="bold yellow" if node.reorder else _STYLES[node.level])
        if node.detail:
            label.append(f"  {_clean(node.detail)}", style="dim")
        table.add_row(
            label,
            _bare(node.time),
            "" if node.level == "primitive" else _bare(node.self_time),
            fmt.share(node.share),
        )
    return table


def _lines(node: Node, indent: str) -> Iterator[tuple[str, Node]]:
    """The nodes in depth-first order with the branches drawn before them; `indent` belongs to the children."""
    yield indent, node
    stem = indent.replace("├", "│").replace("└", " ")
    for place, child in enumerate(node.children):
        last = place == len(node.children) - 1
        yield from _lines(child, f"{stem}{'└ ' if last else '├ '}")


def _training(section: TrainingSection) -> Table:
    table = _table(
        f"Training, {section.batch_size} samples a step",
        f"{section.optimizer}, {section.loss}; peak memory counts from before the model was loaded",
    )
    for name in ("", "time", "share"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    table.add_row("step", fmt.text(section.step_time), "")
    for phase in section.phases:
        table.add_row(f"  {phase.name}", fmt.text(phase.time), fmt.share(phase.share))
    table.add_row("samples a second", fmt.text(section.samples_per_s), "")
    table.add_row("peak memory", fmt.text(section.peak_memory), "")
    return table


def _generation(section: GenerationSection) -> Table:
    table = _table(f"Generation: {section.prompt_tokens} tokens of prompt, {section.new_tokens} new", section.note)
    table.add_column("")
    table.add_column("", justify="right")
    for name, value in (
        ("time to first token", section.ttft),
        ("time per output token", section.tpot),
        ("tokens a second", section.tokens_per_s),
        ("tokens a second, decode only", section.decode_tokens_per_s),
        ("key-value cache", section.cache_bytes),
        ("key-value cache a token", section.cache_bytes_per_token),
    ):
        table.add_row(name, fmt.text(value))
    return table


def _table(title: str, caption: str) -> Table:
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        caption=caption or None,
        caption_justify="left",
        caption_style="dim",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
        header_style="dim",
    )


def _clean(name: str) -> str:
    """A name without control characters, which could rewrite the terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
