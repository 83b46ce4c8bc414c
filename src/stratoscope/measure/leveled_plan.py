"""Which levels a leveled experiment can reach on a back end, and sessions for all of them side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, runtime_checkable

from stratoscope.backends.base import (
    Backend,
    BackendOptions,
    Feeds,
    Session,
    SettlingSession,
    TraceSession,
    TracingBackend,
)
from stratoscope.errors import MeasurementError, StratoscopeError
from stratoscope.measure.leveled_runs import CONTROL, PLAIN, Call, Sessions, fits_in_memory
from stratoscope.spec.model import LoadableModel
from stratoscope.spec.record import Unavailable
from stratoscope.trace.levels import Level

#: Levels below the model that a back end may trace, in the order in which they are added.
LEVELS: Final = (Level.LAYER, Level.OPERATOR, Level.LIBRARY, Level.KERNEL)


@runtime_checkable
class LeveledBackend(TracingBackend, Protocol):
    """A tracing back end with more than the layer level, each of which can be the deepest of a session."""

    def trace_levels(self, options: BackendOptions) -> Mapping[Level, str | None]:
        """Each level with None where it can be traced under `options`, else the reason why not."""
        ...

    def open_trace(self, model: LoadableModel, options: BackendOptions, level: Level = Level.LAYER) -> TraceSession:
        """A session that traces down to `level`."""
        ...


@dataclass(frozen=True, slots=True)
class LevelPlan:
    """The levels to trace, one configuration each besides the unprofiled ones; and those that are missing, with why."""

    levels: tuple[Level, ...]
    missing: tuple[Unavailable, ...]


def plan_levels(backend: Backend, options: BackendOptions, asked: Level) -> LevelPlan:
    """All levels down to `asked` that `backend` can trace; the others are named, which is no error.

    Raises:
        MeasurementError: the back end can trace nothing below the model beside unprofiled inferences.
    """
    if not isinstance(backend, TracingBackend):
        raise MeasurementError(f"back end {backend.name!r} cannot trace beside unprofiled inferences")
    told = backend.trace_levels(options) if isinstance(backend, LeveledBackend) else backend.capabilities().levels
    wanted = [level for level in LEVELS if level <= asked]
    reasons = {level: told.get(level, "the back end does not tell") for level in wanted}
    if isinstance(backend, LeveledBackend) or Level.LAYER not in wanted:
        levels = tuple(level for level in wanted if reasons[level] is None)
    else:
        levels = (Level.LAYER,) if reasons[Level.LAYER] is None else ()
    missing = [
        Unavailable(what=f"{level.name.lower()} level", why=reasons[level] or "the back end opens no such session")
        for level in wanted
        if level not in levels
    ]
    if not levels:
        why = "; ".join(f"{item.what}: {item.why}" for item in missing)
        raise MeasurementError(f"back end {backend.name!r} can trace nothing below the model: {why}")
    return LevelPlan(levels, tuple(missing))


@dataclass(slots=True)
class LeveledSessions(Sessions):
    """`Sessions` with a trace session for each level; `lost` names levels whose session could not be opened."""

    traces: dict[Level, TraceSession] = field(default_factory=dict)
    lost: tuple[Unavailable, ...] = ()
    effective_options: Mapping[str, Any] = field(default_factory=dict)


@contextmanager
def open_leveled(
    backend: TracingBackend,
    model: LoadableModel,
    options: BackendOptions,
    feeds: Feeds,
    levels: tuple[Level, ...],
    model_bytes: int,
) -> Iterator[LeveledSessions]:
    """Two unprofiled sessions and one for each level, each called by its level's name.

    A level below the first whose session cannot be opened is left out, with the reason.
    """
    with ExitStack() as stack:

        def load() -> Session:
            session = backend.load(model, options)
            stack.callback(session.close)
            return session

        plain = load()
        calls: dict[str, Call] = {PLAIN: plain.bind(feeds)}
        traces: dict[Level, TraceSession] = {}
        settles: dict[str, Callable[[], None]] = {}
        lost: list[Unavailable] = []
        for level in levels:
            try:
                session = open_level(backend, model, options, level)
                stack.callback(session.close)
                calls[name_of(level)] = session.bind(feeds)
                traces[level] = session
                if isinstance(session, SettlingSession):
                    settles[name_of(level)] = session.settle
            except StratoscopeError as error:
                if level == levels[0]:
                    raise
                lost.append(Unavailable(what=f"{level.name.lower()} level", why=str(error)))
        separate = fits_in_memory(model_bytes, len(levels) + 2)
        calls[CONTROL] = load().bind(feeds) if separate else calls[PLAIN]
        yield LeveledSessions(
            calls,
            traces[levels[0]],
            separate,
            settles=settles,
            traces=traces,
            lost=tuple(lost),
            effective_options=dict(plain.effective_options),
        )


def open_level(backend: TracingBackend, model: LoadableModel, options: BackendOptions, level: Level) -> TraceSession:
    """A trace session whose deepest level is `level`."""
    if isinstance(backend, LeveledBackend):
        return backend.open_trace(model, options, level)
    return backend.open_trace(model, options)


def name_of(level: Level) -> str:
    """The name of the configuration whose deepest level is `level`."""
    return level.name.lower()
