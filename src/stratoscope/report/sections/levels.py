"""The levels below the layer: what each costs, what reorders cost, and the tree from the model down to primitives."""

from __future__ import annotations

from stratoscope.explain.profile_tree import Node, profile_tree
from stratoscope.report import format as fmt
from stratoscope.report.markup import Child, Markup, element, join
from stratoscope.report.sections.base import Section, prose, quantity, table
from stratoscope.spec.profile import Reorders
from stratoscope.spec.record import ProfileSection, RunRecord

#: Operators and primitives below this share of the model time are summed up.
_LEAST_SHARE = 0.0005


def section(record: RunRecord) -> Section | None:
    """None where only layers were profiled."""
    profile = record.profile
    if profile is None or not profile.levels:
        return None
    parts: list[Markup | None] = [_costs(profile)]
    if profile.reorders is not None:
        parts.append(_reorders(profile.reorders))
    if profile.operators or profile.primitives:
        note = (
            "Times of a level come from the runs that were traced no deeper; those below it are inflated by their own "
            "tracing. Own time is without what is inside at the same level."
        )
        parts += [element("h3", "Model, layers, operators, primitives"), prose(note), _tree(profile, record.model.id)]
    return Section("levels", "Below the layers", element("div", parts))


def _costs(profile: ProfileSection) -> Markup:
    together = {one.level: one for one in profile.reconstructions}
    rows: list[list[Child]] = [["model", "1", quantity(profile.model_time), *[None] * (4 if together else 2)]]
    for level in profile.levels:
        found = together.get(level.level)
        put_together: list[Child] = [None, None] if together else []
        if found is not None:
            mark = {True: " ✓", False: " ✗", None: ""}[found.agrees]
            off = None if found.difference is None else quantity(found.difference)
            put_together = [join(quantity(found.time), mark), off]
        total = join(quantity(level.total), " (below the noise)" if level.below_noise else "")
        cells: list[Child] = [
            level.level,
            fmt.count(round(level.spans + 1)),
            quantity(level.model_time),
            quantity(level.added),
            total,
            *put_together,
        ]
        rows.append(cells)
    head = ["traced down to", "spans", "inference", "added by the level", "in all"]
    head += ["latency put together", "off by"] if together else []
    control = "" if profile.control is None else f" Unprofiled against unprofiled: {fmt.text(profile.control)}."
    caption = "Cost of looking."
    return table(head, rows, caption=caption + control, numbers=tuple(range(1, len(head))))


def _reorders(reorders: Reorders) -> Markup:
    return prose(
        element("strong", "Weight reorders: "),
        quantity(reorders.weights),
        f" an inference ({fmt.share(reorders.weights_share)} of it) in {reorders.weights_count:g} calls: constants "
        "that are repacked at every call. Other reorders: ",
        quantity(reorders.activations),
        f" in {reorders.activations_count:g} calls.",
    )


def _tree(profile: ProfileSection, name: str) -> Markup:
    root = profile_tree(profile, name, least_share=_LEAST_SHARE)
    return element("div", _node(root, opened=True), class_="tree")


def _node(node: Node, *, opened: bool = False) -> Markup:
    label = join(
        element("strong" if node.reorder or node.level == "model" else "span", node.name),
        element("small", f" {node.detail}") if node.detail else None,
        " ",
        quantity(node.time) if node.time is not None else None,
        f" · {fmt.share(node.share)}",
        join(" · own ", quantity(node.self_time))
        if node.self_time is not None and node.level == "operator" and node.children
        else None,
    )
    if not node.children:
        return element("div", label, style="margin-left:1.2em")
    inner = [_node(child) for child in node.children]
    return element("details", element("summary", label), *inner, open=opened, style="margin-left:1.2em")
