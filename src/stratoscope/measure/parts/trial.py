"""A candidate under one protocol while it is measured: its samples, and when they are enough."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from stratoscope.spec.performance import Candidate, PartStatus, Protocol
from stratoscope.stats.quantile import low_quartile
from stratoscope.stats.quantity import Quantity

#: A slice is so long, or so many calls: the candidates take turns by slices, so that a drift meets all of them alike.
SLICE_S: Final = 0.01
SLICE_CALLS: Final = 60
#: Slices before an interval is believed: calls of one slice are alike, those of several see the machine's changes.
LEAST_SLICES: Final = 3
MOST_SLICES: Final = 16
#: Width of the bootstrap interval of p25, over p25, at which to stop.
TARGET: Final = 0.02
#: Seconds of one candidate under one protocol, cleaning of caches included.
BUDGET_S: Final = 0.3
#: Calls, however long they take.
LEAST_CALLS: Final = 5
#: A slice in which the process had so much less CPU time than wall time shared its CPU: it is thrown away.
MOST_WALL_OVER_CPU: Final = 1.1
#: Slices in a row that may be thrown away.
MOST_REJECTED: Final = 8
_NS: Final = 1e-9


@dataclass
class Trial:
    """One (candidate, protocol) of a part.

    Attributes:
        key: of the prepared model in its worker; None where it is not open.
        overhead: p25 of an empty call, same candidate and protocol.
        samples_s, cpu_s: of the present batch.
        first_s: the batch before, where this is the second one.
        spent_s: in the present batch.
    """

    candidate: Candidate
    protocol: Protocol
    module: str
    key: int | None = None
    overhead: Quantity | None = None
    max_error: float | None = None
    operators: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    samples_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    first_s: list[float] = field(default_factory=list)
    slices: int = 0
    rejected: int = 0
    rejected_in_a_row: int = 0
    involuntary: int = 0
    spent_s: float = 0.0
    total_s: float = 0.0
    status: PartStatus = "ok"
    reason: str | None = None

    @property
    def going(self) -> bool:
        """Whether it is open and has not been given up."""
        return self.status == "ok" and self.key is not None

    @property
    def enough(self) -> bool:
        """Whether the batch is precise, or its budget is spent."""
        if not self.going:
            return True
        if self.slices >= MOST_SLICES:
            return True
        if self.spent_s >= BUDGET_S and len(self.samples_s) >= LEAST_CALLS:
            return True
        if self.slices < LEAST_SLICES or len(self.samples_s) < LEAST_CALLS:
            return False
        found = low_quartile(self.samples_s)
        assert found.ci_low is not None
        assert found.ci_high is not None
        return found.ci_high - found.ci_low <= TARGET * found.require()

    @property
    def net_s(self) -> float:
        """p25 of the batch less the overhead: what candidates are compared by."""
        raw = low_quartile(self.samples_s).require()
        return max(0.0, raw - (self.overhead.require() if self.overhead else 0.0))

    def take(self, wall_ns: list[int], cpu_ns: list[int], involuntary: int, elapsed_s: float) -> None:
        """Adds a slice, or throws it away where the thread did not have its CPU for itself.

        The judgement goes by low quartiles of wall and CPU time, never by how long the calls took.
        """
        self.spent_s += elapsed_s
        self.total_s += elapsed_s
        self.involuntary += involuntary
        if self.protocol.threads == 1 and shared_cpu(wall_ns, cpu_ns):
            self.rejected += 1
            self.rejected_in_a_row += 1
            if self.rejected_in_a_row > MOST_REJECTED:
                self.give_up("refused", f"another process took the CPU in {self.rejected} slices of calls")
            return
        self.rejected_in_a_row = 0
        self.slices += 1
        self.samples_s += [round(one * _NS, 9) for one in wall_ns]
        self.cpu_s += [one * _NS for one in cpu_ns]

    def give_up(self, status: PartStatus, reason: str) -> None:
        """No time for this candidate, and why."""
        self.status, self.reason = status, reason

    def begin_second_batch(self) -> None:
        """Keeps the samples that made it win and takes new ones."""
        self.first_s, self.samples_s, self.cpu_s = self.samples_s, [], []
        self.slices, self.spent_s, self.rejected_in_a_row = 0, 0.0, 0

    def again(self) -> None:
        """Starts over: the machine was noisy."""
        self.samples_s, self.cpu_s, self.first_s = [], [], []
        self.slices, self.spent_s, self.rejected_in_a_row = 0, 0.0, 0


def shared_cpu(wall_ns: list[int], cpu_ns: list[int]) -> bool:
    """Whether the calls waited for the CPU, or slept, for more than a tenth of their CPU time."""
    return low_quartile(wall_ns).require() > MOST_WALL_OVER_CPU * low_quartile(cpu_ns).require()
