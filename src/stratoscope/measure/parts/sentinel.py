"""A fixed kernel that is timed around every part: when it slows down, so did everything that ran meanwhile."""

from __future__ import annotations

import bisect
import time
from collections.abc import Callable
from typing import Final

from stratoscope.stats.quantile import low_quartile, quantile_rank

#: A quiet machine is one at which the kernel takes the 10th percentile of the session's looks (of up to ten looks the
#: fastest): one look at a clock that was boosted for a moment must not make all that follows look slow.
QUIET_PART: Final = 0.1
#: The machine is quiet while the kernel takes at most so many times that.
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
        self._looks: list[float] = []

    def look(self) -> float:
        """The kernel's time now over that of a quiet machine."""
        return self._keep(self._time())

    def wait_until_quiet(self) -> float:
        """Looks until the machine is quiet or patience ends; returns the last look."""
        now = self._time()
        for _ in range(LOOKS - 1):
            if not self._looks or now <= MOST_SLOWDOWN * self._quiet():
                break
            self._sleep(PAUSE_S)
            now = self._time()
        return self._keep(now)

    def _time(self) -> float:
        return low_quartile(self._measure(CALLS, SECONDS)).require()

    def _keep(self, now: float) -> float:
        bisect.insort(self._looks, now)
        return now / self._quiet()

    def _quiet(self) -> float:
        return self._looks[quantile_rank(len(self._looks), QUIET_PART)]
