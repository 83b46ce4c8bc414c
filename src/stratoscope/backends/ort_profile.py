"""Reads ONNX Runtime's own profile into spans on our clock.

What the profile is (release 1.31): a JSON list of Chrome events in order of completion. Times are whole microseconds,
rounded down, since a start in UNIX nanoseconds. `model_run` closes one inference, `<node>_kernel_time` one node, and
`...Executor::Execute` one graph: the model's, or the body of a control-flow node on the thread that runs it.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import polars as pl

from stratoscope.errors import BackendError
from stratoscope.trace.levels import Level
from stratoscope.trace.spans import SPAN_SCHEMA

#: The runtime stops recording after this many events, and keeps the first (onnxruntime/core/common/profiler.cc).
MAX_EVENTS: Final = 1_000_000
_NODE_SUFFIX: Final = "_kernel_time"
#: What the runtime appends to make the name of a node of its own unique; the number differs from session to session.
_GENERATED: Final = re.compile(r"_token_\d+$")
_TYPES: Final = {"float": "float32", "double": "float64", "string": "str"}
_US: Final = 1000
_SIZES: Final = ("activation_size", "parameter_size", "output_size")


class ClockAnchor(NamedTuple):
    """UNIX time minus `perf_counter_ns` at one moment, and how far off it may be."""

    offset_ns: int
    window_ns: int


def clock_anchor(tries: int = 50) -> ClockAnchor:
    """The tightest of `tries` readings of the UNIX clock between two of ours."""
    best: ClockAnchor | None = None
    for _ in range(tries):
        before, unix, after = time.perf_counter_ns(), time.time_ns(), time.perf_counter_ns()
        if best is None or after - before < best.window_ns:
            best = ClockAnchor(unix - (before + after) // 2, after - before)
    assert best is not None
    return best


@dataclass(frozen=True, slots=True)
class _Event:
    """One complete event; microseconds since the profile's start."""

    name: str
    start_us: int
    end_us: int
    track: int
    args: dict[str, Any]

    @property
    def is_node(self) -> bool:
        return self.name.endswith(_NODE_SUFFIX)


@dataclass(frozen=True, slots=True)
class _Run:
    """The events of one inference, and our own clock around its call."""

    model: _Event
    events: list[_Event]
    start_ns: int
    end_ns: int
    track: int


@dataclass(frozen=True, slots=True)
class RawProfile:
    """The runs of a profile with the clocks around them; `missing` calls were no longer recorded."""

    runs: list[_Run]
    missing: int
    origin_ns: int
    anchors: tuple[ClockAnchor, ClockAnchor]

    @classmethod
    def read(
        cls,
        path: Path,
        calls: Sequence[tuple[int, int, int]],
        origin_ns: int,
        anchors: tuple[ClockAnchor, ClockAnchor],
    ) -> RawProfile:
        """The profile in `path`; `calls` are (start_ns, end_ns, thread) of our clock around each inference, in order.

        Raises:
            BackendError: the file is no such profile, or holds other runs than `calls`.
        """
        events, recorded = _read_events(path)
        runs: list[list[_Event]] = [[]]
        for event in events:
            runs[-1].append(event)
            if event.name == "model_run":
                runs.append([])
        complete = runs[:-1]
        if len(complete) > len(calls) or (len(complete) < len(calls) and recorded < MAX_EVENTS):
            raise BackendError(f"ONNX Runtime's profile holds {len(complete)} inferences where {len(calls)} were run")
        if not complete:
            raise BackendError(
                f"ONNX Runtime's profile ends at {recorded} events, before the first inference did",
                hint="the model has too many nodes for it: profile a part of it",
            )
        paired = zip(complete, calls, strict=False)
        return cls(
            [_Run(found[-1], found[:-1], *call) for found, call in paired],
            len(calls) - len(complete),
            origin_ns,
            anchors,
        )


def spans_of(profile: RawProfile, model: str) -> pl.DataFrame:
    """The spans (trace.spans.SPAN_SCHEMA) of all runs, numbered from 0, parents assigned.

    MODEL spans are our own clock around the call, and carry in their attributes how the profile was put on it:
    `clock_error_ns` bounds the error of each layer's start, beside the microsecond of `resolution_ns`. Layers are
    called as the nodes, but for the numbers that the runtime appends to its own (`ReorderOutput_token_75`), which
    differ from session to session; the full name is the attribute `node` then.
    """
    columns: dict[str, list[Any]] = {
        name: [] for name in ("span", "parent", "level", "name", "track", "start_ns", "end_ns", "run", "attributes")
    }

    def add(*values: Any) -> int:
        for column, value in zip(columns.values(), (len(columns["span"]), *values), strict=True):
            column.append(value)
        return len(columns["span"]) - 1

    clock = _Clock.fit(profile)
    for number, run in enumerate(profile.runs):
        offset, error = clock.of(run)
        attributes = {
            "clock_error_ns": error,
            "clock_anchor_disagrees_ns": clock.disagreement_ns,
            "resolution_ns": _US,
            "rounding": "down",
            **({"runs_not_recorded": profile.missing} if profile.missing else {}),
        }
        root = add(None, Level.MODEL, model, run.track, run.start_ns, run.end_ns, number, json.dumps(attributes))
        nodes = [event for event in run.events if event.is_node]
        owners = _owners(run.events)
        spans: dict[int, int] = {}
        holders = set(owners.values())
        # Of nodes that begin in one microsecond: a control-flow node before its body, then those that ended first.
        for index in sorted(range(len(nodes)), key=lambda at: (nodes[at].start_us, at not in holders, at)):
            event = nodes[index]
            spans[index] = add(
                None,
                Level.LAYER,
                stable_name(event.name.removesuffix(_NODE_SUFFIX)),
                event.track,
                event.start_us * _US + offset,
                event.end_us * _US + offset,
                number,
                json.dumps(_attributes(event)),
            )
        for index, span in spans.items():
            columns["parent"][span] = spans[owners[index]] if index in owners else root
    frame = pl.DataFrame(columns, schema={name: SPAN_SCHEMA[name] for name in columns})
    return frame.with_columns(
        kind=pl.lit("sync").cast(SPAN_SCHEMA["kind"]),
        correlation=pl.lit(0, dtype=pl.Int64),
        site=pl.lit(None, dtype=pl.String),
    ).select(list(SPAN_SCHEMA))


@dataclass(frozen=True, slots=True)
class _Clock:
    """Puts the profile's microseconds on our clock: ours = 1000 * us + offset.

    Each run bounds the offset: its `model_run` lies between our readings before and after the call. Where all runs have
    offsets in common, the middle of those is taken, and half their width bounds the error; else (the UNIX clock was
    stepped or slewed in between) each run gets its own. The anchors, a second way to the same offset, only check it.
    """

    low: int
    high: int
    disagreement_ns: int

    @classmethod
    def fit(cls, profile: RawProfile) -> _Clock:
        bounds = [_bounds(run) for run in profile.runs]
        low, high = max(low for low, _ in bounds), min(high for _, high in bounds)
        anchored = profile.origin_ns - sum(anchor.offset_ns for anchor in profile.anchors) // 2
        # Some releases count from a steady clock, which on Linux is the one that we read.
        outside = (max(low - offset, offset - high, 0) for offset in (anchored, profile.origin_ns))
        return cls(low, high, min(outside))

    def of(self, run: _Run) -> tuple[int, int]:
        """(offset, error bound) for the events of one run, in nanoseconds."""
        low, high = (self.low, self.high) if self.low <= self.high else _bounds(run)
        return (low + high) // 2, (abs(high - low) + 1) // 2


def _bounds(run: _Run) -> tuple[int, int]:
    return run.start_ns - run.model.start_us * _US, run.end_ns - run.model.end_us * _US


def _owners(events: Sequence[_Event]) -> dict[int, int]:
    """For each node inside the body of a control-flow node: that node; both counted among the nodes of `events`.

    Events come in order of completion, so read backwards each control-flow node precedes the run of its body
    (`Execute`), and that precedes what the body ran. A thread's own last body decides; a node on another thread goes to
    the one body that encloses it, if there is one only, and to the model otherwise.
    """
    bodies: list[tuple[_Event, int]] = []
    open_bodies: dict[int, list[tuple[_Event, int]]] = {}
    last_node: dict[int, list[tuple[_Event, int]]] = {}
    owners: dict[int, int] = {}
    index = sum(event.is_node for event in events)
    for event in reversed(events):
        stack = open_bodies.setdefault(event.track, [])
        while stack and event.start_us < stack[-1][0].start_us:
            stack.pop()
        nodes = last_node.setdefault(event.track, [])
        while nodes and event.start_us < nodes[-1][0].start_us:
            nodes.pop()
        if event.is_node:
            index -= 1
            if stack:
                owners[index] = stack[-1][1]
            else:
                around = [owner for body, owner in bodies if _within(event, body) and body.track != event.track]
                if len(around) == 1:
                    owners[index] = around[0]
            nodes.append((event, index))
        elif event.name.endswith("::Execute") and nodes:
            stack.append((event, nodes[-1][1]))
            bodies.append(stack[-1])
    return owners


def _within(event: _Event, body: _Event) -> bool:
    """Whether `event` ran inside `body`, up to the microsecond that rounding takes from an end."""
    return body.start_us <= event.start_us and event.end_us <= body.end_us + 1


def stable_name(node: str) -> str:
    """The name of a node without what the runtime appended to make it unique."""
    return _GENERATED.sub("", node)


def _attributes(event: _Event) -> dict[str, Any]:
    """What the runtime tells of one node execution, under our names; absent where it does not."""
    args = event.args
    told: dict[str, Any] = {"op": args.get("op_name"), "provider": args.get("provider")}
    node = event.name.removesuffix(_NODE_SUFFIX)
    if node != stable_name(node):
        told["node"] = node
    if str(args.get("node_index", "")).isdigit():
        told["node_index"] = int(args["node_index"])
    for side in ("input", "output"):
        shapes = args.get(f"{side}_type_shape")
        if isinstance(shapes, list):
            told[f"{side}s"] = [
                {"type": _TYPES.get(kind, kind), "shape": shape} for tensor in shapes for kind, shape in tensor.items()
            ]
    for size in _SIZES:
        if str(args.get(size, "")).isdigit():
            told[size.replace("_size", "_bytes")] = int(args[size])
    return {key: value for key, value in told.items() if value not in (None, "")}


def _read_events(path: Path) -> tuple[list[_Event], int]:
    """The events that tell of inferences, and the number of all."""
    try:
        events = json.loads(path.read_bytes())
        found = [
            _Event(str(one["name"]), int(one["ts"]), int(one["ts"]) + int(one["dur"]), int(one["tid"]), one["args"])
            for one in events
            if one.get("ph") == "X"
            and (one["name"] == "model_run" or one.get("cat") == "Node" or "::Execute" in one["name"])
        ]
        return found, len(events)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BackendError(f"ONNX Runtime's profile {path.name} cannot be read: {error}") from error
