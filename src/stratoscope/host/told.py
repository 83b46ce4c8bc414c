"""Keeps, while a manifest is captured, why each field that the machine does not tell is absent."""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")


class Told:
    """Collects reasons by field path; `reasons` goes into the manifest's `unavailable`."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    def value(self, path: str, value: T | None, why_not: str) -> T | None:
        """`value` itself; where it is None, `why_not` is noted for the field at `path`."""
        if value is None:
            self.reasons[path] = why_not
        return value
