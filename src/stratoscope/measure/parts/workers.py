"""Worker processes, one a library and thread count: a crash or a hang ends the worker only, and says why."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from types import TracebackType
from typing import IO, Any, Final, Self

from stratoscope.host.fresh_process import end_child
from stratoscope.spec.performance import Environment, PartStatus

#: Longest wait for an answer: a library may compile a part for a while; a sample takes far less.
ANSWER_S: Final = 60.0
#: Importing a framework on a loaded machine takes tens of seconds.
START_S: Final = 180.0
_THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")
#: Idle threads of OpenMP's pools sleep: they would take the time of the candidate that runs.
_NO_SPINNING: Final = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}


class CandidateRefused(Exception):
    """The worker lives and says that this candidate has no time: its status and the reason."""

    def __init__(self, status: PartStatus, reason: str, max_error: float | None = None) -> None:
        super().__init__(reason)
        self.status: PartStatus = status
        self.reason = reason
        self.max_error = max_error


class WorkerLost(Exception):
    """The worker crashed, hung and was killed, or could not be started; the text says which."""


class LibraryBroken(Exception):
    """The library's worker cannot be started: nothing is known of any part. The text says why."""


class Worker:
    """A process that runs one library's candidates, pinned to as many CPUs as it has threads."""

    def __init__(self, module: str, threads: int, environment: Environment, answer_s: float = ANSWER_S) -> None:
        self._name = f"the worker of {module.rpartition('.')[2].removeprefix('library_')}, threads={threads}"
        self._answer_s = answer_s
        self._folder = tempfile.TemporaryDirectory(prefix="stratoscope-part-", dir=_memory_folder())
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        sizes = (environment.l2_bytes or 0, environment.last_level_bytes or 0)
        cpus = ",".join(map(str, pinned_cpus(threads)))
        command = [sys.executable, "-m", "stratoscope.measure.parts.worker", module, str(threads), cpus]
        self._process = subprocess.Popen(
            [*command, self._folder.name, *map(str, sizes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, **_NO_SPINNING, **dict.fromkeys(_THREAD_VARIABLES, str(threads))},
            start_new_session=True,  # Ctrl-C is ours to handle: the worker ends when its input does
        )
        try:
            self.ask("load", timeout_s=START_S)
        except BaseException:
            self.close()
            raise

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def ask(self, do: str, *, timeout_s: float | None = None, **question: Any) -> Any:
        """Sends a question and returns the answer.

        Raises:
            CandidateRefused: the worker answers that it is unsupported, wrong or failed.
            WorkerLost: it ended, or did not answer in time and was killed.
        """
        limit = self._answer_s if timeout_s is None else timeout_s
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        message = json.dumps({"do": do, "timeout_s": limit, **question})
        try:
            self._process.stdin.write(message.encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise WorkerLost(self._post_mortem()) from None
        line = self._read_line(limit)
        if line is None:
            self._kill()
            raise WorkerLost(f"{self._name} hung: it did not answer in {limit:.0f} s")
        if not line:
            raise WorkerLost(self._post_mortem())
        answer = json.loads(line)
        if "ok" in answer:
            return answer["ok"]
        raise CandidateRefused(answer["status"], answer["reason"], answer.get("max_error"))

    def _read_line(self, limit_s: float) -> bytes | None:
        """A whole line, b"" at the end of the output, None after `limit_s`."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + limit_s
        descriptor, held = self._process.stdout.fileno(), b""
        while not held.endswith(b"\n"):
            if not select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return None
            piece = os.read(descriptor, 1 << 20)
            if not piece:
                return b""
            held += piece
        return held

    def _post_mortem(self) -> str:
        """How the worker ended and what it said last."""
        self._kill()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        code = self._process.returncode
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        return f"{self._name} crashed: it {how}" + (f", last words: {lines[-1][:200]}" if lines else "")

    def _kill(self) -> None:
        try:
            self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        """Ends the process; may be called twice."""
        end_child(self._process)
        self._errors.close()
        self._folder.cleanup()


class WorkerPool:
    """Workers by module and thread count, started when first needed and kept until the end of the block."""

    def __init__(self, environment: Environment, answer_s: float = ANSWER_S) -> None:
        self._environment = environment
        self._answer_s = answer_s
        self._workers: dict[tuple[str, int], Worker] = {}
        self._broken: dict[tuple[str, int], str] = {}

    def get(self, module: str, threads: int) -> Worker:
        """The worker; a new one where there is none or it has ended. Raises LibraryBroken where none can be started."""
        place = (module, threads)
        worker = self._workers.get(place)
        if worker is not None and not worker.alive:
            self.drop(module, threads)
            worker = None
        if worker is None:
            if place in self._broken:
                raise LibraryBroken(self._broken[place])
            try:
                worker = self._workers[place] = Worker(module, threads, self._environment, self._answer_s)
            except (CandidateRefused, WorkerLost) as error:
                self._broken[place] = f"{module.rpartition('.')[2]} cannot be loaded: {error}"
                raise LibraryBroken(self._broken[place]) from None
        return worker

    def drop(self, module: str, threads: int) -> None:
        """Ends a worker, if it is there."""
        worker = self._workers.pop((module, threads), None)
        if worker is not None:
            worker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for module, threads in list(self._workers):
            self.drop(module, threads)


def pinned_cpus(threads: int) -> list[int]:
    """The CPUs of a worker: the last ones that this process may use, since the first ones serve most interrupts."""
    return sorted(os.sched_getaffinity(0))[-threads:]


def _memory_folder() -> str | None:
    """A folder in memory where there is one: weights of hundreds of megabytes need no disk."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
