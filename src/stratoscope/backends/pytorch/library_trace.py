"""The library level of PyTorch on a CPU: a session whose inferences run in a child process (see `library_child`)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from stratoscope.backends.base import BackendOptions, Feeds
from stratoscope.backends.feeds import check_feeds
from stratoscope.backends.pytorch.modules import ERRORS, first_line, source_of
from stratoscope.errors import BackendError
from stratoscope.spec.model import LoadableModel, TensorSpec
from stratoscope.trace.spans import SPAN_SCHEMA

#: oneDNN puts the start of each primitive on its line, in UNIX milliseconds.
ENVIRONMENT: Final = {"ONEDNN_VERBOSE_TIMESTAMP": "1", "KINETO_LOG_LEVEL": "99"}


class LibraryTraceSession:
    """Traces down to the primitives of oneDNN and MKL. Outputs are those of the child's first run at `bind`."""

    def __init__(self, model: LoadableModel, options: BackendOptions) -> None:
        self._name = model.name
        self._folder = Path(tempfile.mkdtemp(prefix="stratoscope-library-"))
        self._child: subprocess.Popen[str] | None = None
        self.inputs: Sequence[TensorSpec] = model.manifest.inputs
        self.outputs: Sequence[TensorSpec] = model.manifest.outputs
        self.effective_options: Mapping[str, Any] = {"process": "child", "verbose": ["onednn", "mkl"]}
        try:
            _write_model(model, options, self._folder)
            self._start()
        except BaseException:
            self.close()
            raise

    def bind(self, feeds: Feeds) -> Callable[[], list[np.ndarray]]:
        """Each call is one traced inference in the child."""
        check_feeds(self.inputs, feeds)
        arrays: dict[str, Any] = {f"input_{place}": feeds[spec.name] for place, spec in enumerate(self.inputs)}
        np.savez(self._folder / "feeds.npz", **arrays)
        (self._folder / "names.json").write_text(json.dumps([spec.name for spec in self.inputs]))
        self._ask("bind")
        with np.load(self._folder / "outputs.npz") as file:
            outputs = [file[name] for name in file.files]

        def traced() -> list[np.ndarray]:
            self._ask("run")
            return outputs

        return traced

    def settle(self) -> None:
        """One untraced inference in the child; see `backends.base.SettlingSession`."""
        self._ask("settle")

    def finish(self) -> pl.DataFrame:
        """Spans of all inferences so far; the child ends."""
        self._ask("finish")
        spans = pl.read_ipc(self._folder / "spans.arrow")
        self.close()
        return spans.with_columns(kind=pl.col("kind").cast(SPAN_SCHEMA["kind"])).select(list(SPAN_SCHEMA))

    def close(self) -> None:
        """Ends the child and drops its files; harmless after `finish`."""
        child, self._child = self._child, None
        if child is not None:
            for pipe in (child.stdin, self._answers):
                if pipe is not None:
                    pipe.close()
            try:
                child.wait(timeout=5)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self) -> None:
        reading, writing = os.pipe()
        with (self._folder / "output.txt").open("wb") as output, (self._folder / "errors.txt").open("wb") as errors:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "stratoscope.backends.pytorch.library_child", str(self._folder), str(writing)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=errors,
                pass_fds=[writing],
                env={**os.environ, **ENVIRONMENT},
                text=True,
            )
        os.close(writing)
        self._answers = os.fdopen(reading)
        self._answer()

    def _ask(self, command: str) -> None:
        child = self._child
        if child is None or child.stdin is None:
            raise BackendError(f"the trace of {self._name!r} has ended already", hint="open another trace session")
        try:
            child.stdin.write(json.dumps({"do": command}) + "\n")
            child.stdin.flush()
        except BrokenPipeError:
            pass  # its answer, or the lack of one, tells why
        self._answer()

    def _answer(self) -> None:
        line = self._answers.readline()
        if not line.endswith("\n"):
            why = self._end_of_child()
            raise BackendError(
                f"PyTorch back end: the process that traces the libraries of {self._name!r} died: {why}",
                hint="--level operator traces in this process",
            )
        told = json.loads(line)
        if not told["ok"]:
            raise BackendError(told["message"], hint=told["hint"])

    def _end_of_child(self) -> str:
        """Why the child ended: the signal that killed it, else its last words."""
        try:
            code = 0 if self._child is None else self._child.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "it closed its answers"
        if code < 0:
            memory = ", as the system does where memory is short" if code == -signal.SIGKILL else ""
            return f"it was killed by {signal.Signals(-code).name}{memory}"
        said = (self._folder / "errors.txt").read_text(errors="replace").strip().splitlines()
        return said[-1] if said else f"it said nothing, and left with {code}"


def _write_model(model: LoadableModel, options: BackendOptions, folder: Path) -> None:
    import torch

    source = source_of(model)
    if source == "module":
        try:
            torch.save(model.module, folder / "module.pt")
        except (*ERRORS, OSError) as error:
            raise BackendError(
                f"module {model.name!r} cannot be handed to the process that traces libraries: {first_line(error)}",
                hint="its class must be importable, at the top level of a module",
            ) from error
    told = {
        "manifest": model.manifest.model_dump(mode="json", by_alias=True),
        "path": None if model.path is None else str(model.path.resolve()),
        "batch_axis": model.batch_axis,
        "options": options.model_dump(mode="json"),
        "module": source == "module",
    }
    (folder / "model.json").write_text(json.dumps(told))
