"""Keeps account of which fields of a foreign document were read, so that the others can be named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from stratoscope.errors import SpecError


class Dropped(NamedTuple):
    """A field of the source that was not taken over, by its path, and why."""

    field: str
    reason: str


class Fields:
    """A mapping of plain data whose fields are taken one by one; `finish` names what nobody took.

    All scalars are text, as they were written.
    """

    def __init__(self, data: Mapping[str, Any], path: str = "") -> None:
        self._data = data
        self._path = path
        self._taken: set[str] = set()
        self._children: dict[str, Fields] = {}
        self._dropped: list[Dropped] = []

    def names(self) -> list[str]:
        """Names of all fields, taken or not."""
        return list(self._data)

    def where(self, name: str) -> str:
        """The path of a field."""
        return f"{self._path}.{name}" if self._path else name

    def peek(self, name: str) -> Any:
        """A field's value, without taking it."""
        return self._data.get(name)

    def take(self, name: str) -> Any:
        """A field's value; None where it is absent."""
        self._taken.add(name)
        return self._data.get(name)

    def text(self, name: str) -> str | None:
        """A scalar field as stripped text; None where it is absent, empty, or no scalar (then it stays untaken)."""
        value = self._data.get(name)
        if isinstance(value, Mapping | list):
            return None
        return str(self.take(name)).strip() or None if value is not None else None

    def texts(self, name: str) -> list[str]:
        """A field as a list of texts: one scalar counts as a list of one."""
        value = self.take(name)
        values = value if isinstance(value, list) else [] if value is None else [value]
        return [str(part).strip() for part in values if not isinstance(part, Mapping | list) and str(part).strip()]

    def numbers(self, name: str) -> list[float]:
        """A field as numbers.

        Raises:
            SpecError: one of them is no number.
        """
        texts = self.texts(name)
        try:
            return [float(text) for text in texts]
        except ValueError as error:
            raise SpecError(f"{self.where(name)} must be numbers, not {', '.join(texts)[:60]}") from error

    def child(self, name: str) -> Fields | None:
        """A field that is a mapping; None where it is not (then it stays untaken)."""
        value = self._data.get(name)
        if not isinstance(value, Mapping):
            return None
        self._taken.add(name)
        return self._children.setdefault(name, Fields(value, self.where(name)))

    def children(self, name: str) -> list[Fields]:
        """A field that is a list of mappings, or one mapping; other members are dropped by name."""
        value = self.take(name)
        members = value if isinstance(value, list) else [] if value is None else [value]
        found: list[Fields] = []
        for index, member in enumerate(members):
            key = f"{name}[{index}]" if isinstance(value, list) else name
            if isinstance(member, Mapping):
                found.append(self._children.setdefault(key, Fields(member, self.where(key))))
            else:
                self.drop(key, "a mapping is expected here")
        return found

    def drop(self, name: str, reason: str) -> None:
        """Notes that a field has no place, with the reason."""
        self._taken.add(name)
        self._dropped.append(Dropped(self.where(name), reason))

    def finish(self, reasons: Mapping[str, str]) -> Iterator[Dropped]:
        """Everything dropped here and below; what nobody took gets its reason by name, or the common one."""
        yield from self._dropped
        for name in self._data:
            if name not in self._taken and self._data[name] not in (None, "", [], {}):
                yield Dropped(self.where(name), reasons.get(name, "it has no place in a model manifest"))
        for child in self._children.values():
            yield from child.finish(reasons)
