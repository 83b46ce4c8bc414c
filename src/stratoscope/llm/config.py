"""Reads fields of a Hugging Face `config.json`: by name and alias, with an error that says which one is missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stratoscope.llm.base import LlmError, UnsupportedError


class Config:
    """A configuration as a mapping with checked access; never executes anything the file names."""

    def __init__(self, data: Mapping[str, Any], name: str) -> None:
        self.data = data
        self.name = name

    def integer(self, *keys: str) -> int:
        """The first of `keys` that is present, as a positive integer; raises LlmError naming the keys."""
        for key in keys:
            value = self.data.get(key)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise LlmError(f"{self.name}: {key} is {value!r}, not a count")
            return value
        raise LlmError(
            f"{self.name}: the configuration has no {' or '.join(keys)}", hint="give the model's config.json"
        )

    def optional(self, *keys: str) -> int | None:
        """As `integer`, or None where none of the keys is present."""
        return self.integer(*keys) if any(self.data.get(key) is not None for key in keys) else None

    def flag(self, key: str, default: bool) -> bool:
        """A boolean field; null counts as absent."""
        value = self.data.get(key)
        return default if value is None else bool(value)

    def text(self, key: str, default: str = "") -> str:
        """A text field."""
        value = self.data.get(key)
        return default if value is None else str(value)

    def items(self, key: str) -> list[Any] | None:
        """A list field, or None."""
        value = self.data.get(key)
        return list(value) if isinstance(value, list | tuple) else None

    def per_layer(self, key: str, layers: int) -> list[Any] | None:
        """A list with one entry a layer; raises LlmError when its length is another."""
        value = self.items(key)
        if value is not None and len(value) != layers:
            raise LlmError(f"{self.name}: {key} has {len(value)} entries for {layers} layers")
        return value

    def refuse(self, key: str, why: str) -> None:
        """Raises UnsupportedError when `key` is set to something true."""
        if self.data.get(key):
            raise UnsupportedError(f"{self.name}: {key}={self.data[key]!r}: {why}")
