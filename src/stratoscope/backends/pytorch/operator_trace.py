"""Traces ATen operators, and CUDA kernels where there is a GPU, with torch's own profiler."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import polars as pl
import torch

from stratoscope.backends.base import BackendOptions, Feeds
from stratoscope.backends.feeds import check_feeds
from stratoscope.backends.pytorch.layer_trace import describe
from stratoscope.backends.pytorch.modules import ERRORS, layers_of
from stratoscope.backends.pytorch.session import TorchSession
from stratoscope.backends.pytorch.spans import Offset, SpanRows, with_attributes
from stratoscope.errors import BackendError
from stratoscope.spec.model import LoadableModel
from stratoscope.trace.levels import Level

#: Names of our own marks among the profiler's events.
RUN_MARK: Final = "stratoscope.run"
LAYER_MARK: Final = "stratoscope.layer."
#: Kineto's activities by what they are to us; others (overhead, Python functions) are left out.
LAUNCHES: Final = frozenset({"cuda_runtime", "cuda_driver", "privateuse1_runtime", "privateuse1_driver"})
DEVICE_WORK: Final = frozenset({"kernel", "gpu_memcpy", "gpu_memset", "concurrent_kernel"})
#: Tracks of a device's streams, apart from threads.
STREAM_TRACKS: Final = 1 << 40


class Event(NamedTuple):
    """One event of the profiler, as it is live or in a file: UNIX nanoseconds."""

    name: str
    activity: str
    start_ns: int
    end_ns: int
    track: int
    correlation: int = 0
    shapes: Any = None


class Recorded(NamedTuple):
    """The events of one inference, and our own clock around its mark."""

    events: list[Event]
    start_ns: int
    end_ns: int
    thread: int


class OperatorTraceSession(TorchSession):
    """As TorchSession; each bound call leaves MODEL, LAYER and OPERATOR spans, on a GPU KERNEL spans too.

    The profiler is switched on and off around each call, outside of the model span. Shapes come from one more call
    after all others, since recording them would cost as much again as the events.
    """

    def __init__(self, model: LoadableModel, options: BackendOptions) -> None:
        super().__init__(model, options)
        # Kineto prints a line to standard error at each start and stop.
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")
        self._layers = layers_of(self.prepared.module) if options.execution == "eager" else []
        self._told: list[dict[str, Any]] = []
        self._calls: list[tuple[Any, int, int, int]] = []
        self._tensors: tuple[torch.Tensor, ...] = ()
        self._finished = False

    def bind(self, feeds: Feeds) -> Callable[[], list[np.ndarray]]:
        """`TorchSession.bind` with the profiler around each call."""
        check_feeds(self.inputs, feeds)
        self._tensors = tensors = self.prepared.tensors(feeds)
        try:
            if not self._told and self._layers:
                self._told = describe(self, self._layers, tensors)
                self._hook()
        except ERRORS as error:
            raise self._refused(error) from error
        arrays = self.prepared.arrays

        def traced() -> list[np.ndarray]:
            result, *call = self._profiled(tensors, shapes=False)
            self._calls.append((call[0], call[1], call[2], threading.get_native_id()))
            return arrays(result)

        return traced

    def settle(self) -> None:
        """One untraced inference; see `backends.base.SettlingSession`."""
        self._forward(self._tensors)

    def finish(self) -> pl.DataFrame:
        """Spans of all bound calls so far; the session ends."""
        if self._finished:
            raise BackendError(f"the trace of {self._name!r} has ended already", hint="open another trace session")
        self._finished = True
        frame = self._frame(self._calls)
        if self._calls:
            _, *shaped = self._profiled(self._tensors, shapes=True)
            told = self._frame([(shaped[0], shaped[1], shaped[2], threading.get_native_id())])
            frame = with_attributes(frame, _shapes(told))
        self.close()
        return frame

    def _frame(self, calls: Sequence[tuple[Any, int, int, int]]) -> pl.DataFrame:
        recorded = [Recorded(live_events(profile), start, end, thread) for profile, start, end, thread in calls]
        names = [layer.name for layer in self._layers]
        return spans_of(recorded, self._name, names, [json.dumps(told) for told in self._told]).frame()

    def _profiled(self, tensors: Sequence[torch.Tensor], *, shapes: bool) -> tuple[Any, Any, int, int]:
        """(result, the profiler's results, start and end of our clock around the mark)."""
        clock, mark = time.perf_counter_ns, torch._C._profiler._RecordFunctionFast(RUN_MARK)
        profile = torch.autograd.profiler.profile(
            use_kineto=True, use_device="cuda" if self.prepared.device.type == "cuda" else None, record_shapes=shapes
        )
        try:
            with profile, self._around_call():
                start = clock()
                with mark:
                    result = self._forward(tensors)
                end = clock()
        except ERRORS as error:
            raise self._refused(error) from error
        return result, profile.kineto_results, start, end

    def _around_call(self) -> Any:
        """A context manager inside the profiler and outside of the timed region: the place for deeper tracers."""
        return _Nothing()

    def _hook(self) -> None:
        fast = torch._C._profiler._RecordFunctionFast
        opened: list[Any] = []
        for place, layer in enumerate(self._layers):

            def before(module: Any, arguments: Any, name: str = f"{LAYER_MARK}{place}") -> None:
                mark = fast(name)
                opened.append(mark)
                mark.__enter__()

            def after(module: Any, arguments: Any, result: Any) -> None:
                opened.pop().__exit__(None, None, None)

            layer.module.register_forward_pre_hook(before)
            layer.module.register_forward_hook(after)


class _Nothing:
    def __enter__(self) -> None:
        return None

    def __exit__(self, *details: object) -> None:
        return None


def live_events(results: Any) -> list[Event]:
    """The events of `torch.autograd.profiler.profile.kineto_results`."""
    found = []
    for event in results.events():
        activity = event.activity_type()
        if activity in DEVICE_WORK:
            track = STREAM_TRACKS + (event.device_index() << 16) + event.device_resource_id()
        else:
            track = event.start_thread_id()
        found.append(
            Event(
                event.name(),
                activity,
                event.start_ns(),
                event.end_ns(),
                track,
                event.correlation_id() if activity in LAUNCHES or activity in DEVICE_WORK else 0,
                event.shapes() or None,
            )
        )
    return found


def spans_of(
    recorded: Sequence[Recorded], model: str, layers: Sequence[str] = (), layer_attributes: Sequence[str] = ()
) -> SpanRows:
    """The spans of profiled inferences on our clock: our marks are model and layers, ATen the operators.

    A CUDA runtime call is a KERNEL span of kind "launch", what it started on the device one of kind "exec" with the
    same correlation id. What lies outside of the run's mark is left out.

    Raises:
        BackendError: an inference has not exactly one run mark.
    """
    marks = [_mark(run.events, model) for run in recorded]
    bounds = [
        (run.start_ns - mark.start_ns, run.end_ns - mark.end_ns) for run, mark in zip(recorded, marks, strict=True)
    ]
    common = Offset.fit(bounds) if bounds else None
    rows = SpanRows.empty()
    for number, (run, mark, bound) in enumerate(zip(recorded, marks, bounds, strict=True)):
        offset = common or Offset(min(bound), max(bound))
        attributes = json.dumps({"clock_error_ns": offset.error_ns})
        for event in _inside(run.events, mark):
            track = run.thread if event.track == mark.track else event.track
            start, end = event.start_ns + offset.value, event.end_ns + offset.value
            if event is mark:
                rows.add(Level.MODEL, model, start, end, number, track=track, attributes=attributes)
            elif event.name.startswith(LAYER_MARK):
                place = int(event.name.removeprefix(LAYER_MARK))
                text = layer_attributes[place] if layer_attributes else None
                rows.add(Level.LAYER, layers[place], start, end, number, track=track, attributes=text)
            elif event.activity in LAUNCHES or event.activity in DEVICE_WORK:
                kind = "launch" if event.activity in LAUNCHES else "exec"
                rows.add(
                    Level.KERNEL,
                    event.name,
                    start,
                    end,
                    number,
                    track=track,
                    kind=kind,
                    correlation=event.correlation,
                    attributes=json.dumps({"activity": event.activity}),
                )
            elif event.activity == "cpu_op":
                shapes = None if event.shapes is None else json.dumps({"shapes": event.shapes})
                rows.add(Level.OPERATOR, event.name, start, end, number, track=track, attributes=shapes)
    return rows


def _mark(events: Iterable[Event], model: str) -> Event:
    marks = [event for event in events if event.name == RUN_MARK]
    if len(marks) != 1:
        raise BackendError(
            f"the profile of {model!r} holds {len(marks)} marks of one run: torch's profiler lost events"
        )
    return marks[0]


def _inside(events: Iterable[Event], mark: Event) -> list[Event]:
    """The events of the run; device work may end after the mark did, where the host does not wait."""
    kept = [
        event
        for event in events
        if event.start_ns >= mark.start_ns and (event.end_ns <= mark.end_ns or event.activity in DEVICE_WORK)
    ]
    return sorted(kept, key=lambda event: (event.start_ns, -event.end_ns, event is not mark))


def _shapes(frame: pl.DataFrame) -> dict[str, dict[str, Any]]:
    operators = frame.filter((pl.col("level") == Level.OPERATOR.value) & pl.col("attributes").is_not_null())
    return {site: json.loads(text) for site, text in operators.select("site", "attributes").iter_rows()}
