"""Probe of file reads: from the storage (cold) and from the kernel's page cache (warm)."""

from __future__ import annotations

import ctypes
import mmap
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stratoscope.measure.machine.probe import Case, Prepared, ProbeUnavailable, Repeat, Setting
from stratoscope.measure.machine.timing import operate

SIZE: Final = 32 << 20
SIZE_FULL: Final = 256 << 20
#: Bytes of one read(2), as libraries that load weights use.
_BLOCK: Final = 1 << 20
#: Pages that may stay in the cache for a read to count as cold.
MOST_RESIDENT: Final = 0.02


class FileProbe:
    """Reading a whole file in order, with read(2) into memory that is there already."""

    name = "file"
    title = "cold and warm file reads"

    def check(self, setting: Setting) -> str | None:
        """Needs a folder that can be written, with room."""
        size = _size(setting)
        try:
            space = os.statvfs(setting.folder)
            with tempfile.NamedTemporaryFile(dir=setting.folder):
                pass
        except OSError as error:
            return f"{setting.folder} cannot be written: {error.strerror}"
        if space.f_bavail * space.f_frsize < 2 * size:
            return f"{setting.folder} has less than {2 * size >> 20} MiB free"
        return None

    def register(self, setting: Setting) -> Iterable[Case]:
        """One file, cold and warm."""
        size = _size(setting)
        for state in ("warm", "cold"):
            yield Case(
                family="file/read",
                parameters={"state": state, "bytes": size, "block": _BLOCK},
                unit="byte/s",
                bytes=float(size),
                memory_bytes=_BLOCK,
                priority=3,
                fixed_iterations=1 if state == "cold" else None,
                warm_up=state == "warm",
                note="cold: not in this machine's page cache; a host or a disk may still cache it"
                if state == "cold"
                else "",
            )

    @contextmanager
    def run(self, case: Case, setting: Setting) -> Iterator[Prepared]:
        """One operation reads the whole file."""
        size = int(case.parameters["bytes"])
        with tempfile.NamedTemporaryFile(dir=setting.folder, prefix=".stratoscope-read-") as file:
            _fill(file.fileno(), size)
            buffer = memoryview(np.zeros(_BLOCK, np.uint8).data).cast("B")
            read = operate(lambda count: _read(file.fileno(), size, buffer, count))
            if case.parameters["state"] == "warm":
                yield Prepared(read)
                return

            def cold(count: int) -> Repeat:
                _evict(file.fileno(), size)
                return read(count)

            _evict(file.fileno(), size)
            yield Prepared(cold)


def _size(setting: Setting) -> int:
    return min(SIZE_FULL if setting.full else SIZE, max(_BLOCK, setting.memory_bytes // 4 // _BLOCK * _BLOCK))


def _fill(descriptor: int, size: int) -> None:
    """Writes random bytes, which no file system can compress, and waits until they are on the storage."""
    rng = np.random.default_rng(0)
    for _ in range(0, size, _BLOCK):
        os.write(descriptor, rng.bytes(_BLOCK))
    os.fsync(descriptor)


def _read(descriptor: int, size: int, buffer: memoryview, count: int) -> None:
    for _ in range(count):
        for offset in range(0, size, _BLOCK):
            if os.preadv(descriptor, [buffer], offset) != _BLOCK:
                raise ProbeUnavailable("the file became shorter while it was read")


def _evict(descriptor: int, size: int) -> None:
    """Drops the file from the page cache, and checks that it went.

    Raises:
        ProbeUnavailable: it stays (tmpfs, or a file system without a cache of its own).
    """
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    if resident_share(descriptor, size) > MOST_RESIDENT:
        raise ProbeUnavailable("the file system keeps the file in memory, so a cold read cannot be made (tmpfs?)")


def resident_share(descriptor: int, size: int) -> float:
    """Part of the file's pages that lie in the page cache (mincore(2)), without reading any of them in.

    Raises:
        ProbeUnavailable: the file cannot be mapped, or the kernel does not tell.
    """
    pages = -(-size // mmap.PAGESIZE)
    found = np.zeros(pages, np.uint8)
    try:
        with mmap.mmap(descriptor, size, prot=mmap.PROT_READ, flags=mmap.MAP_SHARED) as mapped:
            failed = _mincore(mapped, size, found)
    except (OSError, ValueError) as error:
        raise ProbeUnavailable(f"the file cannot be mapped to see whether it is cached: {error}") from None
    if failed:
        raise ProbeUnavailable(f"the kernel does not tell whether a file is cached: {os.strerror(failed)}")
    return float(np.count_nonzero(found & 1)) / pages


def _mincore(mapped: mmap.mmap, size: int, found: NDArray[np.uint8]) -> int:
    """Calls mincore(2); 0 or an errno. Keeps no reference to the map."""
    call = ctypes.CDLL(None, use_errno=True).mincore
    call.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    address = np.frombuffer(mapped, np.uint8).ctypes.data
    return ctypes.get_errno() if call(address, size, found.ctypes.data) != 0 else 0
