"""Settings of machines that are not this one, and probes that take no time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from stratoscope.measure.machine.arena import Arena
from stratoscope.measure.machine.collectives import Groups
from stratoscope.measure.machine.compiled import Kernels, build_kernels
from stratoscope.measure.machine.probe import Case, Prepared, Repeat, Setting
from stratoscope.measure.machine.workers import WorkerPool
from stratoscope.spec.hardware import Cache

MakeSetting = Callable[..., Setting]

#: Two cores with 32 KiB and 1 MiB each, and 32 MiB together.
CACHES = (
    Cache(level=1, type="data", size_bytes=32 << 10, line_bytes=64, shared_by=1, instances=2),
    Cache(level=1, type="instruction", size_bytes=32 << 10, line_bytes=64, shared_by=1, instances=2),
    Cache(level=2, type="unified", size_bytes=1 << 20, line_bytes=64, shared_by=1, instances=2),
    Cache(level=3, type="unified", size_bytes=32 << 20, line_bytes=64, shared_by=2, instances=1),
)


@pytest.fixture(scope="session")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    """The compiled kernels; the tests need a C compiler."""
    built, why = build_kernels(tmp_path_factory.mktemp("cache"))
    assert built is not None, why
    return built


@pytest.fixture
def make_setting(tmp_path: Path) -> Iterator[MakeSetting]:
    """`make_setting(**overrides)`: two CPUs, plenty of memory, no compiler; ends what it started."""
    pools: list[WorkerPool | Groups] = []

    def make(
        cpus: tuple[int, ...] = (0, 1),
        memory_bytes: int = 8 << 30,
        kernels: Kernels | None = None,
        full: bool = False,
        caches: tuple[Cache, ...] = CACHES,
    ) -> Setting:
        workers, groups = WorkerPool(), Groups()
        pools.extend((workers, groups))
        return Setting(
            cpus=cpus,
            caches=caches,
            memory_bytes=memory_bytes,
            memory_left_bytes=2 * memory_bytes,
            folder=tmp_path,
            arena=Arena(kernels, 1),
            workers=workers,
            groups=groups,
            full=full,
            kernels=kernels,
            no_kernels="" if kernels else "no C compiler on the PATH (cc, gcc or clang)",
        )

    yield make
    for pool in pools:
        pool.close()


@dataclass
class Clock:
    """A clock that only moves when told."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class FakeProbe:
    """Cases that take `seconds[name]` an operation on a virtual clock; notes what was opened, run and closed."""

    clock: Clock
    seconds: dict[str, float]
    failing: dict[str, Exception] = field(default_factory=dict)
    why: str | None = None
    opening_s: float = 0.0
    log: list[tuple[str, str]] = field(default_factory=list)
    name: str = "fake"
    title: str = "nothing real"
    priorities: dict[str, int] = field(default_factory=dict)
    memory_bytes: int = 0
    reopens: bool = False

    def check(self, setting: Setting) -> str | None:
        return self.why

    def register(self, setting: Setting) -> Iterable[Case]:
        for name in self.seconds:
            yield Case(
                f"fake/{name}",
                {},
                "byte/s",
                bytes=1000.0,
                priority=self.priorities.get(name, 5),
                memory_bytes=self.memory_bytes,
                fixed_iterations=1,
                warm_up=False,
                reopens=self.reopens,
            )

    @contextmanager
    def run(self, case: Case, setting: Setting) -> Iterator[Prepared]:
        name = case.family.partition("/")[2]
        self.log.append(("open", name))
        self.clock.now += self.opening_s

        def operate(iterations: int) -> Repeat:
            if name in self.failing:
                raise self.failing[name]
            self.log.append(("run", name))
            took = self.seconds[name] * iterations
            self.clock.now += took
            return Repeat(int(took * 1e9), int(took * 1e9), 0, 0)

        try:
            yield Prepared(operate, "as prepared")
        finally:
            self.log.append(("close", name))


@pytest.fixture
def parts() -> SimpleNamespace:
    """The classes of this module, for tests that make their own."""
    return SimpleNamespace(Clock=Clock, FakeProbe=FakeProbe, CACHES=CACHES)
