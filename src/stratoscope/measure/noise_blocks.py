"""The noise of a load, read every so many calls so that no query pays for it, and judged block by block."""

from __future__ import annotations

from typing import Final

from stratoscope.host.noise import NoiseSnapshot, Observation, ThreadNoise, observe
from stratoscope.spec.record import NoiseRecord
from stratoscope.stats.noise import GateResult, gate

#: A block lasts at least this long: short enough to find a disturbance, long enough for the kernel's ticks, and for the
#: 50 us that reading the counters takes behind a model that has swept the caches.
BLOCK_S: Final = 0.1


class NoiseBlocks:
    """Noise of the thread that calls `start`, `mark` and `stop`, cut into blocks by `mark`."""

    def __init__(self) -> None:
        self._observation: Observation | None = None
        self._thread: ThreadNoise | None = None
        self._snapshots: list[NoiseSnapshot] = []

    def start(self) -> None:
        """Opens the first block, which takes some milliseconds; once it has begun, nothing."""
        if self._observation is not None:
            return
        self._observation = observe()
        self._observation.__enter__()
        self._thread = ThreadNoise()
        self._snapshots = [self._thread.snapshot()]

    def mark(self) -> None:
        """Ends a block and opens the next: some microseconds, ten times that behind a large model.

        The first mark starts what `start` has not.
        """
        if self._thread is None:
            self.start()
        else:
            self._snapshots.append(self._thread.snapshot())

    def stop(self) -> None:
        """Ends the last block; without a start there is none, and nothing is judged. May be called twice."""
        if self._observation is None:
            self.start()
        if self._thread is None or self._observation is None:
            return
        self._snapshots.append(self._thread.snapshot())
        self._thread.close()
        self._thread = None
        self._observation.__exit__(None, None, None)

    def verdict(self) -> GateResult:
        """The gate's verdict on the blocks."""
        pairs = [(a, b) for a, b in zip(self._snapshots, self._snapshots[1:], strict=False) if b.wall_ns > a.wall_ns]
        waits = [b.wait_ns - a.wait_ns for a, b in pairs if a.wait_ns is not None and b.wait_ns is not None]
        return gate(
            [b.wall_ns - a.wall_ns for a, b in pairs],
            None,  # the issuing thread rightly sleeps between queries: its CPU share tells nothing
            waits if len(waits) == len(pairs) else None,
            [b.involuntary - a.involuntary for a, b in pairs],
        )

    def record(self) -> NoiseRecord:
        """The record of the whole; raises MeasurementError before `stop`."""
        result = self.verdict()
        accepted = int(result.accepted.sum())
        observation = self._observation or observe()
        return observation.record(
            accepted, int(result.accepted.size) - accepted, result.quiet, f"by blocks: {result.reason}"
        )


def block_calls(call_ns: float) -> int:
    """How many calls of `call_ns` make a block."""
    return max(1, round(BLOCK_S * 1e9 / max(1.0, call_ns)))
