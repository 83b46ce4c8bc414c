"""Checks the inputs of an inference against what the model declares, before anything is timed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stratoscope.backends.base import Feeds
from stratoscope.errors import BackendError
from stratoscope.spec.model import TensorSpec

#: NumPy's names for text, all of which stand for one tensor type.
_TEXT = frozenset("OUS")


def check_feeds(inputs: Sequence[TensorSpec], feeds: Feeds) -> None:
    """Holds `feeds` against `inputs`: names, element types, ranks, and the dimensions that are bound.

    Raises:
        BackendError: names the input, what it expects and what it got.
    """
    expected = {spec.name: spec for spec in inputs}
    missing = [name for name in expected if name not in feeds]
    unknown = [name for name in feeds if name not in expected]
    if missing or unknown:
        parts = [f"input {name!r} is missing" for name in missing] + [f"there is no input {name!r}" for name in unknown]
        raise BackendError("; ".join(parts), hint=f"the model's inputs are: {', '.join(map(repr, expected)) or 'none'}")
    for name, spec in expected.items():
        _check(spec, np.asarray(feeds[name]))


def _check(spec: TensorSpec, value: np.ndarray) -> None:
    got = "str" if value.dtype.kind in _TEXT else value.dtype.name
    if got != spec.element_type:
        raise BackendError(
            f"input {spec.name!r} expects {spec.element_type}, got {got}",
            hint=f"convert it: array.astype({spec.element_type!r})",
        )
    fits = len(value.shape) == len(spec.shape) and all(
        want == have for want, have in zip(spec.shape, value.shape, strict=True) if isinstance(want, int)
    )
    if not fits:
        raise BackendError(
            f"input {spec.name!r} expects shape {_text(spec.shape)}, got {_text(value.shape)}",
            hint=f"set it with --shape {spec.name}=...",
        )


def _text(shape: Sequence[int | str]) -> str:
    return "[" + ", ".join(str(size) for size in shape) + "]"
