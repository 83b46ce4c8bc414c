"""Probe of page faults: what the first touch of a page costs, for small and for huge pages."""

from __future__ import annotations

import mmap
import resource
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np

from stratoscope.measure.machine.probe import Case, Prepared, ProbeUnavailable, Repeat, Setting
from stratoscope.measure.machine.timing import operate

#: Pages of one repeat.
_SMALL: Final = 4096
_HUGE: Final = 16
_HUGE_BYTES: Final = 2 << 20


class FaultProbe:
    """Time of one minor page fault on anonymous memory: zeroing the page and mapping it."""

    name = "faults"
    title = "cost of a page fault (first touch of anonymous memory)"

    def check(self, setting: Setting) -> str | None:
        """Needs madvise(2), to choose the size of the pages."""
        return None if hasattr(mmap, "MADV_NOHUGEPAGE") else "the system has no transparent huge pages to turn off"

    def register(self, setting: Setting) -> Iterable[Case]:
        """Small pages, and huge ones of 2 MiB."""
        for page, pages in ((mmap.PAGESIZE, _SMALL), (_HUGE_BYTES, _HUGE)):
            if 2 * page * pages <= setting.memory_bytes:
                yield Case(
                    family="faults/first-touch",
                    parameters={"page_bytes": page},
                    unit="s",
                    memory_bytes=page * pages,
                    priority=3,
                    fixed_iterations=pages,
                    warm_up=False,
                )

    @contextmanager
    def run(self, case: Case, setting: Setting) -> Iterator[Prepared]:
        """One operation is one page; the same touches on mapped pages are subtracted."""
        page = int(case.parameters["page_bytes"])
        yield Prepared(lambda pages: _first_touch(page, pages))


def _first_touch(page: int, pages: int) -> Repeat:
    """Maps memory, touches each page once, and once more for what the touching itself costs.

    Raises:
        ProbeUnavailable: the kernel did not take one fault a page (it chose another size of pages).
    """
    huge = page != mmap.PAGESIZE
    length = page * (pages + 1)  # one more, so that the part in use can begin at a multiple of `page`
    with mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE if huge else mmap.MADV_NOHUGEPAGE)
        first, again, faults = _touch_twice(memory, page, pages)
    if not 0.9 * pages <= faults <= 1.1 * pages + 16:
        raise ProbeUnavailable(
            f"{pages} pages of {page >> 10} KiB took {faults} faults: the kernel did not use such pages"
        )
    return Repeat(max(1, first.wall_ns - again.wall_ns), first.cpu_ns, first.wait_ns, first.involuntary)


def _touch_twice(memory: mmap.mmap, page: int, pages: int) -> tuple[Repeat, Repeat, int]:
    """Writes one byte a page, twice; both times, and the faults of the first. Keeps no reference to the memory."""
    whole = np.frombuffer(memory, np.uint8)
    start = -whole.ctypes.data % page
    places = whole[start : start + page * pages : page]
    touch = operate(lambda _: places.fill(1))
    faults = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    first = touch(1)
    faults = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - faults
    return first, touch(1), faults
