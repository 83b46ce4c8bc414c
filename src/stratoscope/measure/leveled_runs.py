"""Runs of a leveled experiment: unprofiled, profiled and control inferences, interleaved in random order."""

from __future__ import annotations

import gc
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import polars as pl
import psutil
from numpy.typing import ArrayLike, NDArray

from stratoscope.backends.base import BackendOptions, Feeds, Session, TraceSession, TracingBackend
from stratoscope.host.noise import NoiseSnapshot, ThreadNoise
from stratoscope.spec.model import LoadableModel
from stratoscope.stats.noise import GateResult, gate
from stratoscope.trace.levels import Level

#: The configurations: model level alone, model and layer level, and model level again to see how much noise there is.
PLAIN: Final = "unprofiled"
PROFILED: Final = "profiled"
CONTROL: Final = "control"

#: Inferences of each session before anything is kept: the first allocates, the next ones settle caches and clocks.
WARMUP_CALLS: Final = 3
LEAST_WARMUP_CALLS: Final = 2
WARMUP_S: Final = 0.1
MOST_WARMUP_CALLS: Final = 200
#: A session that took this long has settled after two calls.
LONG_WARMUP_S: Final = 1.0
#: Above this inference time no call is dropped after a change of session: it sweeps the caches by itself.
LONG_S: Final = 0.1
#: Half of these, should the gate refuse all, still make an interval.
FEWEST_BLOCKS: Final = 5
MOST_REPEATS_A_BLOCK: Final = 50
#: Blocks of one inference each, where they are long.
MOST_BLOCKS: Final = 200
#: A second plain session is loaded for the control only where three copies of the model fit in this share of memory.
MEMORY_SHARE: Final = 0.5
_COPIES: Final = 3
#: Attribute of a model span: nanoseconds that its thread waited for a CPU meanwhile.
WAIT: Final = "run_queue_wait_ns"

Call = Callable[[], object]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Schedule:
    """`blocks` rounds of all configurations in random order; in each, `repeats` inferences after `dropped` ones."""

    blocks: int
    repeats: int
    dropped: int

    @classmethod
    def plan(cls, inference_s: float, budget_s: float, *, blocks: int, repeats: int | None) -> Schedule:
        """What fits in `budget_s` with inferences of `inference_s`, but never under five blocks of one repeat.

        `repeats`, where given, is the number of inferences of each configuration, and the budget is not looked at.
        Without it, inferences that are long enough to drop none have a block for each: what drifts from second to
        second then meets all configurations alike.
        """
        dropped = 0 if inference_s > LONG_S else 1
        if repeats is not None:
            blocks = max(1, min(blocks, repeats))
            return cls(blocks, -(-repeats // blocks), dropped)
        calls = max(0, int(budget_s / (3 * max(inference_s, 1e-9))))  # of each configuration, dropped ones included
        blocks = max(FEWEST_BLOCKS, min(blocks, calls // (1 + dropped)) if dropped else min(calls, MOST_BLOCKS))
        return cls(blocks, max(1, min(MOST_REPEATS_A_BLOCK, calls // blocks - dropped)), dropped)


@dataclass(slots=True)
class Runs:
    """What was measured of one configuration, one entry an inference."""

    block: list[int] = field(default_factory=list)
    duration_ns: list[int] = field(default_factory=list)
    call: list[int] = field(default_factory=list)  # number of the call in its session, dropped ones counted
    before: list[NoiseSnapshot] = field(default_factory=list)
    after: list[NoiseSnapshot] = field(default_factory=list)

    def gate(self) -> GateResult:
        """The noise gate's verdict on these inferences."""
        pairs = list(zip(self.before, self.after, strict=True))
        waits = [b.wait_ns - a.wait_ns for a, b in pairs if a.wait_ns is not None and b.wait_ns is not None]
        return gate(
            [b.wall_ns - a.wall_ns for a, b in pairs],
            [b.cpu_ns - a.cpu_ns for a, b in pairs],
            waits if len(waits) == len(pairs) else None,
            [b.involuntary - a.involuntary for a, b in pairs],
        )


@dataclass(slots=True)
class Sessions:
    """The loaded sessions, their bound calls by configuration, and how many calls each has had."""

    calls: dict[str, Call]
    trace: TraceSession
    separate_control: bool
    made: dict[str, int] = field(default_factory=dict)
    settles: dict[str, Callable[[], None]] = field(default_factory=dict)

    def run(self, name: str) -> None:
        """One inference that is not kept."""
        self.calls[name]()
        self.made[name] = self.made.get(name, 0) + 1


@contextmanager
def open_sessions(
    backend: TracingBackend, model: LoadableModel, options: BackendOptions, feeds: Feeds, model_bytes: int
) -> Iterator[Sessions]:
    """A plain and a profiled session, and a second plain one as control where three copies of the model fit."""
    with ExitStack() as stack:

        def load() -> Session:
            session = backend.load(model, options)
            stack.callback(session.close)
            return session

        plain = load().bind(feeds)
        trace = backend.open_trace(model, options)
        stack.callback(trace.close)
        profiled = trace.bind(feeds)
        separate = fits_in_memory(model_bytes)
        control = load().bind(feeds) if separate else plain
        yield Sessions({PLAIN: plain, PROFILED: profiled, CONTROL: control}, trace, separate)


def warm_up(sessions: Sessions) -> float:
    """Runs each session until it has settled; returns the time of one unprofiled inference in seconds."""
    times: list[int] = []
    for name in sessions.calls:
        spent = 0
        for count in range(MOST_WARMUP_CALLS):
            settled = count >= WARMUP_CALLS and spent >= WARMUP_S * 1e9
            if settled or (count >= LEAST_WARMUP_CALLS and spent >= LONG_WARMUP_S * 1e9):
                break
            start = time.perf_counter_ns()
            sessions.run(name)
            duration = time.perf_counter_ns() - start
            spent += duration
            if name == PLAIN and count:
                times.append(duration)
    return float(np.median(times)) / 1e9


def interleave(sessions: Sessions, schedule: Schedule, seed: int, report: Callable[[str], None]) -> dict[str, Runs]:
    """Carries the schedule out in this thread, the garbage collector off."""
    order = random.Random(seed)
    runs = {name: Runs() for name in sessions.calls}
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        with ThreadNoise() as noise:
            for block in range(schedule.blocks):
                report(f"layers: block {block + 1} of {schedule.blocks}")
                for name in order.sample(sorted(runs), len(runs)):
                    for _ in range(schedule.dropped):
                        sessions.run(name)
                    settle = sessions.settles.get(name) if schedule.dropped else None
                    _repeat(sessions, name, block, schedule.repeats, runs[name], noise, settle)
    finally:
        if collecting:
            gc.enable()
    return runs


def _repeat(
    sessions: Sessions,
    name: str,
    block: int,
    repeats: int,
    runs: Runs,
    noise: ThreadNoise,
    settle: Callable[[], None] | None,
) -> None:
    """`settle`, where given, goes before each inference; long ones sweep the caches by themselves."""
    call, clock = sessions.calls[name], time.perf_counter_ns
    for _ in range(repeats):
        if settle is not None:
            settle()
        before = noise.snapshot()
        start = clock()
        call()
        end = clock()
        after = noise.snapshot()
        runs.before.append(before)
        runs.after.append(after)
        runs.duration_ns.append(end - start)
        runs.block.append(block)
        runs.call.append(sessions.made.get(name, 0))
        sessions.made[name] = sessions.made.get(name, 0) + 1


def block_medians(runs: Runs, values: ArrayLike, accepted: NDArray[np.bool_]) -> dict[int, float]:
    """The median of the accepted inferences of each block that has any."""
    block, array = np.asarray(runs.block), np.asarray(values, dtype=np.float64)
    return {int(one): float(np.median(array[accepted & (block == one)])) for one in np.unique(block[accepted])}


def kept_spans(spans: pl.DataFrame, calls: Sequence[int]) -> pl.DataFrame:
    """The spans of the given calls of the trace session, their runs numbered from 0 in the order of `calls`."""
    number = pl.DataFrame({"run": list(calls), "kept": range(len(calls))}, schema={"run": pl.Int32, "kept": pl.Int32})
    joined = spans.join(number, on="run", how="inner", maintain_order="left")
    return joined.with_columns(run=pl.col("kept")).select(spans.columns)


def with_waits(kept: pl.DataFrame, runs: Runs, accepted: NDArray[np.bool_]) -> pl.DataFrame:
    """`kept` (of `kept_spans`) with the run-queue wait of each inference in the attributes of its model span.

    Inferences of another process, which tell of their own noise, stay as they are; so do those without a counter.
    """
    pairs = [pair for pair, ok in zip(zip(runs.before, runs.after, strict=True), accepted, strict=True) if ok]
    waits = [None if a.wait_ns is None or b.wait_ns is None else b.wait_ns - a.wait_ns for a, b in pairs]
    texts = []
    for level, run, text in kept.select("level", "run", "attributes").iter_rows():
        told = json.loads(text or "{}") if level == Level.MODEL.value else {}
        if level == Level.MODEL.value and "noise" not in told and waits[run] is not None:
            text = json.dumps(told | {WAIT: waits[run]})
        texts.append(text)
    return kept.with_columns(attributes=pl.Series(texts, dtype=pl.String))


def fits_in_memory(model_bytes: int, copies: int = _COPIES) -> bool:
    """Whether so many copies of the model take no more than half of the free memory."""
    return bool(model_bytes * copies <= psutil.virtual_memory().available * MEMORY_SHARE)
