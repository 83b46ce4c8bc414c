"""What the sections share: a section, a quantity with its explanation, a verdict's badge, a table, operator colours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from stratoscope.explain.layers import by_type
from stratoscope.report.format import show
from stratoscope.report.markup import Child, Markup, element
from stratoscope.report.wording import Tone, Verdict
from stratoscope.spec.record import ProfileSection
from stratoscope.stats.quantity import Quantity

#: Operators that get a colour of their own; the others share a grey.
COLOURS: Final = 6
OTHER: Final = "cx"

_MARKS: Final[Mapping[Tone, str]] = {"good": "✓", "warn": "!", "bad": "✗", "unknown": "·"}


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page with an anchor."""

    anchor: str
    title: str
    body: Markup

    def render(self) -> Markup:
        """The section with its heading."""
        heading = element("h2", self.title, id=f"{self.anchor}-title")
        return element("section", heading, self.body, id=self.anchor, aria_labelledby=f"{self.anchor}-title")


def quantity(value: Quantity, *, percent: bool = False, class_: str = "q") -> Markup:
    """A quantity as markup: value, interval in a lighter tone, and the full description as its tip."""
    shown = show(value, percent=percent)
    missing = "" if shown.status == "ok" else f" {shown.status}"
    spread = element("span", f" {shown.spread}", class_="spread") if shown.spread else None
    return element("span", shown.value, spread, class_=class_ + missing, title=shown.detail)


def badge(verdict: Verdict) -> Markup:
    """The word of a verdict in its colour, with a sign for those who do not see colours."""
    return element(
        "span", f"{_MARKS[verdict.tone]} {verdict.word}", class_=f"badge {verdict.tone}", title=verdict.reason
    )


def mark(tone: Tone) -> Markup:
    """The sign of a tone, as a list's bullet."""
    return element("span", _MARKS[tone], class_=f"mark {tone}", aria_hidden="true")


def table(head: Sequence[str], rows: Iterable[Sequence[Child]], *, caption: str, numbers: Sequence[int] = ()) -> Markup:
    """A small table in its own scroll container, without a head if that is empty; `numbers` are aligned right."""

    def cells(tag: str, values: Sequence[Child]) -> Markup:
        built = [
            element(tag, value, class_="n" if index in numbers else None, scope="col" if tag == "th" else None)
            for index, value in enumerate(values)
        ]
        return element("tr", built)

    return element(
        "div",
        element(
            "table",
            element("caption", caption),
            element("thead", cells("th", head)) if head else None,
            element("tbody", [cells("td", row) for row in rows]),
        ),
        class_="scroll",
        tabindex="0",
        role="region",
        aria_label=caption,
    )


def prose(*children: Child, class_: str | None = None) -> Markup:
    """A paragraph."""
    return element("p", *children, class_=class_)


def operator_colours(profile: ProfileSection) -> dict[str, str]:
    """Colour class of each operator: the most time-consuming have their own, on every chart the same."""
    groups = by_type(profile)
    return {group.op: f"c{index}" if index < COLOURS else OTHER for index, group in enumerate(groups)}


def operator_legend(profile: ProfileSection) -> list[tuple[str, str]]:
    """(colour class, operator) for the legend, the greys as one."""
    colours = operator_colours(profile)
    own = [(colour, op) for op, colour in colours.items() if colour != OTHER]
    others = len(colours) - len(own)
    return [*own, (OTHER, "other operators" if others > 1 else "other operator")] if others else own
