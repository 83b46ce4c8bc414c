"""Measures the bricks of a model in the model's order, in one process and one arena: what each takes inside the model.

Bricks that are timed back to back are too fast (all of it sits in L1 and L2), and with caches emptied between calls too
slow. In a model each finds its input where its predecessor left it, its weights as far away as a whole pass of the
model has pushed them, and memory that others have just given back. So the bricks of a model are held by one process,
share activation buffers and one allocator, and are called in the order of the model, pass after pass; the first pass is
not counted. A pass of the model also reads the weights of all the places that a brick stands for: so many bytes are
read between two passes (at most what empties the caches), else weights that the model never finds in a cache would be
found there. Beside that a pass costs what the unique bricks cost.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from onnx import TensorProto, helper

from stratoscope.errors import MeasurementError
from stratoscope.graph.brick_model import IR_VERSION
from stratoscope.spec.performance import CacheState, Candidate, Environment, Part, PartMeasurement, PartNoise, Protocol
from stratoscope.stats.quantile import low_quartile
from stratoscope.stats.quantity import Quantity

#: Samples of a brick that are always taken, and how narrow the interval of a pass must be to stop before the budget.
LEAST_SAMPLES: Final = 8
MOST_SAMPLES: Final = 60
TARGET: Final = 0.02
#: Seconds of one model's bricks in one cache state, unless the least number of samples takes longer.
STATE_S: Final = 3.0
REPEATS: Final[dict[str, int]] = {"sequence": 3, "hot": 2, "evicted": 2}
LIBRARIES: Final = ("onnxruntime", "pytorch")
ANSWER_S: Final = 120.0
#: 2: the weights of a brick's further places are read between passes; before, repeated blocks were up to 2 % too fast.
SEQUENCE_VERSION: Final = 2
#: A pass in which the thread had so much less CPU time than wall time shared its CPU: it is thrown away.
MOST_WALL_OVER_CPU: Final = 1.1
_EMPTY: Final = -1  # the number of the empty model among the bricks
_WHOLE: Final = -2  # that of the whole model beside its bricks
_EVICT_TIMES: Final = 2
_DEFAULT_LAST_LEVEL: Final = 64 << 20

OnResult = Callable[[PartMeasurement], None]
OnProgress = Callable[[str, float | None], None]


@dataclass(frozen=True, slots=True)
class RunnableBrick:
    """A brick to measure: what it is, its skeleton, and why there is none. `wanted` is false for one that is measured
    already and only runs to leave the caches as the model would. `further_bytes` are weights that a pass of the model
    reads beside those of the bricks that run: at the further places of this brick, and of those left out before it."""

    part: Part
    skeleton: bytes
    problem: str | None = None
    wanted: bool = True
    further_bytes: int = 0


def protocol_of(state: CacheState, threads: int = 1) -> Protocol:
    """The protocol of a cache state; that of a sequence has a version of its own."""
    if state == "sequence":
        return Protocol(cache=state, threads=threads, version=SEQUENCE_VERSION)
    return Protocol(cache=state, threads=threads)


@dataclass(slots=True)
class SequenceSummary:
    """What a run measured: bricks by status, and those that the budget did not reach."""

    measured: int = 0
    failed: int = 0
    left: int = 0
    seconds: float = 0.0


class _Lost(Exception):
    """The worker crashed or hung; the text says which."""


class _Refused(Exception):
    """The runtime refused the brick; the text says why."""


@dataclass(slots=True)
class _Samples:
    wall_s: dict[int, list[float]] = field(default_factory=dict)
    cpu_s: dict[int, list[float]] = field(default_factory=dict)
    rejected: int = 0

    def add(self, told: dict[str, dict[str, list[int]]], threads: int) -> None:
        """Adds a round, or counts it as rejected where others took the CPU."""
        wall = {int(number): values for number, values in told["wall_ns"].items()}
        cpu = {int(number): values for number, values in told["cpu_ns"].items()}
        total_wall, total_cpu = (sum(map(sum, values.values())) for values in (wall, cpu))
        if threads == 1 and total_wall > MOST_WALL_OVER_CPU * total_cpu:
            self.rejected += 1
            return
        for number, values in wall.items():
            self.wall_s.setdefault(number, []).extend(one * 1e-9 for one in values)
            self.cpu_s.setdefault(number, []).extend(one * 1e-9 for one in cpu[number])

    @property
    def count(self) -> int:
        """Samples of each brick."""
        return min(map(len, self.wall_s.values()), default=0)

    def precise(self) -> bool:
        """Whether the interval of a whole pass is narrow enough."""
        rows = list(zip(*self.wall_s.values(), strict=False))
        found = low_quartile([sum(row) for row in rows])
        if found.ci_low is None or found.ci_high is None:
            return False
        return found.ci_high - found.ci_low <= TARGET * found.require()


def measure_groups(
    groups: Sequence[Sequence[RunnableBrick]],
    candidate: Candidate,
    protocols: Sequence[Protocol],
    *,
    environment: Environment,
    on_result: OnResult,
    budget_s: float | None = None,
    progress: OnProgress | None = None,
    summary: SequenceSummary | None = None,
) -> SequenceSummary:
    """Measures groups of bricks (each a model's, in its order); each result goes to `on_result`.

    The caller holds the measurement lock. A brick that does not build, load or run is recorded as failed with its
    reason and the others go on without it. No group is begun after `budget_s` seconds. `summary` is what the counts go
    into, so that they are there where Ctrl-C ends the run.

    Raises:
        MeasurementError: the candidate's library is not one of LIBRARIES, or a protocol cannot be kept here.
    """
    _check(candidate, protocols)
    start = time.monotonic()
    summary = summary or SequenceSummary()
    for number, group in enumerate(groups):
        wanted = [brick for brick in group if brick.wanted]
        if not wanted:
            continue
        if budget_s is not None and time.monotonic() - start >= budget_s:
            summary.left += len(wanted)
            continue
        if progress is not None:
            progress(f"{len(wanted)} bricks", number / len(groups))
        for protocols_of_threads in _by_threads(protocols):
            for measurement in _measure_group(group, candidate, protocols_of_threads, environment):
                if measurement.status == "ok":
                    summary.measured += 1
                else:
                    summary.failed += 1
                on_result(measurement)
        summary.seconds = time.monotonic() - start
    return summary


def compare_with_whole(
    group: Sequence[RunnableBrick],
    candidate: Candidate,
    protocols: Sequence[Protocol],
    *,
    environment: Environment,
    model: Path,
    feeds: Mapping[str, np.ndarray[Any, Any]],
) -> tuple[Quantity, list[PartMeasurement]]:
    """A model's latency end to end, and its bricks', taken in turns in one process so that drift meets both alike.

    `protocols` are of one number of threads. The latency is p25 of the calls, the cost of one call in it. Raises
    MeasurementError where the model or every brick does not run.
    """
    _check(candidate, protocols)
    begun = datetime.now(UTC)
    failures = {number: brick.problem for number, brick in enumerate(group) if brick.problem}
    order = [number for number in range(len(group)) if number not in failures]
    found: dict[CacheState, _Samples] = {one.cache: _Samples() for one in protocols}
    whole = _Samples()
    try:
        with _Worker(candidate, protocols[0].threads, environment) as worker:
            settings = worker.open_all(group, order, failures)
            order = [number for number in order if number not in failures]
            worker.open_model(model, feeds)
            further = sum(group[number].further_bytes for number in order)
            deadline = time.monotonic() + STATE_S * (1 + len(protocols))
            while _scarce(whole, *found.values()) or (time.monotonic() < deadline and whole.count < MOST_SAMPLES):
                whole.add(worker.sample([_WHOLE], "sequence"), protocols[0].threads)
                for one in protocols:
                    found[one.cache].add(worker.round(order, one, further), one.threads)
                if whole.rejected + sum(one.rejected for one in found.values()) > MOST_SAMPLES:
                    raise MeasurementError("other processes take the CPU", hint="try again when the machine is idle")
    except (_Lost, _Refused) as error:
        raise MeasurementError(f"{model.name} and its bricks do not run together: {error}") from None
    took = (datetime.now(UTC) - begun).total_seconds() / max(1, len(group))
    results = [
        _result(brick, number, candidate, environment, protocol, failures, found, settings, begun, took)
        for number, brick in enumerate(group)
        for protocol in protocols
    ]
    return low_quartile(whole.wall_s[_WHOLE]), results


def _scarce(*samples: _Samples) -> bool:
    return any(one.count < LEAST_SAMPLES for one in samples)


def measure_whole(
    model: Path,
    feeds: Mapping[str, np.ndarray[Any, Any]],
    protocol: Protocol,
    environment: Environment,
    library: str = "onnxruntime",
) -> Quantity:
    """A model's latency end to end by the stopping rule of a group of bricks: p25 of the calls, one call's cost in it.

    Raises MeasurementError where the model does not run.
    """
    how = {"onnxruntime": "graph=all", "pytorch": "eager"}[library]
    candidate = Candidate(library=library, implementation=how, version="")
    try:
        with _Worker(candidate, protocol.threads, environment) as worker:
            worker.open_all([], [], {})
            worker.open_model(model, feeds)
            samples = _sampled(worker, [_WHOLE], protocol)
    except (_Lost, _Refused) as error:
        raise MeasurementError(f"{model.name} does not run: {error}") from None
    if samples.count < LEAST_SAMPLES:
        raise MeasurementError("other processes take the CPU", hint="try again when the machine is idle")
    return low_quartile(samples.wall_s[_WHOLE])


def _check(candidate: Candidate, protocols: Sequence[Protocol]) -> None:
    if candidate.library not in LIBRARIES:
        raise MeasurementError(
            f"bricks run in sequence with {' and '.join(LIBRARIES)} only, not with {candidate.library}",
            hint="measure them one by one instead",
        )
    cpus = len(os.sched_getaffinity(0))
    for protocol in protocols:
        if protocol.threads > cpus:
            raise MeasurementError(f"{protocol.threads} threads cannot be measured on {cpus} CPUs")
        if protocol.cache not in REPEATS:
            raise MeasurementError(f"bricks are not measured with caches {protocol.cache}")


def _by_threads(protocols: Sequence[Protocol]) -> list[list[Protocol]]:
    return [[one for one in protocols if one.threads == n] for n in sorted({one.threads for one in protocols})]


def _measure_group(
    group: Sequence[RunnableBrick], candidate: Candidate, protocols: Sequence[Protocol], environment: Environment
) -> list[PartMeasurement]:
    begun, start = datetime.now(UTC), time.monotonic()
    failures = {number: brick.problem for number, brick in enumerate(group) if brick.problem}
    found: dict[CacheState, _Samples] = {}
    settings: dict[str, Any] = {}
    while len(failures) < len(group):
        order = [number for number in range(len(group)) if number not in failures]
        try:
            with _Worker(candidate, protocols[0].threads, environment) as worker:
                settings = worker.open_all(group, order, failures)
                order = [number for number in order if number not in failures]
                further = sum(group[number].further_bytes for number in order)
                if order:
                    found = {one.cache: _sampled(worker, order, one, further) for one in protocols}
            break
        except _Lost as lost:
            if worker.present is None:
                raise MeasurementError(f"the bricks' worker does not run: {lost}") from None
            failures[worker.present] = str(lost)
    took = (time.monotonic() - start) / max(1, len(group) * len(protocols))
    return [
        _result(brick, number, candidate, environment, protocol, failures, found, settings, begun, took)
        for number, brick in enumerate(group)
        if brick.wanted
        for protocol in protocols
    ]


def _sampled(worker: _Worker, order: Sequence[int], protocol: Protocol, further_bytes: int = 0) -> _Samples:
    """Rounds of all bricks, with the empty model at the end of each, until precise or the time is spent."""
    samples = _Samples()
    deadline = time.monotonic() + STATE_S
    while True:
        samples.add(worker.round(order, protocol, further_bytes), protocol.threads)
        late = time.monotonic() >= deadline
        if samples.rejected > MOST_SAMPLES or samples.count >= MOST_SAMPLES:
            return samples
        if samples.count >= LEAST_SAMPLES and (late or samples.precise()):
            return samples


def _result(
    brick: RunnableBrick,
    number: int,
    candidate: Candidate,
    environment: Environment,
    protocol: Protocol,
    failures: dict[int, str],
    found: dict[CacheState, _Samples],
    settings: dict[str, Any],
    begun: datetime,
    took_s: float,
) -> PartMeasurement:
    known: dict[str, Any] = {
        "part": brick.part,
        "candidate": candidate,
        "environment": environment,
        "protocol": protocol,
        "started_at": begun,
        "duration_s": took_s,
    }
    samples = found.get(protocol.cache)
    if number in failures:
        status = "unsupported" if brick.problem else "failed"
        return PartMeasurement(**known, status=status, reason=failures[number])
    if samples is None or samples.count < LEAST_SAMPLES:
        return PartMeasurement(**known, status="refused", reason="other processes took the CPU meanwhile")
    empty = low_quartile(samples.wall_s[_EMPTY])
    wall, cpu = low_quartile(samples.wall_s[number]).require(), low_quartile(samples.cpu_s[number]).require()
    return PartMeasurement(
        **known,
        status="ok",
        samples_s=tuple(round(one, 9) for one in samples.wall_s[number]),
        overhead_s=empty.require(),
        overhead_low_s=empty.ci_low,
        overhead_high_s=empty.ci_high,
        settings=settings,
        executed_operators=brick.part.operators if candidate.implementation == "graph=off" else (),
        noise=PartNoise(
            wall_over_cpu=round(wall / cpu, 4) if cpu > 0 else None,
            cpu_p25_s=cpu,
            load_average=os.getloadavg()[0],
            quiet=True,
            reason=f"{samples.rejected} rounds thrown away" if samples.rejected else "",
        ),
    )


class _Worker:
    """The process that holds a group. `present` is the brick that it was opening when it was lost."""

    def __init__(self, candidate: Candidate, threads: int, environment: Environment) -> None:
        self.present: int | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="stratoscope-bricks-")
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        cpus = ",".join(map(str, sorted(os.sched_getaffinity(0))[-threads:]))
        evict = _EVICT_TIMES * (environment.last_level_bytes or _DEFAULT_LAST_LEVEL)
        command = [sys.executable, "-m", "stratoscope.measure.sequence_worker", candidate.model_dump_json()]
        command += [str(threads), cpus, str(evict), self._folder.name]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, start_new_session=True
        )

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            self._process.stdin = None  # it ended before it read its last question
        self._errors.close()
        self._folder.cleanup()

    def open_all(
        self, group: Sequence[RunnableBrick], order: Sequence[int], failures: dict[int, str]
    ) -> dict[str, Any]:
        """Opens the empty model and the bricks; what the runtime refuses goes into `failures`."""
        settings = self._open(_EMPTY, _empty_model())
        for number in order:
            self.present = number
            try:
                self._open(number, group[number].skeleton)
            except _Refused as refused:
                failures[number] = str(refused)
        self.present = None
        return settings

    def _open(self, number: int, content: bytes) -> dict[str, Any]:
        path = Path(self._folder.name) / "brick.onnx"
        path.write_bytes(content)
        told: dict[str, Any] = self.ask("open", number=number, model=str(path), seed=0)
        return told

    def open_model(self, model: Path, feeds: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Opens a whole model with these inputs."""
        path = Path(self._folder.name) / "feeds.npz"
        np.savez(path, **feeds)  # type: ignore[arg-type]
        self.ask("open_model", number=_WHOLE, model=str(model), feeds=str(path))

    def sample(self, order: Sequence[int], state: CacheState, further_bytes: int = 0) -> Any:
        """Samples of these numbers in their order; in sequence so many further bytes are read after each pass."""
        question = {"order": list(order), "cache": state, "repeats": REPEATS[state], "further_bytes": further_bytes}
        return self.ask("sample", **question)

    def round(self, order: Sequence[int], protocol: Protocol, further_bytes: int) -> Any:
        """Samples of the bricks, and of the empty model at the end of each pass."""
        return self.sample([*order, _EMPTY], protocol.cache, further_bytes)

    def ask(self, do: str, **question: Any) -> Any:
        """The answer to a question. Raises _Refused with the runtime's reason, _Lost where the worker is gone."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **question}).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise _Lost(self._post_mortem()) from None
        line = b""
        deadline = time.monotonic() + ANSWER_S
        while not line.endswith(b"\n"):
            ready = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]
            if not ready:
                raise _Lost(f"it hung: no answer in {ANSWER_S:.0f} s")
            piece = os.read(self._process.stdout.fileno(), 1 << 20)
            if not piece:
                raise _Lost(self._post_mortem())
            line += piece
        answer = json.loads(line)
        if "ok" not in answer:
            raise _Refused(answer["reason"])
        return answer["ok"]

    def _post_mortem(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        how = f"it was ended by {signal.Signals(-code).name}" if code < 0 else f"it ended with status {code}"
        return how + (f", last words: {lines[-1][:200]}" if lines else "")


def _empty_model() -> bytes:
    """One Identity of one number: what every call costs."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "empty", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=IR_VERSION)
    return bytes(model.SerializeToString())
