"""Measures parts with candidates: interleaved in random order, checked, winners once more, noisy periods refused."""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from stratoscope.errors import MeasurementError
from stratoscope.graph.work_functions.movement import VIEWS
from stratoscope.measure.parts.candidates import MODULES
from stratoscope.measure.parts.overhead import Overheads, empty_model
from stratoscope.measure.parts.parts import RunnablePart
from stratoscope.measure.parts.sentinel import MOST_SLOWDOWN, Sentinel
from stratoscope.measure.parts.trial import SLICE_CALLS, SLICE_S, Trial
from stratoscope.measure.parts.workers import ANSWER_S, CandidateRefused, LibraryBroken, WorkerLost, WorkerPool
from stratoscope.spec.performance import Candidate, Environment, Part, PartMeasurement, PartNoise, Protocol
from stratoscope.stats.quantile import low_quartile

#: The module of the process that makes the reference outputs.
REFERENCE: Final = "stratoscope.measure.parts.library_reference"
#: A part that was measured in a noisy period is measured again so often before it is refused.
MOST_REPEATS: Final = 3

OnResult = Callable[[PartMeasurement], None]
OnProgress = Callable[[str, float | None], None]
#: Whether there is a measurement of this already, which need not be taken.
Known = Callable[[Part, Candidate, Protocol], bool]


@dataclass
class FillSummary:
    """What a run measured, by status, and what it did not get to within its budget."""

    counts: Counter[str] = field(default_factory=Counter)
    known: int = 0
    parts_left: int = 0
    seconds: float = 0.0
    interrupted: bool = False

    @property
    def measured(self) -> int:
        """Measurements that have a time."""
        return self.counts["ok"]

    def add(self, other: FillSummary) -> None:
        """Takes in the summary of another run."""
        self.counts.update(other.counts)
        self.known += other.known
        self.parts_left += other.parts_left
        self.seconds += other.seconds
        self.interrupted = self.interrupted or other.interrupted


def run_parts(
    parts: Sequence[RunnablePart],
    candidates: Sequence[Candidate],
    protocols: Sequence[Protocol],
    *,
    environment: Environment,
    budget_s: float | None = None,
    on_result: Callable[[PartMeasurement], None],
    progress: OnProgress | None = None,
    known: Known | None = None,
    modules: Mapping[str, str] = MODULES,
    answer_s: float = ANSWER_S,
    seed: int = 0,
) -> FillSummary:
    """Measures each part with each candidate under each protocol; every result goes to `on_result` at once.

    The caller holds the measurement lock. The candidates of a part take turns in random order. The best of a part
    under a protocol, in a precision, is measured a second time, and that second batch counts. A part during which the
    sentinel kernel slowed down is measured again, at last refused. A crash or a hang ends the library's worker: the
    candidate is recorded as failed with the reason, the rest goes on with a new worker.

    Args:
        budget_s: no part is begun after so many seconds; None: all parts.
        known: what need not be measured.
        progress: gets the part's slug and the share of the parts that are done. Ctrl-C ends the run, marked so.
        modules: library name -> module that runs it.
        answer_s: after so many seconds without an answer a worker counts as hung.

    Raises:
        MeasurementError: a protocol has more threads than there are CPUs, or a candidate's library is not known.
    """
    _check(candidates, protocols, modules)
    start = time.monotonic()
    summary = FillSummary()
    todo = []
    for part in parts:
        wanted = [
            (candidate, protocol)
            for candidate in candidates
            for protocol in protocols
            if known is None or not known(part.part, candidate, protocol)
        ]
        summary.known += len(candidates) * len(protocols) - len(wanted)
        if wanted:
            todo.append((part, wanted))
    if not todo:
        return summary
    with (
        tempfile.TemporaryDirectory(prefix="stratoscope-parts-") as folder,
        WorkerPool(environment, answer_s) as pool,
    ):
        run = _Run(Path(folder), pool, environment, modules, random.Random(seed))
        try:
            for number, (part, wanted) in enumerate(todo):
                summary.parts_left = len(todo) - number
                if budget_s is not None and time.monotonic() - start >= budget_s:
                    break
                if progress is not None:
                    progress(part.part.slug, number / len(todo))
                for measurement in run.measure(part, wanted):
                    on_result(measurement)
                    summary.counts[measurement.status] += 1
            else:
                summary.parts_left = 0
        except KeyboardInterrupt:
            summary.interrupted = True
    summary.seconds = time.monotonic() - start
    return summary


def _check(candidates: Sequence[Candidate], protocols: Sequence[Protocol], modules: Mapping[str, str]) -> None:
    cpus = len(os.sched_getaffinity(0))
    for protocol in protocols:
        if protocol.threads > cpus:
            raise MeasurementError(f"{protocol.threads} threads cannot be measured on {cpus} CPUs")
    for candidate in candidates:
        if candidate.library not in modules:
            raise MeasurementError(f"nothing runs the library {candidate.library!r}")


class _Run:
    """One run: its workers, the overheads and the sentinel."""

    def __init__(
        self, folder: Path, pool: WorkerPool, environment: Environment, modules: Mapping[str, str], rng: random.Random
    ) -> None:
        self._folder = folder
        self._pool = pool
        self._environment = environment
        self._modules = modules
        self._rng = rng
        self._empty = folder / "empty.onnx"
        self._empty.write_bytes(empty_model())
        self._overheads = Overheads()
        self._sentinel = Sentinel(self._sentinel_times)

    def _sentinel_times(self, calls: int, seconds: float) -> list[int]:
        try:
            worker = self._pool.get(REFERENCE, 1)
            times: list[int] = worker.ask("sentinel", calls=calls, seconds=seconds)
        except (LibraryBroken, WorkerLost) as error:
            raise MeasurementError(
                f"the sentinel kernel does not run: {error}", hint="check the installation"
            ) from None
        return times

    def measure(self, runnable: RunnablePart, wanted: Sequence[tuple[Candidate, Protocol]]) -> list[PartMeasurement]:
        """The measurements of one part, whatever happens to the libraries."""
        begun, start = datetime.now(UTC), time.monotonic()
        trials = [Trial(candidate, protocol, self._modules[candidate.library]) for candidate, protocol in wanted]
        noise = 1.0
        if runnable.problem is not None:
            for trial in trials:
                trial.give_up("unsupported", runnable.problem)
        else:
            noise = self._measure(runnable, trials)
        took = (time.monotonic() - start) / len(trials)
        return [self._result(runnable.part, trial, begun, took, noise) for trial in trials]

    def _measure(self, runnable: RunnablePart, trials: list[Trial]) -> float:
        path = self._folder / "part.onnx"
        for older in self._folder.glob("part-*"):
            older.unlink()
        path = self._folder / f"part-{self._rng.getrandbits(48):012x}.onnx"  # a new name: workers keep the present one
        path.write_bytes(runnable.model)
        reference = self._reference(path, runnable.feeds_seed, trials)
        if reference is None:
            return 1.0
        for trial in trials:
            self._open(trial, path, runnable, reference)
        slowdown = 1.0
        for _ in range(MOST_REPEATS):
            before = self._sentinel.wait_until_quiet()
            self._sample(trials, path, runnable, reference)
            self._second_batch(trials, path, runnable, reference)
            slowdown = max(before, self._sentinel.look())
            if slowdown <= MOST_SLOWDOWN or not any(trial.going for trial in trials):
                break
            for trial in trials:
                trial.again()
        else:
            for trial in trials:
                if trial.going:
                    trial.give_up(
                        "refused", f"the machine was {slowdown:.2f} times slower meanwhile than when it is quiet"
                    )
        self._close(trials)
        return slowdown

    def _reference(self, path: Path, seed: int, trials: list[Trial]) -> Path | None:
        """The file of the reference outputs; None (and no trial goes on) where there can be none."""
        kept = path.with_suffix(".npz")
        candidate = Candidate(library="reference", implementation="graph=off", version="")
        try:
            worker = self._pool.get(REFERENCE, 1)
            worker.ask("open", model=str(path), seed=seed, candidate=candidate.model_dump(), keep=str(kept))
            worker.ask("close")
        except (CandidateRefused, WorkerLost) as error:
            for trial in trials:
                trial.give_up("failed", f"there is no reference to check it against: {error}")
            return None
        except LibraryBroken as broken:
            raise MeasurementError(f"there are no references: {broken}", hint="check the installation") from None
        return kept

    def _open(self, trial: Trial, path: Path, runnable: RunnablePart, reference: Path) -> None:
        """Prepares the trial's candidate in its worker and checks its output; notes why where that fails."""
        if trial.status != "ok":
            return
        try:
            worker = self._pool.get(trial.module, trial.protocol.threads)
            if trial.overhead is None:
                trial.overhead = self._overheads.get(worker, trial.candidate, trial.protocol, self._empty)
            opened = worker.ask(
                "open",
                model=str(path),
                seed=runnable.feeds_seed,
                candidate=trial.candidate.model_dump(),
                reference=str(reference),
            )
        except CandidateRefused as refused:
            trial.max_error = refused.max_error
            trial.give_up(refused.status, refused.reason)
            return
        except WorkerLost as lost:
            trial.give_up("failed", str(lost))
            return
        except LibraryBroken as broken:  # no fault of the part: to be measured when the library loads again
            trial.give_up("refused", str(broken))
            return
        trial.key, trial.max_error = opened["key"], opened["max_error"]
        trial.operators, trial.settings = tuple(opened["operators"]), opened["settings"]
        told = trial.settings.get("threads")
        if told is not None and told != trial.protocol.threads:
            trial.give_up("failed", f"it runs {told} threads where {trial.protocol.threads} were asked for")
        elif not trial.operators and not set(runnable.part.operators) <= VIEWS:
            trial.give_up("failed", "the library folded the part away: nothing of it is executed")

    def _sample(self, trials: list[Trial], path: Path, runnable: RunnablePart, reference: Path) -> None:
        """Slices of all trials in turns, in a new random order each round, until each has enough."""
        while True:
            order = [trial for trial in trials if not trial.enough]
            if not order:
                return
            self._rng.shuffle(order)
            for trial in order:
                if not trial.going:  # its worker went down with another candidate
                    continue
                try:
                    self._slice(trial)
                except WorkerLost as lost:
                    trial.give_up("failed", str(lost))
                    self._reopen(trial, trials, path, runnable, reference)

    def _slice(self, trial: Trial) -> None:
        start = time.monotonic()
        worker = self._pool.get(trial.module, trial.protocol.threads)
        try:
            told = worker.ask("sample", key=trial.key, cache=trial.protocol.cache, calls=SLICE_CALLS, seconds=SLICE_S)
        except CandidateRefused as refused:
            trial.give_up(refused.status, refused.reason)
            return
        trial.take(told["wall_ns"], told["cpu_ns"], told["involuntary_switches"], time.monotonic() - start)

    def _reopen(self, lost: Trial, trials: list[Trial], path: Path, runnable: RunnablePart, reference: Path) -> None:
        """Opens the other candidates of a worker that is gone in a new one."""
        for trial in trials:
            same = (trial.module, trial.protocol.threads) == (lost.module, lost.protocol.threads)
            if same and trial.going:
                trial.key = None
                self._open(trial, path, runnable, reference)

    def _second_batch(self, trials: list[Trial], path: Path, runnable: RunnablePart, reference: Path) -> None:
        """Measures the best of each protocol and precision again, where there was a choice."""
        groups: dict[tuple[str, str], list[Trial]] = {}
        for trial in trials:
            if trial.going:
                groups.setdefault((trial.protocol.digest, trial.candidate.precision), []).append(trial)
        winners = [min(group, key=lambda trial: trial.net_s) for group in groups.values() if len(group) > 1]
        for winner in winners:
            winner.begin_second_batch()
        self._sample(winners, path, runnable, reference)

    def _close(self, trials: list[Trial]) -> None:
        for module, threads in {(trial.module, trial.protocol.threads) for trial in trials if trial.key is not None}:
            try:
                self._pool.get(module, threads).ask("close")
            except (WorkerLost, CandidateRefused):
                self._pool.drop(module, threads)

    def _result(self, part: Part, trial: Trial, begun: datetime, took_s: float, slowdown: float) -> PartMeasurement:
        ok = trial.status == "ok"
        overhead = trial.overhead
        noise = PartNoise(sentinel=round(slowdown, 4))
        if ok:
            wall, cpu = low_quartile(trial.samples_s).require(), low_quartile(trial.cpu_s).require()
            noise = PartNoise(
                wall_over_cpu=round(wall / cpu, 4) if cpu > 0 else None,
                cpu_p25_s=cpu,
                sentinel=round(slowdown, 4),
                involuntary_switches=trial.involuntary,
                load_average=os.getloadavg()[0],
                quiet=slowdown <= MOST_SLOWDOWN,
                reason=f"{trial.rejected} slices thrown away" if trial.rejected else "",
            )
        return PartMeasurement(
            part=part,
            candidate=trial.candidate,
            environment=self._environment,
            protocol=trial.protocol,
            status=trial.status,
            reason=trial.reason,
            samples_s=tuple(trial.first_s or trial.samples_s) if ok else (),
            confirmed_samples_s=tuple(trial.samples_s) if ok and trial.first_s else (),
            overhead_s=overhead.require() if overhead else 0.0,
            overhead_low_s=overhead.ci_low if overhead else None,
            overhead_high_s=overhead.ci_high if overhead else None,
            max_error=trial.max_error,
            executed_operators=trial.operators,
            settings=trial.settings,
            started_at=begun,
            duration_s=took_s,
            noise=noise,
        )
