"""Records spans of our own code: a few hundred nanoseconds each, one integer comparison where the level is off."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any, Final

import polars as pl

from stratoscope.errors import TraceError
from stratoscope.trace.levels import Level
from stratoscope.trace.spans import SPAN_SCHEMA

_FIELDS: Final = ("span", "parent", "level", "name", "start_ns", "end_ns", "run")
_clock = time.perf_counter_ns
_OFF: Final[AbstractContextManager[None]] = nullcontext()


class Recorder:
    """Collects spans from any number of threads; `deepest` is the highest level number that is recorded, 0 for none.

    Spans of one thread must close in the reverse order of opening (`with` sees to it, but for tasks of an event loop
    that take turns). `run` is written into each span that opens while it has that value.
    """

    def __init__(self, deepest: int = Level.HARDWARE) -> None:
        self.deepest = int(deepest)
        self.run = 0
        self._local = threading.local()
        self._buffers: list[_Buffer] = []
        self._lock = threading.Lock()

    def span(
        self, level: int, name: str, attributes: Mapping[str, Any] | None = None
    ) -> AbstractContextManager[object]:
        """A context manager that records what happens inside as one span; `attributes` must be JSON values."""
        if level > self.deepest:
            return _OFF
        try:
            buffer = self._local.buffer
        except AttributeError:
            buffer = self._new_buffer()
        if attributes is None:
            span = _Span()  # without arguments it costs no Python call
        else:
            span = _SpanWithAttributes()
            span.attributes = attributes
        span.buffer = buffer
        span.level = level
        span.name = name
        span.run = self.run
        return span

    def to_frame(self) -> pl.DataFrame:
        """All closed spans (trace.spans.SPAN_SCHEMA), by thread and then in order of opening, parents assigned.

        The parent is the span that was open in the thread; a span whose parent is still open is a root so far. Sites
        are not assigned.

        Raises:
            TraceError: attributes that JSON cannot hold.
        """
        with self._lock:
            buffers = list(self._buffers)
        frames, base = [], 0
        for buffer in buffers:
            frames.append(buffer.to_frame(base))
            base += buffer.opened
        return pl.concat(frames) if frames else pl.DataFrame(schema=SPAN_SCHEMA)

    def _new_buffer(self) -> _Buffer:
        buffer = self._local.buffer = _Buffer(threading.get_native_id())
        with self._lock:
            self._buffers.append(buffer)
        return buffer


class _Buffer:
    """Spans of one thread: a flat list of `_FIELDS`, which gives the garbage collector nothing to walk."""

    __slots__ = ("append", "attributes", "flat", "innermost", "opened", "track")

    def __init__(self, track: int) -> None:
        self.track = track
        self.flat: list[int | str] = []
        self.append = self.flat.extend
        self.attributes: dict[int, Mapping[str, Any]] = {}
        self.opened = 0
        self.innermost = -1

    def to_frame(self, base: int) -> pl.DataFrame:
        flat = self.flat[:]
        count = len(_FIELDS)
        columns = {name: flat[place::count] for place, name in enumerate(_FIELDS)}
        frame = pl.DataFrame(columns, schema={name: SPAN_SCHEMA[name] for name in _FIELDS}).sort("span")
        closed = pl.col("parent").is_in(frame["span"].implode())
        texts = [_json(self.attributes.get(span)) for span in frame["span"]] if self.attributes else [None] * len(frame)
        return frame.with_columns(
            span=pl.col("span") + base,
            parent=pl.when(closed).then(pl.col("parent") + base),
            kind=pl.lit("sync").cast(SPAN_SCHEMA["kind"]),
            track=pl.lit(self.track, dtype=pl.Int64),
            correlation=pl.lit(0, dtype=pl.Int64),
            site=pl.lit(None, dtype=pl.String),
            attributes=pl.Series(texts, dtype=pl.String),
        ).select(list(SPAN_SCHEMA))


class _Span:
    """An open span; `parent` is the span that was open in the thread before."""

    __slots__ = ("buffer", "level", "name", "parent", "run", "span", "start")

    buffer: _Buffer
    level: int
    name: str
    parent: int
    run: int
    span: int
    start: int

    def __enter__(self) -> None:
        buffer = self.buffer
        self.parent = buffer.innermost
        self.span = buffer.innermost = span = buffer.opened
        buffer.opened = span + 1
        self.start = _clock()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        end = _clock()
        buffer = self.buffer
        buffer.innermost = parent = self.parent
        buffer.append((self.span, parent, self.level, self.name, self.start, end, self.run))


class _SpanWithAttributes(_Span):
    __slots__ = ("attributes",)

    attributes: Mapping[str, Any]

    def __enter__(self) -> None:
        self.buffer.attributes[self.buffer.opened] = self.attributes
        super().__enter__()


def _json(attributes: Mapping[str, Any] | None) -> str | None:
    if attributes is None:
        return None
    try:
        return json.dumps(dict(attributes), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TraceError(f"attributes of a span are not JSON: {error}", hint="give text, numbers, lists") from error
