"""Reads fields of a Hugging Face `config.json`: by name and alias, with an error that says which one is missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stratoscope.llm.base import LlmError, UnsupportedError

# Beyond these a field is a mistake, not a model; layers are held as a list.
MOST, MOST_LAYERS = 10**9, 10**4
LAYER_KEYS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers")


class Config:
    """A configuration as a mapping with checked access; never executes anything the file names."""

    def __init__(self, data: Mapping[str, Any], name: str) -> None:
        self.data = data
        self.name = name

    def integer(self, *keys: str) -> int:
        """The first of `keys` that is present, as a count of at least one; raises LlmError naming the keys."""
        value = self.optional(*keys, least=1)
        if value is None:
            raise LlmError(
                f"{self.name}: the configuration has no {' or '.join(keys)}", hint="give the model's config.json"
            )
        return value

    def optional(self, *keys: str, least: int = 0) -> int | None:
        """As `integer`, or None where none of the keys is present; `least` is the smallest value that makes sense."""
        for key in keys:
            value = self.data.get(key)
            if value is None:
                continue
            most = MOST_LAYERS if key in LAYER_KEYS else MOST
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise LlmError(
                    f"{self.name}: {key} is {str(value)[:40]!r}, not a count", hint=f"between {least} and {most:,}"
                )
            return value
        return None

    def head_dim(self, hidden: int, heads: int) -> int:
        """Width of a head where it is hidden over heads; raises LlmError where that is no whole number."""
        if hidden % heads:
            raise LlmError(f"{self.name}: {heads} heads do not divide a width of {hidden}", hint="give head_dim")
        return hidden // heads

    def flag(self, key: str, default: bool) -> bool:
        """A boolean field; null counts as absent."""
        value = self.data.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise LlmError(f"{self.name}: {key} is {str(value)[:40]!r}", hint="true or false")
        return value

    def text(self, key: str, default: str = "") -> str:
        """A text field."""
        value = self.data.get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise LlmError(
                f"{self.name}: {key} is {str(value)[:40]!r}, not a text", hint="give the model's config.json"
            )
        return value

    def items(self, key: str) -> list[Any] | None:
        """A list field, or None."""
        value = self.data.get(key)
        if value is None:
            return None
        if not isinstance(value, list | tuple):
            raise LlmError(f"{self.name}: {key} is {str(value)[:40]!r}, not a list", hint="one entry a layer")
        return list(value)

    def per_layer(self, key: str, layers: int) -> list[Any] | None:
        """A list with one entry a layer; raises LlmError when its length is another."""
        value = self.items(key)
        if value is not None and len(value) != layers:
            raise LlmError(f"{self.name}: {key} has {len(value)} entries for {layers} layers", hint="one entry a layer")
        return value

    def refuse(self, key: str, why: str) -> None:
        """Raises UnsupportedError when `key` is set to something true."""
        if self.data.get(key):
            raise UnsupportedError(f"{self.name}: {key}={self.data[key]!r}: {why}")
