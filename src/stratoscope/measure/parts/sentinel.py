"""A fixed kernel that is timed around every part: when it slows down, so did everything that ran meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from stratoscope.stats.quantile import low_quartile

#: The machine is quiet while the kernel takes at most so many times its best of the session.
MOST_SLOWDOWN: Final = 1.15
CALLS: Final = 200
SECONDS: Final = 0.004
#: Before a part: looks at the kernel so often, with a pause between, until the machine is quiet.
LOOKS: Final = 10
PAUSE_S: Final = 0.1


class Sentinel:
    """Times the kernel where the parts run and compares it with the best time so far.

    Args:
        measure: wall times in nanoseconds of some calls of the kernel.
        sleep: waits so many seconds; another one in tests.
    """

    def __init__(self, measure: Callable[[int, float], list[int]], sleep: Callable[[float], None] = time.sleep) -> None:
        self._measure = measure
        self._sleep = sleep
        self._best: float | None = None

    def look(self) -> float:
        """The kernel's time now over its best of the session, at least 1."""
        now = low_quartile(self._measure(CALLS, SECONDS)).require()
        self._best = now if self._best is None else min(self._best, now)
        return now / self._best

    def wait_until_quiet(self) -> float:
        """Looks until the machine is quiet or patience ends; returns the last look."""
        slowdown = self.look()
        for _ in range(LOOKS - 1):
            if slowdown <= MOST_SLOWDOWN:
                break
            self._sleep(PAUSE_S)
            slowdown = self.look()
        return slowdown
