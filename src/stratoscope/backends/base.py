"""The protocol of a back end: load a model, run it, trace it; and say what it can."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import polars as pl

from stratoscope.spec.model import LoadableModel, TensorSpec
from stratoscope.spec.options import BackendOptions
from stratoscope.trace.levels import Level

__all__ = [
    "Backend",
    "BackendOptions",
    "Capabilities",
    "Feeds",
    "Session",
    "SettlingSession",
    "SpanMix",
    "TraceSession",
    "TracingBackend",
]

Feeds = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a back end can do here: `levels` maps each level to None where it can be traced, else to the reason."""

    available: bool
    reason: str | None
    version: str
    levels: Mapping[Level, str | None] = field(default_factory=dict)
    concurrent: bool = True  # run() may be called from several threads at once
    distributions: tuple[str, ...] = ()  # installed packages that do the work, for the software manifest


@dataclass(frozen=True, slots=True)
class SpanMix:
    """The spans of one inference, by which their cost is measured on a network like it.

    Attributes:
        layers: spans of the layer level.
        operators: spans of the operator level.
        bytes_a_layer: memory that a layer moves on average: between two spans it sweeps as much through the caches.
    """

    layers: int
    operators: int
    bytes_a_layer: int


@runtime_checkable
class Session(Protocol):
    """A loaded model. `run` is the only call inside a timed region."""

    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]
    effective_options: Mapping[str, Any]

    def run(self, feeds: Feeds) -> list[np.ndarray]:
        """Outputs in the order of `outputs`."""
        ...

    def bind(self, feeds: Feeds) -> Callable[[], list[np.ndarray]]:
        """`run` with its inputs fixed: the cheapest call that the back end has, and one that several threads may make.

        The arrays that it returns hold until its next call, which may overwrite them. Nothing is run yet. Raises
        BackendError where the feeds do not fit the inputs.
        """
        ...

    def close(self) -> None:
        """Releases memory and threads; the session is not used again."""
        ...


@runtime_checkable
class Backend(Protocol):
    """One framework. Constructing it imports nothing heavy; `capabilities` and `load` may."""

    name: str

    def capabilities(self) -> Capabilities:
        """What can be done on this machine, never raising: a missing framework is `available=False` with the reason."""
        ...

    def load(self, model: LoadableModel, options: BackendOptions) -> Session:
        """A session; raises BackendError naming the model and the way out."""
        ...

    def trace(
        self, model: LoadableModel, options: BackendOptions, feeds: Feeds, *, warmup: int, repeats: int
    ) -> pl.DataFrame:
        """Spans (trace.spans.SPAN_SCHEMA) of `repeats` inferences, down to LAYER, from a session of its own."""
        ...

    def executed_graph(self, model: LoadableModel, options: BackendOptions, folder: Path) -> Path | None:
        """The optimised graph as an ONNX file written into `folder`, or None where the back end does not tell."""
        ...


@runtime_checkable
class TraceSession(Protocol):
    """A loaded model that traces each inference, for runs that are interleaved with runs of an untraced session."""

    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]
    effective_options: Mapping[str, Any]

    def bind(self, feeds: Feeds) -> Callable[[], list[np.ndarray]]:
        """As `Session.bind`; each call is one traced inference."""
        ...

    def finish(self) -> pl.DataFrame:
        """Ends the session; spans of all inferences so far, `run` counting them from 0, parents and sites assigned."""
        ...

    def close(self) -> None:
        """Releases memory and threads, and drops what was traced; harmless after `finish`."""
        ...


@runtime_checkable
class SettlingSession(Protocol):
    """A trace session that works between two calls (starts, stops and reads a profiler), which sweeps the caches."""

    def settle(self) -> None:
        """One untraced inference of what was bound last: what follows finds the caches as after an unprofiled one."""
        ...


@runtime_checkable
class TracingBackend(Backend, Protocol):
    """A back end whose traced and untraced sessions can be loaded side by side: what leveled profiling needs."""

    def open_trace(self, model: LoadableModel, options: BackendOptions) -> TraceSession:
        """A traced session; raises BackendError naming the model and the way out."""
        ...
