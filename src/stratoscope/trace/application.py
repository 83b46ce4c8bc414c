"""Spans of the user's own code: `with stratoscope.span("preprocess")`, recorded where somebody listens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, Final

from stratoscope.trace.levels import Level
from stratoscope.trace.recorder import Recorder

_current: ContextVar[Recorder | None] = ContextVar("stratoscope_recorder", default=None)
_OFF: Final[AbstractContextManager[None]] = nullcontext()


def span(name: str, **attributes: Any) -> AbstractContextManager[object]:
    """A context manager around a part of an application: one span at the APPLICATION level.

    Outside of `recording` it does nothing. `attributes` must be JSON values.
    """
    recorder = _current.get()
    if recorder is None:
        return _OFF
    return recorder.span(Level.APPLICATION, name, _checked(attributes))


@contextmanager
def recording(recorder: Recorder | None = None) -> Iterator[Recorder]:
    """Records the spans of this context (and of tasks and `contextvars` copies made in it) until the block ends.

    Yields the recorder, whose `to_frame()` holds the spans (trace.spans.SPAN_SCHEMA). Recordings nest: the innermost
    listens.
    """
    listening = recorder or Recorder()
    token = _current.set(listening)
    try:
        yield listening
    finally:
        _current.reset(token)


def current() -> Recorder | None:
    """The recorder that listens in this context."""
    return _current.get()


def _checked(attributes: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return attributes or None
