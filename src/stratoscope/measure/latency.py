"""The steady-state latency of one call: warm-up apart, repeated until it is known well enough, noise by blocks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stratoscope.host.noise import NoiseSnapshot, ThreadNoise, observe
from stratoscope.measure.clock import Clock, RealClock
from stratoscope.spec.record import NoiseRecord
from stratoscope.stats.noise import GateResult, gate
from stratoscope.stats.stopping import Decision, StoppingRule

#: Noise is read between blocks of calls that last at least this long, so that short calls do not pay for it.
BLOCK_NS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class LatencyRun:
    """Repeats of one call.

    Attributes:
        samples_ns: duration of each call after the warm-up, in order.
        accepted: one flag a call: the noise gate's verdict on its block.
        noise: over the whole; its counts are blocks.
        decision: why the repeats ended.
    """

    samples_ns: NDArray[np.int64]
    accepted: NDArray[np.bool_]
    noise: NoiseRecord
    decision: Decision

    def kept_s(self) -> NDArray[np.float64]:
        """Seconds of the accepted calls."""
        return self.samples_ns[self.accepted] / 1e9


def measure_latency(
    call: Callable[[], object],
    *,
    warmup: int = 3,
    rule: StoppingRule | None = None,
    clock: Clock | None = None,
) -> LatencyRun:
    """Times `call` in this thread until `rule` is satisfied (default: 2 % of the median, at most 10 s).

    The gate judges by the run-queue wait of this thread: waits of a framework's own threads are not seen in it, only
    in the machine's counters of the record. Whatever `call` raises is raised on.
    """
    rule, clock = rule or StoppingRule(), clock or RealClock()
    now = clock.now_ns
    before = now()
    for _ in range(max(1, warmup)):
        call()
    call_ns = max(1.0, (now() - before) / max(1, warmup))
    block = max(1, math.ceil(BLOCK_NS / call_ns))
    samples: list[int] = []
    sizes: list[int] = []
    with observe() as observation, ThreadNoise() as thread:
        snapshots = [thread.snapshot()]
        start, decision = now(), Decision(False, "go on", None)
        while not decision.stop:
            target = rule.next_check(len(samples))
            while not samples or (len(samples) < target and now() - start < rule.max_time_s * 1e9):
                size = min(block, target - len(samples))
                for _ in range(size):
                    t0 = now()
                    call()
                    samples.append(now() - t0)
                sizes.append(size)
                snapshots.append(thread.snapshot())
            decision = rule.decide(samples, (now() - start) / 1e9)
    verdict = _gate(snapshots)
    accepted = int(verdict.accepted.sum())
    record = observation.record(
        accepted, verdict.accepted.size - accepted, verdict.quiet, f"by blocks: {verdict.reason}"
    )
    return LatencyRun(np.array(samples, dtype=np.int64), np.repeat(verdict.accepted, sizes), record, decision)


def _gate(snapshots: list[NoiseSnapshot]) -> GateResult:
    table = np.array([[s.wall_ns, s.cpu_ns, s.involuntary] for s in snapshots], dtype=np.float64)
    wall, cpu, involuntary = np.diff(table, axis=0).T
    waits = [s.wait_ns for s in snapshots if s.wait_ns is not None]
    wait = np.diff(np.array(waits, dtype=np.float64)) if len(waits) == len(snapshots) else None
    return gate(np.maximum(wall, 1.0), cpu, wait, involuntary)
