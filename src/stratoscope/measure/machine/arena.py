"""Three big arrays that all bandwidth cases share, touched by the threads that will use them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from stratoscope.measure.machine.compiled import Doubles, Kernels, aligned_doubles

#: Where the arrays begin in a page, in bytes: equal places would let a load wait for a store to another array whose
#: address has the same low 12 bits (4 KiB aliasing), now and then, by how the addresses fall.
OFFSETS: Final = (0, 1344, 2688)
_PAGE: Final = 4096 // 8  # doubles


class Arena:
    """Arrays a, b, c of doubles, made when first asked for and kept; on a NUMA machine one set a number of threads.

    Memory lies on the node of the thread that touches it first, so each set is touched by its own team. On one node,
    whoever asks again gets the next pages: now and then some pages do not fit a cache together (reading 16 KiB was seen
    at the speed of L2 in one process of eight, from beginning to end), and an interval from one place would not know.
    """

    def __init__(self, kernels: Kernels | None, numa_nodes: int) -> None:
        self._kernels = kernels
        self._per_team = numa_nodes > 1
        self._sets: dict[int, tuple[Doubles, Doubles, Doubles]] = {}
        self._reserved = 0
        self._asked = 0

    def reserve(self, count: int) -> None:
        """Says that arrays of `count` doubles will be asked for, so that they are made that large at once."""
        self._reserved = max(self._reserved, count)

    def arrays(self, count: int, cpus: Sequence[int]) -> tuple[Doubles, Doubles, Doubles]:
        """Three arrays of at least `count` doubles, in the next pages each time; made anew only where too small."""
        key = len(cpus) if self._per_team else 0
        known = self._sets.get(key)
        if known is None or known[0].size < count:
            known = self._make(key, max(count, self._reserved), cpus)
        self._asked += 1
        pages = -(-count // _PAGE)
        places = 1 if self._per_team else max(1, known[0].size // _PAGE // pages)
        start = self._asked % places * pages * _PAGE
        first, second, third = known
        return first[start:], second[start:], third[start:]

    def _make(self, key: int, count: int, cpus: Sequence[int]) -> tuple[Doubles, Doubles, Doubles]:
        self._sets.pop(key, None)  # the old set is freed before the new one is made
        first, second, third = OFFSETS
        made = (aligned_doubles(count, first), aligned_doubles(count, second), aligned_doubles(count, third))
        if self._kernels is not None:
            self._kernels.run("init", made, count, 1, cpus)
        else:
            for array, value in zip(made, (1.0, 2.0, 0.0), strict=True):
                array.fill(value)
        self._sets[key] = made
        return made

    def release(self) -> None:
        """Gives the memory back."""
        self._sets.clear()
