"""The child process of the library level: runs inferences with oneDNN's and MKL's verbose output on.

The variable that puts a stamp on oneDNN's lines must be set before torch is imported, and the lines go to standard
output: hence a process of its own, whose standard output is a file. Commands come as lines of JSON on standard input,
answers go as lines of JSON to the descriptor named on the command line.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from stratoscope.backends.base import BackendOptions
from stratoscope.backends.pytorch.operator_trace import (
    LAYER_MARK,
    RUN_MARK,
    Event,
    OperatorTraceSession,
    Recorded,
    live_events,
    spans_of,
)
from stratoscope.backends.pytorch.spans import SpanRows
from stratoscope.backends.pytorch.verbose import BLAS_OPERATORS, Operator, Primitive, attach_by_order, parse_verbose
from stratoscope.errors import StratoscopeError
from stratoscope.host.noise import ThreadNoise
from stratoscope.spec.model import LoadableModel, ModelManifest
from stratoscope.trace.levels import Level


class LibrarySession(OperatorTraceSession):
    """As OperatorTraceSession, with shapes, and with the lines that the libraries print during each call."""

    def __init__(self, model: LoadableModel, options: BackendOptions, output: Path) -> None:
        super().__init__(model, options)
        self._output = output
        self._flush = ctypes.CDLL(None).fflush
        self._parts: list[tuple[int, int]] = []
        self._before = 0
        self._noise: list[dict[str, int | None]] = []

    def bind(self, feeds: Any) -> Callable[[], list[np.ndarray]]:
        """`OperatorTraceSession.bind`; each call also notes which part of the output is its own."""
        super().bind(feeds)
        tensors = self._tensors
        noise = ThreadNoise()

        def traced() -> list[np.ndarray]:
            before = noise.snapshot()
            result, profile, start, end = self._profiled(tensors, shapes=True)
            after = noise.snapshot()
            self._noise.append(
                {
                    "wall_ns": after.wall_ns - before.wall_ns,
                    "cpu_ns": after.cpu_ns - before.cpu_ns,
                    "wait_ns": None
                    if before.wait_ns is None or after.wait_ns is None
                    else after.wait_ns - before.wait_ns,
                }
            )
            self._calls.append((profile, start, end, os.getpid()))
            self._parts.append((self._before, self._size()))
            return self.prepared.arrays(result)

        return traced

    def finish(self) -> pl.DataFrame:
        """Spans of all bound calls, primitives among them."""
        recorded = [Recorded(live_events(profile), start, end, thread) for profile, start, end, thread in self._calls]
        text = self._output.read_bytes()
        lines = [text[begin:end].decode(errors="replace").splitlines() for begin, end in self._parts]
        told = [json.dumps(facts) for facts in self._told]
        rows = spans_of(recorded, self._name, [layer.name for layer in self._layers], told)
        for number, (run, own) in enumerate(zip(recorded, lines, strict=True)):
            place = add_primitives(rows, number, run, parse_verbose(own))
            told_run = json.loads(rows.columns["attributes"][place])
            rows.columns["attributes"][place] = json.dumps(told_run | {"noise": self._noise[number]})
        return rows.frame()

    @contextmanager
    def _around_call(self) -> Iterator[None]:
        with ExitStack() as stack:
            if torch.backends.mkldnn.is_available():
                stack.enter_context(torch.backends.mkldnn.verbose(1))
            if torch.backends.mkl.is_available():
                stack.enter_context(torch.backends.mkl.verbose(1))
            self._before = self._size()
            yield
            self._flush(None)

    def _size(self) -> int:
        self._flush(None)
        return self._output.stat().st_size


def add_primitives(rows: SpanRows, number: int, run: Recorded, primitives: Sequence[Primitive]) -> int:
    """LIBRARY spans of one inference: oneDNN's at their stamps, MKL's in their operator's longest gap.

    Lines that belong to no operator, or are without a stamp, are left out and counted in the attribute
    `primitives_not_placed` of the model span, whose row is returned.
    """
    mark = next(event for event in run.events if event.name == RUN_MARK)
    place = next(
        at
        for at, (level, of) in enumerate(zip(rows.columns["level"], rows.columns["run"], strict=True))
        if of == number and level == Level.MODEL
    )
    offset = rows.columns["start_ns"][place] - mark.start_ns
    track = rows.columns["track"][place]
    callers = [event for event in run.events if event.name in BLAS_OPERATORS and event.track == mark.track]
    callers.sort(key=lambda event: event.start_ns)
    owners = iter(attach_by_order(primitives, [_operator(event) for event in callers]))
    used: dict[int, int] = {}
    lost = 0
    for one in primitives:
        attributes = one.attributes()
        if one.library == "mkl":
            owner = next(owners)
            if owner is None:
                lost += 1
                continue
            start = used[owner] if owner in used else longest_gap(callers[owner], run.events)
            used[owner] = start + one.duration_ns
            attributes["placed"] = "by order"
        elif one.start_unix_ns is None:
            lost += 1
            continue
        else:
            start = one.start_unix_ns
        if start < mark.start_ns or start + one.duration_ns > mark.end_ns:
            lost += 1
            continue
        begin = start + offset
        rows.add(
            Level.LIBRARY,
            one.name,
            begin,
            begin + one.duration_ns,
            number,
            track=track,
            attributes=json.dumps(attributes),
        )
    told = json.loads(rows.columns["attributes"][place])
    told |= {"primitives": len(primitives), "primitives_not_placed": lost}
    rows.columns["attributes"][place] = json.dumps(told)
    return place


def longest_gap(caller: Event, events: Sequence[Event]) -> int:
    """Start of the longest time in which `caller` runs no other operator: there it waited for the library."""
    inner = sorted(
        (event.start_ns, event.end_ns)
        for event in events
        if event is not caller
        and event.track == caller.track
        and caller.start_ns <= event.start_ns
        and event.end_ns <= caller.end_ns
    )
    at, longest, begin = caller.start_ns, -1, caller.start_ns
    for start, end in [*inner, (caller.end_ns, caller.end_ns)]:
        if start - at > longest:
            longest, begin = start - at, at
        at = max(at, end)
    return begin


def _operator(event: Event) -> Operator:
    shapes = tuple(
        tuple(int(size) for size in shape)
        for shape in event.shapes or ()
        if isinstance(shape, list | tuple) and all(isinstance(size, int) for size in shape)
    )
    return Operator(event.name, event.start_ns, event.end_ns, shapes)


def main() -> None:
    """Serves commands until standard input ends: `bind`, `run`, `settle`, `finish`."""
    folder, answers = Path(sys.argv[1]), os.fdopen(int(sys.argv[2]), "w")

    def answer(**content: Any) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    try:
        session = _load(folder)
        answer(ok=True)
        call: Callable[[], list[np.ndarray]] | None = None
        for line in sys.stdin:
            command = json.loads(line)["do"]
            if command == "bind":
                with np.load(folder / "feeds.npz") as feeds:
                    named = json.loads((folder / "names.json").read_text())
                    inputs = {name: feeds[f"input_{place}"] for place, name in enumerate(named)}
                outputs = session.run(inputs)
                np.savez(folder / "outputs.npz", **{f"output_{at}": value for at, value in enumerate(outputs)})  # type: ignore[arg-type]
                call = session.bind(inputs)
            elif command == "run" and call is not None:
                call()
            elif command == "settle":
                session.settle()
            elif command == "finish":
                session.finish().write_ipc(folder / "spans.arrow")
            answer(ok=True)
    except StratoscopeError as error:
        answer(ok=False, message=error.message, hint=error.hint)


def _load(folder: Path) -> LibrarySession:
    told = json.loads((folder / "model.json").read_text())
    module = None
    if told["module"]:
        # Written a moment ago by our own parent process, into a folder of its own.
        module = torch.load(folder / "module.pt", weights_only=False)
    model = LoadableModel(
        manifest=ModelManifest.model_validate(told["manifest"]),
        path=None if told["path"] is None else Path(told["path"]),
        module=module,
        batch_axis=told["batch_axis"],
    )
    return LibrarySession(model, BackendOptions.model_validate(told["options"]), folder / "output.txt")


__all__ = ["LAYER_MARK", "LibrarySession", "add_primitives", "main"]

if __name__ == "__main__":
    main()
