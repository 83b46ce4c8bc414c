"""A back end of known latency: it computes nothing, so that what is left over is the cost of the harness itself."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from stratoscope._version import __version__
from stratoscope.backends.base import BackendOptions, Capabilities, Feeds
from stratoscope.backends.feeds import check_feeds
from stratoscope.errors import BackendError
from stratoscope.spec.model import LoadableModel, TensorSpec
from stratoscope.trace.correlate import assign_sites
from stratoscope.trace.levels import Level
from stratoscope.trace.spans import SPAN_SCHEMA

#: Layers of a synthetic inference, which share its time evenly: their sum is the inference, to the nanosecond.
LAYERS: Final = ("wait_0", "wait_1", "wait_2", "wait_3")

_NO_WORK = "the null back end executes nothing"


class NullSession:
    """Waits until the latency is over, busily, since sleeping is off by 50 us; then returns zeros."""

    def __init__(self, model: LoadableModel, options: BackendOptions) -> None:
        self.inputs: Sequence[TensorSpec] = model.manifest.inputs
        self.outputs: Sequence[TensorSpec] = model.manifest.outputs
        self.latency_ns = round(options.null_latency_s * 1e9)
        self.effective_options: Mapping[str, Any] = {"null_latency_s": self.latency_ns / 1e9}
        batches = [spec.shape[0] for spec in self.inputs if spec.shape]
        batch = batches[0] if batches and isinstance(batches[0], int) else 1
        self._zeros = [_zeros(spec, batch) for spec in self.outputs]

    def run(self, feeds: Feeds) -> list[np.ndarray]:
        """Zeros in the shapes of `outputs`, the same arrays at each call, once the latency is over."""
        deadline = time.perf_counter_ns() + self.latency_ns
        while time.perf_counter_ns() < deadline:
            pass
        return self._zeros

    def bind(self, feeds: Feeds) -> Callable[[], list[np.ndarray]]:
        """`run` with its inputs fixed; raises BackendError where they do not fit."""
        check_feeds(self.inputs, feeds)
        latency_ns, zeros, clock = self.latency_ns, self._zeros, time.perf_counter_ns
        if latency_ns == 0:
            return lambda: zeros

        def call() -> list[np.ndarray]:
            deadline = clock() + latency_ns
            while clock() < deadline:
                pass
            return zeros

        return call

    def close(self) -> None:
        """Nothing to release."""


class NullTraceSession(NullSession):
    """As NullSession, and each inference leaves spans: the model for exactly the latency, and its even layers."""

    def __init__(self, model: LoadableModel, options: BackendOptions) -> None:
        super().__init__(model, options)
        self._name = model.manifest.id
        self._starts: list[int] = []

    def bind(self, feeds: Feeds) -> Callable[[], list[np.ndarray]]:
        """`NullSession.bind`; each call is one traced inference."""
        call, starts, clock = super().bind(feeds), self._starts, time.perf_counter_ns

        def traced() -> list[np.ndarray]:
            starts.append(clock())
            return call()

        return traced

    def finish(self) -> pl.DataFrame:
        """Spans of all inferences so far."""
        return synthetic_spans(self._name, self._starts, self.latency_ns)


class NullBackend:
    """The null back end; it works for every model, also for one without a file."""

    name = "null"

    def capabilities(self) -> Capabilities:
        """Always available; traces model and layer, synthetically."""
        levels = {level: None if level in (Level.MODEL, Level.LAYER) else _NO_WORK for level in Level}
        return Capabilities(available=True, reason=None, version=__version__, levels=levels)

    def load(self, model: LoadableModel, options: BackendOptions) -> NullSession:
        """A session of latency `options.null_latency_s`."""
        return NullSession(model, options)

    def open_trace(self, model: LoadableModel, options: BackendOptions) -> NullTraceSession:
        """A session of latency `options.null_latency_s` that leaves synthetic spans."""
        return NullTraceSession(model, options)

    def trace(
        self, model: LoadableModel, options: BackendOptions, feeds: Feeds, *, warmup: int, repeats: int
    ) -> pl.DataFrame:
        """Exact spans of `repeats` inferences one after the other; nothing is run."""
        if warmup < 0 or repeats < 1:
            raise BackendError(f"a trace needs at least one repeat and no negative warm-up, got {repeats} and {warmup}")
        session = NullTraceSession(model, options)
        check_feeds(session.inputs, feeds)
        base = time.perf_counter_ns()
        starts = [base + run * session.latency_ns for run in range(repeats)]
        return synthetic_spans(model.manifest.id, starts, session.latency_ns)

    def executed_graph(self, model: LoadableModel, options: BackendOptions, folder: Path) -> Path | None:
        """None: nothing is executed."""
        return None


def synthetic_spans(name: str, starts: Sequence[int], latency_ns: int) -> pl.DataFrame:
    """Spans of one inference of `latency_ns` at each of `starts`: the model, and layers that cover it without a gap."""
    edges = [latency_ns * part // len(LAYERS) for part in range(len(LAYERS) + 1)]
    track = threading.get_native_id()
    attributes = json.dumps({"op": "Wait", "synthetic": True})
    rows: list[tuple[Any, ...]] = []
    for run, start in enumerate(starts):
        model = len(rows)
        rows.append((model, None, Level.MODEL.value, name, start, start + latency_ns, run))
        for part, layer in enumerate(LAYERS):
            begin, end = start + edges[part], start + edges[part + 1]
            rows.append((model + 1 + part, model, Level.LAYER.value, layer, begin, end, run))
    columns = ("span", "parent", "level", "name", "start_ns", "end_ns", "run")
    frame = pl.DataFrame(rows, schema={key: SPAN_SCHEMA[key] for key in columns}, orient="row")
    return assign_sites(
        frame.with_columns(
            kind=pl.lit("sync").cast(SPAN_SCHEMA["kind"]),
            track=pl.lit(track, dtype=pl.Int64),
            correlation=pl.lit(0, dtype=pl.Int64),
            site=pl.lit(None, dtype=pl.String),
            attributes=pl.lit(attributes),
        ).select(list(SPAN_SCHEMA))
    )


def _zeros(spec: TensorSpec, batch: int) -> np.ndarray:
    """Zeros of the declared shape; a free first dimension is the batch, another free one is 1."""
    shape = [size if isinstance(size, int) else batch if axis == 0 else 1 for axis, size in enumerate(spec.shape)]
    if spec.element_type == "str":
        return np.full(shape, "", dtype=object)
    try:
        return np.zeros(shape, spec.element_type)
    except TypeError:
        import ml_dtypes  # what NumPy lacks: bfloat16, float8

        found = getattr(ml_dtypes, spec.element_type, None)
        if found is None:
            what = f"output {spec.name!r} has element type {spec.element_type!r}"
            raise BackendError(f"{what}, unknown to NumPy", hint="correct the manifest") from None
        return np.zeros(shape, found)
