"""Builds HTML and SVG from values: every text is escaped unless it was built here, and every tag is closed."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Final

Child = str | None | Iterable["str | None"]

_VOID: Final = frozenset({"br", "hr", "img", "input", "meta", "link"})


class Markup(str):
    """Text that is markup already; only `element` and `join` make it."""

    __slots__ = ()


def element(tag: str, /, *children: Child, **attributes: str | float | bool | None) -> Markup:
    """`<tag ...>children</tag>`. Plain strings are escaped, `Markup` is kept; None leaves a child or attribute out.

    Attribute names are written with `_` for `-` (and a trailing `_` for Python keywords: `class_`); True gives an
    attribute without a value. Attribute values are always escaped.
    """
    parts = [f"<{tag}"]
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        key = name.rstrip("_").replace("_", "-")
        parts.append(f" {key}" if value is True else f' {key}="{html.escape(_attribute(value), quote=True)}"')
    parts.append(">")
    if tag in _VOID:
        return Markup("".join(parts))
    return Markup("".join(parts) + join(*children) + f"</{tag}>")


def join(*children: Child) -> Markup:
    """The children one after another, escaped where they are plain text."""
    parts: list[str] = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, Markup):
            parts.append(child)
        elif isinstance(child, str):
            parts.append(html.escape(child, quote=False))
        else:
            parts.extend(join(inner) for inner in child)
    return Markup("".join(parts))


def script_data(text: str) -> Markup:
    """JSON made safe inside `<script type="application/json">`: no `<`, so neither `</script>` nor `<!--` can occur."""
    safe = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return Markup(safe.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def _attribute(value: str | float) -> str:
    """Numbers as SVG wants them: no exponent, at most four decimals (a hundredth of a pixel at any width)."""
    if isinstance(value, str):
        return value
    return f"{value:.4f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
