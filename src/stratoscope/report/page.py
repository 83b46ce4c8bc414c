"""The frame of every page: one HTML file that needs nothing else: no network, no other file, no font, no library."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from string import Template
from typing import Final

from stratoscope.report.markup import Child, Markup, element, join, script_data
from stratoscope.report.sections.base import Section

#: Nothing is fetched; styles and the empty icon are inline; the only script that runs is the page's own, by its hash.
_POLICY: Final = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
    "base-uri 'none'; form-action 'none'"
)


def page(*, title: str, hero: Markup, sections: Sequence[Section | None], footer: Child, data: str) -> str:
    """The page as HTML text; sections that are None are left out.

    It forbids itself all connections and every script but its own by a content security policy, so a name in a model
    or a trace cannot do anything even if it were not escaped.

    Args:
        title: what is shown, for the window's title.
        data: the numbers as JSON, which the page offers as a file.
    """
    present = [section for section in sections if section is not None]
    script = _asset("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    links = [element("a", section.title, href=f"#{section.anchor}") for section in present]
    return Template(_asset("page.html")).substitute(
        policy=_POLICY.format(digest=digest),
        title=join(f"{title} — Stratoscope"),
        style=_asset("page.css"),
        hero=hero,
        navigation=join(links),
        sections=join([section.render() for section in present]),
        footer=join(footer),
        record=script_data(data),
        script=script,
    )


def _asset(name: str) -> str:
    """A file of the page's templates, which are data of the package."""
    return (files("stratoscope.report") / "templates" / name).read_text(encoding="utf-8")
