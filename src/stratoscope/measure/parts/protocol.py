"""Times calls under a cache protocol: hot, with L2 flushed, or with everything evicted; wall and CPU time of each."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple

import numpy as np

from stratoscope.spec.performance import CacheState

#: Where the machine does not tell its caches: those of a common server core.
DEFAULT_L2_BYTES: Final = 1 << 20
DEFAULT_LAST_LEVEL_BYTES: Final = 64 << 20
#: A read of this many times the last level leaves nothing of the old in it, whatever it replaces.
EVICT_TIMES: Final = 2
#: Calls before each slice that are not timed: another process may have used the CPU since the last one.
WARM_UP_CALLS: Final = 2
#: A call that takes longer than this is its own warm-up.
LONG_NS: Final = 20_000_000

#: The states that a part can be measured in alone.
CLEANED: Final[tuple[CacheState, ...]] = ("hot", "flushed", "evicted")

Clean = Callable[[], object]


class Slice(NamedTuple):
    """Consecutive calls: wall and CPU nanoseconds of each, and what the kernel counted meanwhile."""

    wall_ns: list[int]
    cpu_ns: list[int]
    involuntary_switches: int


class Caches:
    """Empties caches between calls by reading buffers that are larger. Give it back with `close`."""

    def __init__(self, l2_bytes: int | None, last_level_bytes: int | None, threads: int) -> None:
        self._l2 = l2_bytes or DEFAULT_L2_BYTES
        self._last = last_level_bytes or DEFAULT_LAST_LEVEL_BYTES
        self._threads = threads
        self._cpus = sorted(os.sched_getaffinity(0))
        self._pool: ThreadPoolExecutor | None = None
        self._buffers: dict[CacheState, list[np.ndarray[Any, Any]]] = {}

    def cleaner(self, state: CacheState) -> Clean:
        """What to call between timed calls. With several threads each CPU's own L2 is read over."""
        if state not in CLEANED:
            raise ValueError(f"a part alone cannot be measured in cache state {state!r}")
        if state == "hot":
            return _nothing
        size = self._l2 if state == "flushed" else EVICT_TIMES * self._last
        if state not in self._buffers:
            copies = self._threads if state == "flushed" else 1
            self._buffers[state] = [np.ones(size // 8, np.int64) for _ in range(copies)]
        buffers = self._buffers[state]
        if len(buffers) == 1:
            return buffers[0].sum
        pool = self._pool = self._pool or ThreadPoolExecutor(self._threads)
        places = list(zip(buffers, (self._cpus[i % len(self._cpus)] for i in range(len(buffers))), strict=True))
        return lambda: list(pool.map(_read_on, places))

    def close(self) -> None:
        """Ends the helper threads."""
        if self._pool is not None:
            self._pool.shutdown()


def _nothing() -> None:
    return None


def _read_on(place: tuple[np.ndarray[Any, Any], int]) -> None:
    buffer, cpu = place
    os.sched_setaffinity(0, {cpu})  # of this helper thread only
    buffer.sum()


def time_slice(call: Callable[[], object], clean: Clean, most_calls: int, most_s: float) -> Slice:
    """At least one call, at most `most_calls`, until `most_s` have gone; `clean` runs before each, untimed.

    CPU time is that of the process: OpenVINO computes in a thread of its own even when it has only one.
    """
    cpu_clock = time.process_time_ns
    clock = time.perf_counter_ns
    wall: list[int] = []
    cpu: list[int] = []
    begun = clock()
    for _ in range(WARM_UP_CALLS):
        start = clock()
        call()
        if clock() - start > LONG_NS:
            break
    deadline = begun + int(most_s * 1e9)
    switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    while True:
        clean()
        cpu_start = cpu_clock()
        start = clock()
        call()
        end = clock()
        cpu_end = cpu_clock()
        wall.append(end - start)
        cpu.append(cpu_end - cpu_start)
        if len(wall) >= most_calls or end >= deadline:
            break
    return Slice(wall, cpu, resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - switches)
