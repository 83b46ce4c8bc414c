"""Probe of latency: loads that each depend on the one before, along one random cycle through the working set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from stratoscope.measure.machine.compiled import aligned
from stratoscope.measure.machine.levels import MEMORY, cache_levels, last_cache_bytes, memory_array_bytes, sweep_sizes
from stratoscope.measure.machine.probe import Case, Prepared, ProbeUnavailable, Repeat, Setting

#: One place a cache line, so that no load finds what the one before brought.
LINE_BYTES: Final = 64
#: Loads before the clock starts where the working set is beyond the caches: enough to fill the load queue and TLBs.
_FEW: Final = 1024
_SEED: Final = 20190313
#: Up to here a cycle is linked anew, elsewhere in memory, for each visit: it takes some milliseconds.
_CHEAP_BYTES: Final = 2 << 20


class ChaseProbe:
    """Latency of a load, over the size of the working set; the sizes of the levels among them."""

    name = "chase"
    title = "latency of a load (pointer chase) over the size of the working set"

    def check(self, setting: Setting) -> str | None:
        """Needs the compiled kernels: dependent loads cannot be written in NumPy."""
        return setting.no_kernels or None

    def register(self, setting: Setting) -> Iterable[Case]:
        """The working set of each level, and powers of two (of four without --full)."""
        sizes = {level.working_set_bytes: level.name for level in cache_levels(setting, 1)}
        array = memory_array_bytes(setting, 1)
        if array is not None:
            sizes[array] = MEMORY
        most = max(sizes, default=0)
        for index, size in enumerate(sweep_sizes(setting, 1, 1)):
            if size <= most and (setting.full or index % 2 == 0):
                sizes.setdefault(size, "")
        for size, level in sorted(sizes.items()):
            lines = max(8, size // LINE_BYTES)
            yield Case(
                family="chase/load",
                parameters={**({"level": level} if level else {}), "bytes": lines * LINE_BYTES},
                unit="s",
                memory_bytes=lines * LINE_BYTES,
                priority=2 if level else 4,
                warm_up=False,
                reopens=size <= _CHEAP_BYTES,
                note="translation misses are part of it" if size > last_cache_bytes(setting.caches, 1) else "",
            )

    @contextmanager
    def run(self, case: Case, setting: Setting) -> Iterator[Prepared]:
        """Links the cycle, then follows it; each repeat goes on where the one before stopped."""
        kernels = setting.kernels
        if kernels is None:
            raise ProbeUnavailable(setting.no_kernels)
        size = int(case.parameters["bytes"])
        memory = aligned(size)
        kernels.link(memory, size // LINE_BYTES, LINE_BYTES, _SEED)
        cached = size <= last_cache_bytes(setting.caches, 1)
        warm = size // LINE_BYTES if cached else _FEW
        cpus = setting.cpus[:1]
        cursor = memory.ctypes.data

        def operate(loads: int) -> Repeat:
            nonlocal cursor
            _, cursor = kernels.chase(cursor, warm, cpus)
            took, cursor = kernels.chase(cursor, loads, cpus)
            return took

        yield Prepared(operate)
