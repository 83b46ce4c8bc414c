"""Measures the bricks of a model in the model's order, in one process and one arena: what each takes inside the model.

Bricks that are timed back to back are too fast (all of it sits in L1 and L2), and with caches emptied between calls too
slow. In a model each finds its input as its predecessor has just written it, its weights as far away as a whole pass of
the model has pushed them, and memory that others have just given back; what it computes stays inside the model. So the
bricks of a model are held by one process, share their inputs' memory and one allocator, and are called in the order of
the model, pass after pass; the first pass is not counted. Before each call the inputs are written anew, and only one
element of each output leaves (observed.py), except where the model ends. A pass of the model also reads the weights of
all the places that a brick stands for: so many bytes are read between two passes (at most what empties the caches),
else weights that the model never finds in a cache would be found there. Beside that a pass costs what the unique bricks
cost.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np

from stratoscope.errors import MeasurementError
from stratoscope.measure.runnable import RunnableBrick
from stratoscope.measure.sequence_process import EMPTY, EMPTY_OBSERVED, REPEATS, WHOLE, Lost, Process, Refused
from stratoscope.spec.performance import CacheState, Candidate, Environment, PartMeasurement, PartNoise, Protocol
from stratoscope.stats.quantile import low_quartile
from stratoscope.stats.quantity import Quantity

#: Samples of a brick that are always taken, and how narrow the interval of a pass must be to stop before the budget.
LEAST_SAMPLES: Final = 8
MOST_SAMPLES: Final = 60
TARGET: Final = 0.02
#: Seconds of one model's bricks in one cache state, unless the least number of samples takes longer.
STATE_S: Final = 3.0
LIBRARIES: Final = ("onnxruntime", "pytorch")
#: 2: the weights of a brick's further places are read between passes; before, repeated blocks were up to 2 % too fast.
#: 3: inputs are written anew before each call, and what a brick computes takes the place in memory that it has in a
#: model; before, small convolutional networks were up to 10 % too slow.
SEQUENCE_VERSION: Final = 3
#: A pass in which the thread had so much less CPU time than wall time shared its CPU: it is thrown away.
MOST_WALL_OVER_CPU: Final = 1.1

OnResult = Callable[[PartMeasurement], None]
OnProgress = Callable[[str, float | None], None]


def protocol_of(state: CacheState, threads: int = 1) -> Protocol:
    """The protocol of bricks in a cache state."""
    return Protocol(cache=state, threads=threads, version=SEQUENCE_VERSION)


@dataclass(slots=True)
class SequenceSummary:
    """What a run measured: bricks by status, and those that the budget did not reach."""

    measured: int = 0
    failed: int = 0
    left: int = 0
    seconds: float = 0.0


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
    whole, run = _Samples(), _Run(candidate, environment, begun)
    try:
        with Process(candidate, protocols[0].threads, environment) as worker:
            run.opened(worker, group, order, failures)
            order = [number for number in order if number not in failures]
            worker.open_model(model, feeds)
            further = sum(group[number].further_bytes for number in order)
            deadline = time.monotonic() + STATE_S * (1 + len(protocols))
            while _scarce(whole, *found.values()) or (time.monotonic() < deadline and whole.count < MOST_SAMPLES):
                whole.add(worker.sample([WHOLE], "sequence"), protocols[0].threads)
                for one in protocols:
                    found[one.cache].add(worker.round(order, one, further), one.threads)
                if whole.rejected + sum(one.rejected for one in found.values()) > MOST_SAMPLES:
                    raise MeasurementError("other processes take the CPU", hint="try again when the machine is idle")
    except (Lost, Refused) as error:
        raise MeasurementError(f"{model.name} and its bricks do not run together: {error}") from None
    run.took_s = (datetime.now(UTC) - begun).total_seconds() / max(1, len(group))
    results = [
        run.result(brick, number, protocol, failures, found)
        for number, brick in enumerate(group)
        for protocol in protocols
    ]
    return low_quartile(whole.wall_s[WHOLE]), results


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
        with Process(candidate, protocol.threads, environment) as worker:
            worker.open_all([], [], {})
            worker.open_model(model, feeds)
            samples = _sampled(worker, [WHOLE], protocol)
    except (Lost, Refused) as error:
        raise MeasurementError(f"{model.name} does not run: {error}") from None
    if samples.count < LEAST_SAMPLES:
        raise MeasurementError("other processes take the CPU", hint="try again when the machine is idle")
    return low_quartile(samples.wall_s[WHOLE])


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
    run = _Run(candidate, environment, begun)
    while len(failures) < len(group):
        order = [number for number in range(len(group)) if number not in failures]
        try:
            with Process(candidate, protocols[0].threads, environment) as worker:
                run.opened(worker, group, order, failures)
                order = [number for number in order if number not in failures]
                further = sum(group[number].further_bytes for number in order)
                if order:
                    found = {one.cache: _sampled(worker, order, one, further) for one in protocols}
            break
        except Lost as lost:
            if worker.present is None:
                raise MeasurementError(f"the bricks' worker does not run: {lost}") from None
            failures[worker.present] = str(lost)
    run.took_s = (time.monotonic() - start) / max(1, len(group) * len(protocols))
    return [
        run.result(brick, number, protocol, failures, found)
        for number, brick in enumerate(group)
        if brick.wanted
        for protocol in protocols
    ]


def _sampled(worker: Process, order: Sequence[int], protocol: Protocol, further_bytes: int = 0) -> _Samples:
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


@dataclass(slots=True)
class _Run:
    """A run of a group: what all its results have in common."""

    candidate: Candidate
    environment: Environment
    begun: datetime
    took_s: float = 0.0
    settings: dict[str, Any] = field(default_factory=dict)
    observed: dict[int, int] = field(default_factory=dict)

    def opened(
        self, worker: Process, group: Sequence[RunnableBrick], order: Sequence[int], failures: dict[int, str]
    ) -> None:
        """Opens the group, and keeps what the process tells of itself."""
        self.settings = worker.open_all(group, order, failures)
        self.observed = worker.observed

    def result(
        self,
        brick: RunnableBrick,
        number: int,
        protocol: Protocol,
        failures: dict[int, str],
        found: dict[CacheState, _Samples],
    ) -> PartMeasurement:
        """The record of one brick, whether it ran or not."""
        known: dict[str, Any] = {
            "part": brick.part,
            "candidate": self.candidate,
            "environment": self.environment,
            "protocol": protocol,
            "started_at": self.begun,
            "duration_s": self.took_s,
        }
        samples = found.get(protocol.cache)
        if number in failures:
            status = "unsupported" if brick.problem else "failed"
            return PartMeasurement(**known, status=status, reason=failures[number])
        if samples is None or samples.count < LEAST_SAMPLES:
            return PartMeasurement(**known, status="refused", reason="other processes took the CPU meanwhile")
        wall, cpu = (low_quartile(one[number]).require() for one in (samples.wall_s, samples.cpu_s))
        as_is = self.candidate.implementation == "graph=off"
        return PartMeasurement(
            **known,
            **_overhead(samples, self.observed.get(number, 0)),
            status="ok",
            samples_s=tuple(round(one, 9) for one in samples.wall_s[number]),
            settings=self.settings,
            executed_operators=brick.part.operators if as_is else (),
            noise=PartNoise(
                wall_over_cpu=round(wall / cpu, 4) if cpu > 0 else None,
                cpu_p25_s=cpu,
                load_average=os.getloadavg()[0],
                quiet=True,
                reason=f"{samples.rejected} rounds thrown away" if samples.rejected else "",
            ),
        )


def _overhead(samples: _Samples, outputs: int) -> dict[str, float | None]:
    """What the call of a brick costs of which so many outputs are observed; p25 in seconds, with its interval.

    A further output counts as what one Slice takes more than one Identity: a little too little.
    """
    empty = low_quartile(samples.wall_s[EMPTY])
    if not outputs:
        return {"overhead_s": empty.require(), "overhead_low_s": empty.ci_low, "overhead_high_s": empty.ci_high}
    one = low_quartile(samples.wall_s[EMPTY_OBSERVED])
    further = (outputs - 1) * max(0.0, one.require() - empty.require())
    ends = [None if end is None else end + further for end in (one.ci_low, one.ci_high)]
    return {"overhead_s": one.require() + further, "overhead_low_s": ends[0], "overhead_high_s": ends[1]}
