"""What stops a piece of work: its place under the roofs of compute and memory, and the class that follows.

The roofline model (Williams, Waterman & Patterson, CACM 52(4), 2009) bounds the rate of work of intensity I (FLOP a
byte) by min(peak, I * bandwidth). XSP (arXiv 1908.06869) calls work memory-bound exactly where I is below the ridge
point peak / bandwidth, however far from both roofs it is. Here there is a third class: work that reaches less than
`OVERHEAD_BELOW` of both roofs is bound by neither, but by what comes with each call (launch, dispatch, setup, latency).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from stratoscope.errors import MeasurementError

#: Below this part of both roofs work is bound by overhead. A choice, not a law: library kernels at work reach half of a
#: roof and more, and a factor of ten is beyond what an inexact roof or count explains.
OVERHEAD_BELOW: Final = 0.1
#: The type whose roof holds for operations whose type is not told.
DEFAULT_TYPE: Final = "float32"


class Bound(StrEnum):
    """What work is bound by."""

    COMPUTE = "compute-bound"
    MEMORY = "memory-bound"
    OVERHEAD = "overhead-bound"


@dataclass(frozen=True, slots=True)
class Roofs:
    """The roofs of one machine.

    Attributes:
        flops_per_s: peak rate of operations by type (a multiply-add is two): NumPy names (float32, int8), and
            `tensor-float16` and the like for matrix units that have a peak of their own. Per second.
        bandwidth_bytes_per_s: of the memory that the traffic is counted at.
        source: where the figures are from, in words.
        overhead_below: part of both roofs below which work is overhead-bound.

    Raises:
        MeasurementError: a roof is not above zero, or none is given.
    """

    flops_per_s: Mapping[str, float]
    bandwidth_bytes_per_s: float
    source: str = "given"
    overhead_below: float = OVERHEAD_BELOW

    def __post_init__(self) -> None:
        figures = [*self.flops_per_s.values(), self.bandwidth_bytes_per_s]
        if not self.flops_per_s or not all(math.isfinite(figure) and figure > 0 for figure in figures):
            raise MeasurementError("roofs need a bandwidth and at least one peak rate, all finite and above zero")
        if not 0 <= self.overhead_below < 1:
            raise MeasurementError(f"overhead_below is {self.overhead_below}: it is a part of a roof, in [0, 1)")

    def ridge(self, element_type: str = DEFAULT_TYPE) -> float | None:
        """The intensity (FLOP a byte) from which on compute is the lower roof; None for a type without a roof."""
        peak = self.flops_per_s.get(element_type)
        return None if peak is None else peak / self.bandwidth_bytes_per_s

    def compute_s(self, operations: Mapping[str, float]) -> float | None:
        """The least time of operations by type, one type after the other; None where a type has no roof."""
        if any(kind not in self.flops_per_s for kind, count in operations.items() if count):
            return None
        return sum(count / self.flops_per_s[kind] for kind, count in operations.items() if count)


class Figure(Protocol):
    """A measured roof: its value in SI units, None where it was not measured."""

    @property
    def value(self) -> float | None:
        """The figure."""
        ...


class MachineRoofs(Protocol):
    """What the roofs of a machine record tell (`host.roofs.Roofs`)."""

    def flops_per_s(self, threads: int = 1) -> Mapping[str, float]:
        """Peaks by NumPy's dtype names."""
        ...

    def bandwidth(self, level: str = "memory", threads: int = 1) -> Figure:
        """Byte/s of a level of the memory hierarchy."""
        ...


def from_machine(machine: MachineRoofs, threads: int = 1) -> Roofs:
    """The roofs that were measured on a machine with so many threads: peaks by type, and the memory's bandwidth.

    Raises:
        MeasurementError: they were not measured with so many threads.
    """
    peaks, bandwidth = machine.flops_per_s(threads), machine.bandwidth("memory", threads).value
    number = f"{threads} thread" if threads == 1 else f"{threads} threads"
    if not peaks or bandwidth is None:
        raise MeasurementError(
            f"the record has no peak rate and memory bandwidth for {number}", hint="choose another --threads"
        )
    return Roofs(dict(peaks), bandwidth, f"measured with {number}")


@dataclass(frozen=True, slots=True)
class Place:
    """Where work stands under the roofs.

    Attributes:
        intensity: FLOP a byte; None where either is unknown or nothing is moved.
        rate: FLOP/s; None where work or time is unknown.
        roof_share: attained part of the nearer roof; above 1 where a count, a time or a roof is wrong.
        bound: the class; None where it cannot be told, and `why`.
    """

    intensity: float | None
    rate: float | None
    roof_share: float | None
    bound: Bound | None
    why: str | None


def place(
    operations: Mapping[str, float] | None, moved_bytes: float | None, time_s: float | None, roofs: Roofs | None
) -> Place:
    """The place of `operations` (by type) that move `moved_bytes` in `time_s` under `roofs`.

    The share of the roof is max(least compute time, bytes / bandwidth) / time: at intensity I the attained rate over
    min(peak, I * bandwidth). With several types the least compute time is that of one after the other.
    """
    flops = None if operations is None else sum(operations.values())
    intensity = flops / moved_bytes if flops is not None and moved_bytes else None
    rate = flops / time_s if flops is not None and time_s else None
    why = _missing(operations, moved_bytes, time_s, roofs)
    if why is None and operations is not None and moved_bytes is not None and time_s is not None and roofs is not None:
        compute_s = roofs.compute_s(operations)
        if compute_s is not None:
            memory_s = moved_bytes / roofs.bandwidth_bytes_per_s
            share = max(compute_s, memory_s) / time_s
            nearer = Bound.COMPUTE if compute_s >= memory_s else Bound.MEMORY
            return Place(intensity, rate, share, Bound.OVERHEAD if share < roofs.overhead_below else nearer, None)
    return Place(intensity, rate, None, None, why)


def _missing(
    operations: Mapping[str, float] | None, moved_bytes: float | None, time_s: float | None, roofs: Roofs | None
) -> str | None:
    if roofs is None:
        return "no roofs are known"
    if operations is None:
        return "the operations are not known"
    if moved_bytes is None:
        return "the bytes moved are not known"
    if time_s is None or time_s <= 0:
        return "the time is not known" if time_s is None else "the time is not above zero"
    unknown = sorted(kind for kind, count in operations.items() if count and kind not in roofs.flops_per_s)
    return f"no roof for {', '.join(unknown)}" if unknown else None
