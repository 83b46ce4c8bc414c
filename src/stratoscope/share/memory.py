"""How much memory this or another process has, as the kernel counts it: proportional, private, mapped."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass

from stratoscope.share.errors import ShareError


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes of one process (/proc/PID/smaps_rollup).

    `pss_bytes` counts a page that n processes map as 1/n, so that it can be added up over processes that all live.
    `anonymous_bytes` is memory without a file behind it: the heap, and copies made of mapped pages.
    """

    rss_bytes: int
    pss_bytes: int
    anonymous_bytes: int


def footprint(pid: int | None = None) -> Footprint:
    """The memory of process `pid`, default: this one.

    Raises:
        ShareError: there is no such process, it belongs to someone else, or the system has no smaps_rollup.
    """
    path = f"/proc/{pid or 'self'}/smaps_rollup"
    try:
        with open(path, encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file if line.rstrip().endswith("kB"))
    except OSError as error:
        raise ShareError(f"cannot read {path}: {error.strerror}", hint="it needs Linux 4.14") from error
    sizes = {name: int(text.split()[0]) * 1024 for name, text in fields.items()}
    return Footprint(sizes["Rss"], sizes["Pss"], sizes["Anonymous"])


def give_back_free_memory() -> None:
    """Returns freed heap pages to the system (glibc's malloc_trim); does nothing with another C library.

    Packing at load leaves a freed buffer of the size of the largest weight in the heap of every process.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def mapping_count() -> int:
    """How many memory mappings this process has."""
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
        return sum(1 for _ in file)


def descriptor_count() -> int:
    """How many file descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


def private_bytes() -> int:
    """Resident anonymous memory of this process; cheaper than `footprint`, which walks all page tables."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    raise ShareError("this system does not tell a process's private memory (RssAnon)", hint="it needs Linux 4.5")
