"""Probes of starting things: threads, processes, and calls into the libraries (dispatch)."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import numpy as np

from stratoscope.measure.machine.probe import Case, Prepared, ProbeUnavailable, Repeat, Setting
from stratoscope.measure.machine.timing import minus_empty, operate, repeated
from stratoscope.measure.machine.workers import LIBRARIES, library_missing, worker_case


class ForkJoinProbe:
    """Creating and joining threads (pthread and Python), and starting a process."""

    name = "forkjoin"
    title = "cost of creating and joining threads, and of starting a process"

    def check(self, setting: Setting) -> str | None:
        """Runs everywhere."""
        return None

    def register(self, setting: Setting) -> Iterable[Case]:
        """By thread count; the compiled form only where there is a compiler."""
        for threads in setting.thread_counts:
            if setting.kernels is not None:
                yield _case("forkjoin/pthread", threads=threads)
            yield _case("forkjoin/python-thread", threads=threads)
        if shutil.which("true"):
            yield _case("forkjoin/process")

    @contextmanager
    def run(self, case: Case, setting: Setting) -> Iterator[Prepared]:
        """One operation creates and joins all the threads, or starts `true` and waits for it."""
        kind = case.family.rpartition("/")[2]
        threads = int(case.parameters.get("threads", 1))
        if kind == "pthread":
            kernels = setting.kernels
            if kernels is None:
                raise ProbeUnavailable(setting.no_kernels)
            yield Prepared(lambda count: _timed_in_c(lambda: kernels.fork_join(threads, count)))
        elif kind == "python-thread":
            yield Prepared(operate(repeated(lambda: _python_threads(threads))))
        else:
            program = shutil.which("true")
            if program is None:
                raise ProbeUnavailable("there is no program `true` to start")
            yield Prepared(operate(repeated(lambda: _process(program))))


class DispatchProbe:
    """What one call into a library costs on almost no data: the least time of any operator it runs."""

    name = "dispatch"
    title = "cost of one call into each library on one element"

    def check(self, setting: Setting) -> str | None:
        """Runs everywhere; libraries that are missing are left out by name."""
        return None

    def register(self, setting: Setting) -> Iterable[Case]:
        """A C function through ctypes, NumPy's add, and the other libraries' in processes of their own."""
        if setting.kernels is not None:
            yield _case("dispatch/ctypes")
        yield _case("dispatch/numpy")
        for library in LIBRARIES:
            if library != "numpy":
                yield _case(f"dispatch/{library}")

    @contextmanager
    def run(self, case: Case, setting: Setting) -> Iterator[Prepared]:
        """One operation is one call; the loop around it is subtracted."""
        library = case.family.rpartition("/")[2]
        if library == "ctypes":
            if setting.kernels is None:
                raise ProbeUnavailable(setting.no_kernels)
            yield Prepared(minus_empty(setting.kernels.nothing, _nothing))
        elif library == "numpy":
            x, y = np.ones(1, np.float32), np.empty(1, np.float32)
            yield Prepared(minus_empty(lambda: np.add(x, x, out=y), _nothing))
        else:
            missing = library_missing(library, setting)
            if missing:
                raise ProbeUnavailable(missing)
            with worker_case(setting.workers, library, 1, {"kind": "dispatch"}) as prepared:
                yield prepared


def _case(family: str, **parameters: int) -> Case:
    return Case(family=family, parameters=parameters, unit="s", priority=3)


def _nothing() -> None:
    return None


def _python_threads(count: int) -> None:
    members = [threading.Thread(target=_nothing) for _ in range(count)]
    for member in members:
        member.start()
    for member in members:
        member.join()


def _process(program: str) -> None:
    os.waitpid(os.posix_spawn(program, [program], {}), 0)


def _timed_in_c(call: Callable[[], int]) -> Repeat:
    """A call that tells its own wall time; CPU time and waits are this thread's."""
    took = 0

    def remember(_: int) -> None:
        nonlocal took
        took = call()

    repeat = operate(remember)(1)
    return repeat._replace(wall_ns=max(1, took))
