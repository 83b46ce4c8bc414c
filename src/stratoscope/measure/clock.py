"""The clock of a load: read in nanoseconds, waited on to the microsecond; a test puts a virtual one in its place."""

from __future__ import annotations

import time
from typing import Final, Protocol

#: sleep() wakes up to some 60 us late on Linux (timer slack 50 us), so the rest is waited out awake.
SPIN_NS: Final = 100_000


class Clock(Protocol):
    """Monotonic nanoseconds of one origin."""

    def now_ns(self) -> int:
        """The time now."""
        ...

    def sleep_until_ns(self, moment_ns: int) -> None:
        """Returns at or just after `moment_ns`; at once where it has passed."""
        ...


class RealClock:
    """`time.perf_counter_ns`."""

    def now_ns(self) -> int:
        """The time now."""
        return time.perf_counter_ns()

    def sleep_until_ns(self, moment_ns: int) -> None:
        """Sleeps until 100 us before `moment_ns`, then yields in a loop, so that other threads can run."""
        ahead = moment_ns - time.perf_counter_ns()
        if ahead > SPIN_NS:
            time.sleep((ahead - SPIN_NS) / 1e9)
        while time.perf_counter_ns() < moment_ns:
            time.sleep(0)
