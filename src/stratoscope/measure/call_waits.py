"""How long each inference of a load waited for a CPU: the scheduler's counter of its thread, around the call."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from stratoscope.backends.base import Feeds, Session
from stratoscope.host.noise import ThreadNoise
from stratoscope.spec.model import TensorSpec


class WaitingSession:
    """A session whose bound calls note their run-queue wait, at two readings of some microseconds a call.

    Attributes:
        waits_ns: one entry a bound call, in the order in which they ended; None where the kernel does not tell.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._local = threading.local()
        self._opened: list[ThreadNoise] = []
        self.waits_ns: list[int | None] = []
        self.inputs: Sequence[TensorSpec] = session.inputs
        self.outputs: Sequence[TensorSpec] = session.outputs
        self.effective_options: Mapping[str, Any] = session.effective_options

    def run(self, feeds: Feeds) -> list[np.ndarray]:
        """As the session's own."""
        return self._session.run(feeds)

    def bind(self, feeds: Feeds) -> Callable[[], list[np.ndarray]]:
        """As the session's own, with the waits noted."""
        call, waits = self._session.bind(feeds), self.waits_ns

        def watched() -> list[np.ndarray]:
            noise = self._noise()
            before = noise.snapshot().wait_ns
            outputs = call()
            after = noise.snapshot().wait_ns
            waits.append(None if before is None or after is None else after - before)
            return outputs

        return watched

    def close(self) -> None:
        """Releases the counters; the session itself stays open."""
        for noise in self._opened:
            noise.close()
        self._opened.clear()

    def _noise(self) -> ThreadNoise:
        """The counters of the thread that calls."""
        found: ThreadNoise | None = getattr(self._local, "noise", None)
        if found is None:
            found = self._local.noise = ThreadNoise()
            self._opened.append(found)
        return found
