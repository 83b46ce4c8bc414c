"""Which working sets lie in which level of the memory hierarchy, for so many threads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from stratoscope.measure.machine.probe import Setting
from stratoscope.spec.hardware import Cache

MEMORY: Final = "memory"
#: STREAM's rule: each array is at least four times the caches (streambench.org, "Run rules").
STREAM_RULE: Final = 4
#: Part of a cache that a working set fills: half leaves room for the stack, other data and imperfect placement.
FILLED: Final = 0.5
#: Where the machine tells no caches: a size that is beyond the last cache of most.
UNKNOWN_CACHE_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class Level:
    """A level of the memory hierarchy and a working set, of all threads together, that lies in it and no nearer."""

    name: str
    working_set_bytes: int


def capacity(cache: Cache, threads: int) -> int:
    """Bytes that `threads` neighbouring threads have of this cache: those that share an instance share its size."""
    return cache.size_bytes * min(cache.instances, math.ceil(threads / cache.shared_by))


def last_cache_bytes(caches: Sequence[Cache], threads: int) -> int:
    """Capacity of the last level of cache that `threads` threads have; a guess where no cache is told."""
    data = data_caches(caches)
    return capacity(data[-1], threads) if data else UNKNOWN_CACHE_BYTES


def data_caches(caches: Sequence[Cache]) -> list[Cache]:
    """One cache a level that holds data, nearest first; of several kinds at one level the smallest (hybrid CPUs)."""
    nearest: dict[int, Cache] = {}
    for cache in caches:
        if cache.type != "instruction":
            known = nearest.get(cache.level)
            nearest[cache.level] = cache if known is None or cache.size_bytes < known.size_bytes else known
    return [nearest[level] for level in sorted(nearest)]


def cache_levels(setting: Setting, threads: int) -> list[Level]:
    """The caches with a working set of half their capacity, where that is beyond the level before."""
    found: list[Level] = []
    inner = 0
    for cache in data_caches(setting.caches):
        size = capacity(cache, threads)
        working_set = int(size * FILLED)
        if working_set >= 1.5 * inner and working_set <= setting.memory_bytes // 2:
            found.append(Level(f"L{cache.level}", working_set))
        inner = size
    return found


def memory_array_bytes(setting: Setting, threads: int, arrays: int = 3) -> int | None:
    """Bytes of one of `arrays` arrays that lie in memory: STREAM's rule, or less where memory is short.

    None where even all arrays together would be below four times the last cache: that would time the cache.
    """
    last = last_cache_bytes(setting.caches, threads)
    wanted = STREAM_RULE * last
    allowed = setting.memory_bytes // 2 // arrays
    if wanted <= allowed:
        return wanted
    return allowed if setting.memory_bytes // 2 >= STREAM_RULE * last else None


def memory_shortage(setting: Setting, threads: int) -> str:
    """Why no figure for memory can be measured."""
    last = last_cache_bytes(setting.caches, threads)
    return (
        f"{setting.memory_left_bytes >> 20} MiB of memory are left, of which probes use {setting.memory_bytes >> 20}: "
        f"too little for arrays of {STREAM_RULE} times the last cache ({last >> 20} MiB)"
    )


def sweep_sizes(setting: Setting, threads: int, arrays: int) -> list[int]:
    """Working sets in powers of two from 8 KiB a thread to beyond the last cache, as memory allows."""
    last = last_cache_bytes(setting.caches, threads)
    most = min(STREAM_RULE * last, setting.memory_bytes // 2 // 3 * arrays)
    sizes = []
    size = threads << 13
    while size <= most:
        sizes.append(size)
        size *= 2
    return sizes
