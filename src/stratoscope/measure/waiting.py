"""Waits for threads so that Ctrl-C arrives, and arrives once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final

#: How long Ctrl-C may go unseen.
LOOK_UP_S: Final = 0.1


def start_and_wait(
    targets: Sequence[Callable[[], None]], names: Sequence[str], on_interrupt: Callable[[], None]
) -> bool:
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
    for target, name in zip(targets, names, strict=True):
        threading.Thread(target=run, args=(target,), name=name).start()
    while len(ended) < len(targets):
        try:
            news.acquire(timeout=LOOK_UP_S)
        except KeyboardInterrupt:
            interrupted = True
            on_interrupt()
    return interrupted
