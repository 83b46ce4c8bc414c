"""Threads that are kept for the next job, and a wait for them in which Ctrl-C arrives, and arrives once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from queue import Empty, SimpleQueue
from typing import Final

#: How long Ctrl-C may go unseen.
LOOK_UP_S: Final = 0.1


class _LastingThread:
    """A daemon thread that takes one job after the other and never ends by itself."""

    def __init__(self, number: int) -> None:
        self._jobs: SimpleQueue[tuple[Callable[[], None], threading.Event]] = SimpleQueue()
        threading.Thread(target=self._serve, name=f"stratoscope-{number}", daemon=True).start()

    def give(self, job: Callable[[], None]) -> threading.Event:
        ended = threading.Event()
        self._jobs.put((job, ended))
        return ended

    def _serve(self) -> None:
        while True:
            job, ended = self._jobs.get()
            job()  # whoever raises here ends the thread, with a traceback, as in any thread
            del job
            _idle.put(self)
            ended.set()


_idle: SimpleQueue[_LastingThread] = SimpleQueue()
_numbers = count()


def start_lasting(job: Callable[[], None]) -> threading.Event:
    """Runs a job in a thread that outlives it, and returns the event of its end.

    For whatever calls LoadGen: its logger keeps a buffer a thread, and where a thread has ended, the next test may read
    a buffer that is gone (a segmentation fault in `TlsLogger::SwapBuffers`, once in some 200 tests on a busy machine,
    mlcommons-loadgen 6.0). A thread that never ends leaves nothing to free.
    """
    try:
        thread = _idle.get_nowait()
    except Empty:
        thread = _LastingThread(next(_numbers))
    return thread.give(job)


def start_and_wait(targets: Sequence[Callable[[], None]], on_interrupt: Callable[[], None]) -> bool:
    """Runs each target in a thread and returns, when all have ended, whether Ctrl-C was pressed meanwhile.

    `on_interrupt` is told about each Ctrl-C and makes the targets end. Two facts shape the wait. A `Thread.join` that
    Ctrl-C interrupts marks the thread as ended while it still runs (Python 3.11, _wait_for_tstate_lock), so it waits on
    a semaphore. And polars installs a SIGINT handler that restarts system calls, so that a wait without a timeout is
    not interrupted at all; this one looks up every tenth of a second, which costs some 30 us.
    """
    ended: list[bool] = []  # counted, as Ctrl-C can come between a semaphore's release and the note of it
    news = threading.Semaphore(0)

    def run(target: Callable[[], None]) -> None:
        try:
            target()
        finally:
            ended.append(True)
            news.release()

    interrupted = False
    for target in targets:
        start_lasting(partial(run, target))
    while len(ended) < len(targets):
        try:
            news.acquire(timeout=LOOK_UP_S)
        except KeyboardInterrupt:
            interrupted = True
            on_interrupt()
    return interrupted
