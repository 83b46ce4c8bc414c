"""Steps of a load, noted where they happen, and kept only while somebody listens."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Step:
    """What was done, inside which step, from when to when (time.perf_counter_ns)."""

    name: str
    parent: str | None
    start_ns: int
    end_ns: int


_LISTENERS: Final[ContextVar[tuple[list[Step], str | None] | None]] = ContextVar("steps", default=None)


@contextmanager
def listening() -> Iterator[list[Step]]:
    """The steps that end inside, in the order of their ends."""
    steps: list[Step] = []
    token = _LISTENERS.set((steps, None))
    try:
        yield steps
    finally:
        _LISTENERS.reset(token)


def is_listening() -> bool:
    """Whether steps are kept: some are known only at a cost."""
    return _LISTENERS.get() is not None


@contextmanager
def step(name: str) -> Iterator[None]:
    """Notes what happens inside as one step; free of cost where nobody listens."""
    listener = _LISTENERS.get()
    if listener is None:
        yield
        return
    steps, parent = listener
    token = _LISTENERS.set((steps, name))
    start = time.perf_counter_ns()
    try:
        yield
    finally:
        end = time.perf_counter_ns()
        _LISTENERS.reset(token)
        steps.append(Step(name, parent, start, end))


def note(name: str, start_ns: int, end_ns: int) -> None:
    """Adds a step whose times are known otherwise."""
    listener = _LISTENERS.get()
    if listener is not None:
        listener[0].append(Step(name, listener[1], start_ns, end_ns))
