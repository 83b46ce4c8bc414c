"""What a probe is: three hooks (check, register, run), the cases that it registers, and one timed repeat of a case."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from stratoscope.spec.hardware import Cache
from stratoscope.spec.machine import Parameter

if TYPE_CHECKING:
    from stratoscope.measure.machine.arena import Arena
    from stratoscope.measure.machine.collectives import Groups
    from stratoscope.measure.machine.compiled import Kernels
    from stratoscope.measure.machine.workers import WorkerPool


class Repeat(NamedTuple):
    """One timed repeat, in nanoseconds; `wait_ns` (longest run-queue wait of a thread) is None where it is not told."""

    wall_ns: int
    cpu_ns: int
    wait_ns: int | None
    involuntary: int


#: Runs so many operations and says how long they took.
Operate = Callable[[int], Repeat]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A case that is ready: the function that runs it, and what became known while it was prepared."""

    operate: Operate
    note: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to measure.

    Attributes:
        family: first part of the name, the probe's name and what is done: "stream/triad".
        parameters: the rest of the name, in order; what distinguishes this case from its siblings.
        unit: of the figure: "byte/s" and "FLOP/s" divide the work by the time, "s" is the time of one operation.
        bytes: that one operation moves; None where that means nothing.
        flops: that one operation computes, likewise.
        memory_bytes: what it holds while it is open.
        priority: cases of a lower number come first where the budget is short.
        fixed_iterations: operations of a repeat, where the probe decides that and not the calibration.
        warm_up: run some operations untimed before each repeat; False where the probe sees to that itself.
        reopens: prepared anew for each visit, so that it lies elsewhere in memory each time; for what is cheap to
            prepare and depends on where its pages fall in a cache.
        note: what a reader of the figure must know.
    """

    family: str
    parameters: Mapping[str, Parameter]
    unit: str
    bytes: float | None = None
    flops: float | None = None
    memory_bytes: int = 0
    priority: int = 5
    fixed_iterations: int | None = None
    warm_up: bool = True
    reopens: bool = False
    note: str = ""

    @property
    def name(self) -> str:
        """Google Benchmark's form: family, then name:value pairs."""
        return "/".join((self.family, *(f"{key}:{value}" for key, value in self.parameters.items())))


@dataclass(frozen=True)
class Setting:
    """The machine as probes see it: what they may use, and what they are given.

    Attributes:
        cpus: logical CPUs that this process may use, at most its quota's worth.
        caches: data and unified caches.
        memory_bytes: what all probes together may hold.
        memory_left_bytes: what was left on the machine (or in its cgroup) before; for the messages.
        numa_nodes: number of NUMA nodes.
        full: measure more sizes and thread counts.
        folder: where files may be written.
        arena: arrays that bandwidth cases share.
        workers: processes that run the libraries' cases.
        groups: process groups that run the collectives.
        kernels: the compiled kernels; None where there are none, and then `no_kernels` says why.
    """

    cpus: tuple[int, ...]
    caches: tuple[Cache, ...]
    memory_bytes: int
    memory_left_bytes: int
    folder: Path
    arena: Arena
    workers: WorkerPool
    groups: Groups
    numa_nodes: int = 1
    full: bool = False
    kernels: Kernels | None = None
    no_kernels: str = ""

    @property
    def thread_counts(self) -> tuple[int, ...]:
        """One thread and all; with `full` also the powers of two between."""
        most = len(self.cpus)
        between = [1 << k for k in range(1, most.bit_length())] if self.full else []
        return tuple(sorted({1, most, *(count for count in between if count <= most)}))


class Probe(Protocol):
    """A plug-in that measures one kind of thing."""

    name: str
    title: str

    def check(self, setting: Setting) -> str | None:
        """Why this probe cannot run here, in one line; None where it can."""
        ...

    def register(self, setting: Setting) -> Iterable[Case]:
        """The cases for what this machine has, with sizes within `setting.memory_bytes`."""
        ...

    def run(self, case: Case, setting: Setting) -> AbstractContextManager[Prepared]:
        """Prepares a case (allocates, touches, starts helpers) and gives the function that runs it; cleans up after.

        Raises:
            ProbeUnavailable: this case cannot run after all.
        """
        ...


class ProbeUnavailable(Exception):
    """A case that cannot run here; the text says why."""
