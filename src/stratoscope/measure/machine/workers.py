"""Runs library code in processes, one a library and thread count, so that no pool of theirs disturbs another.

A worker (worker.py) answers one JSON line to each line: open a case, run so many operations, close it, end.
"""

from __future__ import annotations

import importlib.util
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import IO, Any, Final, Self

from stratoscope.host.fresh_process import end_child
from stratoscope.measure.machine.probe import Prepared, ProbeUnavailable, Repeat, Setting

#: Libraries that a worker knows, in the order in which they are measured, with the memory that one takes.
LIBRARIES: Final[Mapping[str, int]] = {"numpy": 64 << 20, "onnxruntime": 160 << 20, "torch": 480 << 20}
#: Longest wait for an answer: importing a framework on a loaded machine takes tens of seconds.
ANSWER_S: Final = 120.0
#: After a case with several threads: pools spin for some milliseconds (OpenBLAS: 2^26 cycles) before they sleep.
SETTLE_S: Final = 0.03
_THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")


def library_missing(library: str, setting: Setting) -> str | None:
    """Why no worker with `library` can be started here; None where one can."""
    if importlib.util.find_spec(library) is None:
        return f"{library} is not installed"
    needed = workers_memory(setting, library)
    if needed > setting.memory_bytes // 2:
        return f"workers up to {library} take about {needed >> 20} MiB; they may use {setting.memory_bytes >> 21}"
    return None


def workers_memory(setting: Setting, last: str) -> int:
    """About the bytes of all workers of the libraries up to `last`: one a thread count each, all kept."""
    names = list(LIBRARIES)
    return sum(LIBRARIES[name] for name in names[: names.index(last) + 1]) * len(setting.thread_counts)


class Worker:
    """A process that runs one library's cases. Use in a `with` block, or call `close`."""

    def __init__(self, library: str, threads: int, timeout_s: float = ANSWER_S) -> None:
        self.name = f"{library} with {threads} thread{'s' if threads > 1 else ''}"
        self.threads = threads
        self._timeout_s = timeout_s
        environment = {**os.environ, **dict.fromkeys(_THREAD_VARIABLES, str(threads))}
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        command = [sys.executable, "-m", "stratoscope.measure.machine.worker", library, str(threads)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            start_new_session=True,  # Ctrl-C is ours to handle: the worker ends when its input does
        )

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def ask(self, **question: Any) -> Any:
        """Sends a question and returns the answer.

        Raises:
            ProbeUnavailable: the worker says that it cannot, ended, or does not answer in time.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise ProbeUnavailable(self._post_mortem()) from None
        if not select.select([self._process.stdout], [], [], self._timeout_s)[0]:
            self._process.kill()
            self._process.wait()
            raise ProbeUnavailable(f"the worker of {self.name} did not answer in {self._timeout_s:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise ProbeUnavailable(self._post_mortem())
        answer = json.loads(line)
        if "error" in answer:
            raise ProbeUnavailable(str(answer["error"]))
        return answer["ok"]

    def _post_mortem(self) -> str:
        """What the worker said last, where it ended unasked."""
        self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        code = self._process.returncode
        return f"the worker of {self.name} ended ({code}): {lines[-1][:200] if lines else 'without a word'}"

    def close(self) -> None:
        """Ends the process; may be called twice."""
        end_child(self._process)
        self._errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class WorkerPool:
    """Workers by library and thread count, started when first needed and kept until `close`."""

    def __init__(self) -> None:
        self._workers: dict[tuple[str, int], Worker] = {}

    def get(self, library: str, threads: int) -> Worker:
        """The worker; a new one where there is none."""
        worker = self._workers.get((library, threads))
        if worker is None:
            worker = self._workers[library, threads] = Worker(library, threads)
        return worker

    def drop(self, library: str, threads: int) -> None:
        """Ends a worker, if it is there."""
        worker = self._workers.pop((library, threads), None)
        if worker is not None:
            worker.close()

    def close(self) -> None:
        """Ends all workers."""
        for library, threads in list(self._workers):
            self.drop(library, threads)


@contextmanager
def worker_case(pool: WorkerPool, library: str, threads: int, case: Mapping[str, Any]) -> Iterator[Prepared]:
    """A case opened in a worker of `pool`; ProbeUnavailable where the worker cannot. The worker stays for the next."""
    worker = pool.get(library, threads)
    try:
        opened = worker.ask(do="open", case=dict(case))
    except ProbeUnavailable:
        if not worker.alive:
            pool.drop(library, threads)
        raise

    def operate(iterations: int) -> Repeat:
        repeat = Repeat(*worker.ask(do="run", key=opened["key"], iterations=iterations))
        if threads > 1:
            time.sleep(SETTLE_S)
        return repeat

    try:
        yield Prepared(operate, opened["note"])
    finally:
        if worker.alive:
            with suppress(ProbeUnavailable):  # it ended just now: there is nothing left to close
                worker.ask(do="close", key=opened["key"])
