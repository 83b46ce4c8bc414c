"""The process that holds the bricks of a model (sequence_worker.py), from outside: what it answers, and how it ends."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from stratoscope.measure.observed import empty_model
from stratoscope.measure.runnable import RunnableBrick
from stratoscope.spec.performance import CacheState, Candidate, Environment, Protocol

REPEATS: Final[dict[CacheState, int]] = {"sequence": 3, "hot": 2, "evicted": 2}
ANSWER_S: Final = 120.0
#: The numbers of what is beside the bricks: the empty model, that of observed bricks, and the whole model.
EMPTY: Final = -1
EMPTY_OBSERVED: Final = -3
WHOLE: Final = -2
_EVICT_TIMES: Final = 2
_DEFAULT_LAST_LEVEL: Final = 64 << 20


class Lost(Exception):
    """The process crashed or hung; the text says which."""


class Refused(Exception):
    """The runtime refused the brick; the text says why."""


class Process:
    """The process that holds a group.

    `present` is the brick that it was opening when it was lost; `observed` are the outputs of each brick that do not
    leave it whole (see observed.py).
    """

    def __init__(self, candidate: Candidate, threads: int, environment: Environment) -> None:
        self.present: int | None = None
        self.observed: dict[int, int] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="stratoscope-bricks-")
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        cpus = ",".join(map(str, sorted(os.sched_getaffinity(0))[-threads:]))
        evict = _EVICT_TIMES * (environment.last_level_bytes or _DEFAULT_LAST_LEVEL)
        command = [sys.executable, "-m", "stratoscope.measure.sequence_worker", candidate.model_dump_json()]
        command += [str(threads), cpus, str(evict), self._folder.name]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, start_new_session=True
        )

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            self._process.stdin = None  # it ended before it read its last question
        self._errors.close()
        self._folder.cleanup()

    def open_all(
        self, group: Sequence[RunnableBrick], order: Sequence[int], failures: dict[int, str]
    ) -> dict[str, Any]:
        """Opens the empty models and the bricks; what the runtime refuses goes into `failures`."""
        self._open(EMPTY_OBSERVED, empty_model(inside=True), inside=False)
        settings = self._open(EMPTY, empty_model(inside=False), inside=False)
        for number in order:
            self.present = number
            try:
                self._open(number, group[number].skeleton, inside=not group[number].last)
            except Refused as refused:
                failures[number] = str(refused)
        self.present = None
        return settings

    def _open(self, number: int, content: bytes, *, inside: bool) -> dict[str, Any]:
        path = Path(self._folder.name) / "brick.onnx"
        path.write_bytes(content)
        told: dict[str, Any] = self.ask("open", number=number, model=str(path), seed=0, inside=inside)
        self.observed[number] = told.pop("observed", 0)
        return told

    def open_model(self, model: Path, feeds: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Opens a whole model with these inputs."""
        path = Path(self._folder.name) / "feeds.npz"
        np.savez(path, **feeds)  # type: ignore[arg-type]
        self.ask("open_model", number=WHOLE, model=str(model), feeds=str(path))

    def sample(self, order: Sequence[int], state: CacheState, further_bytes: int = 0) -> Any:
        """Samples of these numbers in their order; in sequence so many further bytes are read after each pass."""
        question = {"order": list(order), "cache": state, "repeats": REPEATS[state], "further_bytes": further_bytes}
        return self.ask("sample", **question)

    def round(self, order: Sequence[int], protocol: Protocol, further_bytes: int) -> Any:
        """Samples of the bricks, and of the empty models at the end of each pass."""
        return self.sample([*order, EMPTY_OBSERVED, EMPTY], protocol.cache, further_bytes)

    def ask(self, do: str, **question: Any) -> Any:
        """The answer to a question. Raises Refused with the runtime's reason, Lost where the worker is gone."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **question}).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise Lost(self._post_mortem()) from None
        line = b""
        deadline = time.monotonic() + ANSWER_S
        while not line.endswith(b"\n"):
            ready = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]
            if not ready:
                raise Lost(f"it hung: no answer in {ANSWER_S:.0f} s")
            piece = os.read(self._process.stdout.fileno(), 1 << 20)
            if not piece:
                raise Lost(self._post_mortem())
            line += piece
        answer = json.loads(line)
        if "ok" not in answer:
            raise Refused(answer["reason"])
        return answer["ok"]

    def _post_mortem(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        how = f"it was ended by {signal.Signals(-code).name}" if code < 0 else f"it ended with status {code}"
        return how + (f", last words: {lines[-1][:200]}" if lines else "")
