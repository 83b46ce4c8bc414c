"""Probes of bandwidth: STREAM's kernels and a read, per level of the memory hierarchy, and a read over sizes.

Bytes are counted as STREAM counts them: what the program reads and writes. A store to a line that is not in the cache
also reads it (write-allocate); that traffic is not counted, and streaming stores (`c-nt`) avoid it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Final

import numpy as np

from stratoscope.measure.machine.compiled import Doubles
from stratoscope.measure.machine.levels import (
    MEMORY,
    STREAM_RULE,
    Level,
    cache_levels,
    last_cache_bytes,
    memory_array_bytes,
    memory_shortage,
    sweep_sizes,
)
from stratoscope.measure.machine.probe import Case, Prepared, ProbeUnavailable, Repeat, Setting
from stratoscope.measure.machine.timing import minus_empty

#: Kernel to the arrays that it uses (a, b, c) and how many of them one element's bytes are counted for.
ARRAYS: Final = {"copy": 2, "scale": 2, "add": 3, "triad": 3, "read": 1}
#: Elements of a share are whole blocks of four vectors for each thread; 64 bytes are the widest vector.
_BLOCK: Final = 4 * 64 // 8
#: NumPy's calls cost some 0.4 us: below this working set they would be measured and not the memory.
NUMPY_LEAST_BYTES: Final = 16 << 10
#: The scalar of STREAM's kernels.
_SCALAR: Final = 3.0


class StreamProbe:
    """STREAM's copy, scale, add and triad, and a read-only sum, in each cache and in memory, by thread count."""

    name = "stream"
    title = "bandwidth of STREAM's kernels and of reading, per cache level and thread count"

    def check(self, setting: Setting) -> str | None:
        """Runs everywhere."""
        return None

    def register(self, setting: Setting) -> Iterable[Case]:
        """Every kernel at every level for every thread count; NumPy's on one thread beside the compiled ones."""
        for threads in setting.thread_counts:
            array_bytes = memory_array_bytes(setting, threads)
            levels = cache_levels(setting, threads)
            if array_bytes is not None:
                levels.append(Level(MEMORY, 3 * array_bytes))
            for level in levels:
                for kernel, arrays in ARRAYS.items():
                    size = array_bytes if level.name == MEMORY else level.working_set_bytes // arrays
                    assert size is not None
                    for method in _methods(setting, level, kernel, threads):
                        yield _case(setting, kernel, method, level.name, size, threads)

    @contextmanager
    def run(self, case: Case, setting: Setting) -> Iterator[Prepared]:
        """One kernel over its part of the shared arrays."""
        threads, count = int(case.parameters["threads"]), _count(case)
        cpus = setting.cpus[:threads]
        arrays = setting.arena.arrays(count, cpus)
        kernel, method = case.family.rpartition("/")[2], str(case.parameters["method"])
        if method == "numpy":
            yield _numpy(kernel, arrays, count, threads)
        else:
            yield _compiled(setting, kernel + ("_nt" if method == "c-nt" else ""), arrays, count, threads)


class SweepProbe:
    """Bandwidth of reading over the size of the working set: where each cache ends."""

    name = "sweep"
    title = "read bandwidth over the size of the working set"

    def check(self, setting: Setting) -> str | None:
        """Needs the compiled kernels: NumPy's reads are bound by its summation, not by the caches."""
        return setting.no_kernels or None

    def register(self, setting: Setting) -> Iterable[Case]:
        """Powers of two from 8 KiB a thread to four times the last cache; with --full the triad as well."""
        for threads in setting.thread_counts:
            for kernel in ("read", "triad") if setting.full else ("read",):
                for size in sweep_sizes(setting, threads, ARRAYS[kernel]):
                    yield _case(setting, kernel, "c", None, size // ARRAYS[kernel], threads)

    @contextmanager
    def run(self, case: Case, setting: Setting) -> Iterator[Prepared]:
        """One kernel over its part of the shared arrays."""
        threads, count = int(case.parameters["threads"]), _count(case)
        arrays = setting.arena.arrays(count, setting.cpus[:threads])
        yield _compiled(setting, case.family.rpartition("/")[2], arrays, count, threads)


def stream_unavailable(setting: Setting) -> str | None:
    """Why the bandwidth of memory is not among the cases; None where it is."""
    return memory_shortage(setting, 1) if memory_array_bytes(setting, 1) is None else None


def _methods(setting: Setting, level: Level, kernel: str, threads: int) -> list[str]:
    methods = []
    if setting.kernels is not None:
        methods.append("c")
        if level.name == MEMORY and kernel != "read" and setting.kernels.has_streaming_stores:
            methods.append("c-nt")
    alone = setting.kernels is None
    if (threads == 1 or alone) and kernel != "triad" and (level.name == MEMORY or threads == 1):
        methods.append("numpy")
    return methods


def _case(setting: Setting, kernel: str, method: str, level: str | None, array_bytes: int, threads: int) -> Case:
    block = _BLOCK * threads
    count = max(block, array_bytes // 8 // block * block)
    setting.arena.reserve(count)
    used = 8 * count * ARRAYS[kernel]
    note = ""
    if level == MEMORY and 8 * count < STREAM_RULE * last_cache_bytes(setting.caches, threads) - 8 * block:
        note = f"memory is short: an array is below {STREAM_RULE} times the last cache, STREAM's rule"
    at = {} if level is None else {"level": level}
    return Case(
        family=f"{'stream' if level else 'sweep'}/{kernel}",
        parameters={"method": method, **at, "threads": threads, "bytes": used},
        unit="byte/s",
        bytes=used,
        priority=1 if level == MEMORY else 2 if level else 4,
        reopens=level != MEMORY,
        note=note,
    )


def _count(case: Case) -> int:
    """Doubles of one array."""
    return int(case.parameters["bytes"]) // 8 // ARRAYS[case.family.rpartition("/")[2]]


def _compiled(setting: Setting, operation: str, arrays: tuple[Doubles, ...], count: int, threads: int) -> Prepared:
    kernels = setting.kernels
    if kernels is None:
        raise ProbeUnavailable(setting.no_kernels)
    cpus = setting.cpus[:threads]
    return Prepared(lambda iterations: kernels.run(operation, arrays, count, iterations, cpus))


def _numpy(kernel: str, arrays: tuple[Doubles, ...], count: int, threads: int) -> Prepared:
    """The kernel as one NumPy call a thread, less the cost of the call on empty arrays."""
    if threads == 1:
        call, empty = _numpy_call(kernel, arrays, 0, count), _numpy_call(kernel, arrays, 0, 0)
        return Prepared(minus_empty(call, empty))
    bounds = [count * index // threads for index in range(threads + 1)]
    calls = [_numpy_call(kernel, arrays, low, high) for low, high in pairwise(bounds)]
    return Prepared(lambda iterations: _team(calls, iterations))


def _numpy_call(kernel: str, arrays: tuple[Doubles, ...], low: int, high: int) -> Callable[[], object]:
    a, b, c = (array[low:high] for array in arrays)
    if kernel == "copy":
        return lambda: np.copyto(c, a)
    if kernel == "scale":
        return lambda: np.multiply(c, _SCALAR, out=b)
    if kernel == "add":
        return lambda: np.add(a, b, out=c)
    return lambda: np.add.reduce(a)


def _team(calls: list[Callable[[], object]], iterations: int) -> Repeat:
    """Each call in a thread of its own, from the first start after a barrier to the last end."""
    barrier = threading.Barrier(len(calls))
    spans: list[tuple[int, int, int]] = []

    def member(call: Callable[[], object]) -> None:
        cpu = time.thread_time_ns()
        barrier.wait()
        start = time.perf_counter_ns()
        for _ in range(iterations):
            call()
        spans.append((start, time.perf_counter_ns(), time.thread_time_ns() - cpu))

    members = [threading.Thread(target=member, args=(call,)) for call in calls]
    for thread in members:
        thread.start()
    for thread in members:
        thread.join()
    wall = max(end for _, end, _ in spans) - min(start for start, _, _ in spans)
    return Repeat(wall, sum(cpu for _, _, cpu in spans), None, 0)
