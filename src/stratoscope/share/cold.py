"""Explains a cold start: the same model from nothing to its first answer, from states that are made on purpose."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from stratoscope.share.artifact import Artifact
from stratoscope.share.errors import ShareError, clear_errors
from stratoscope.share.library import Library
from stratoscope.share.manager import ManagerSettings
from stratoscope.share.prepare import prepare
from stratoscope.share.probe import make_feed
from stratoscope.share.server import Server
from stratoscope.spec.model import LoadableModel
from stratoscope.trace.levels import Level

if TYPE_CHECKING:
    import polars as pl

State = Literal["dropped", "cached", "mapped-dropped", "mapped", "shared", "resident"]
#: What each state means, in the order in which they are run.
STATES: Final[dict[State, str]] = {
    "dropped": "default load, files not in the page cache",
    "cached": "default load, files in the page cache",
    "mapped-dropped": "prepared file, not in the page cache",
    "mapped": "prepared file, in the page cache",
    "shared": "sealed memory of the server",
    "resident": "loaded already: a later call",
}
_STEADY_RUNS: Final = 3
_TIMEOUT_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class ColdStart:
    """One state: seconds of each step in order, and what memory the load took for itself.

    `load_and_first_s` is from the finished import to the first answer, that which sharing can change; `total_s` from
    the start of the process.
    """

    state: State
    steps: dict[str, float]
    load_and_first_s: float
    total_s: float
    private_bytes: int
    tier: str


def explain_cold_start(
    model: LoadableModel,
    *,
    states: Sequence[State] = tuple(STATES),
    optimization: str = "all",
    threads: int = 1,
    library: Library | None = None,
) -> tuple[list[ColdStart], pl.DataFrame]:
    """Each state in a fresh process; figures, and all spans (trace.spans.SPAN_SCHEMA) with `run` numbering the states.

    The page cache is emptied of the model's files only (posix_fadvise); pages that some process maps stay.

    Raises:
        ShareError: the model cannot be prepared, or a process failed.
    """
    if model.path is None:
        raise ShareError(f"model {model.name!r} has no ONNX file", hint="export it to ONNX")
    library = library or Library.open()
    artifact = prepare(model, optimization=optimization, library=library)
    figures: list[ColdStart] = []
    spans: list[dict[str, Any]] = []
    for number, state in enumerate(states):
        answer = _run(model, artifact, state, optimization, threads, library)
        figures.append(_figures(state, answer))
        spans.extend(_spans(state, number, answer, len(spans)))
    return figures, _frame(spans)


def _run(
    model: LoadableModel, artifact: Artifact, state: State, optimization: str, threads: int, library: Library
) -> dict[str, Any]:
    """One fresh process in this state."""
    shared = state in ("mapped-dropped", "mapped", "shared", "resident")
    files = [artifact.folder / stored.name for stored in artifact.manifest.files] if shared else _files(model)
    for file in files:
        _read_through(file)
        if state.endswith("dropped"):
            _drop(file)
    if state != "shared":
        return _child(model, artifact if shared else None, optimization, threads, library)
    budget = sum(stored.nbytes for stored in artifact.manifest.files)
    with Server(library, ManagerSettings(budget, budget)) as server:
        server.start()
        server.manager.open(artifact.key)
        answer = _child(model, artifact, optimization, threads, library)
        server.manager.close(artifact.key)
    return answer


def _files(model: LoadableModel) -> list[Path]:
    """The model's file and its external data."""
    from stratoscope.graph.onnx_file import load_onnx, tensors_of

    path = model.path
    if path is None:
        return []
    names = {
        entry.value for one in tensors_of(load_onnx(path)) for entry in one.external_data if entry.key == "location"
    }
    return [path, *(path.parent / name for name in names if (path.parent / name) != path)]


def _child(
    model: LoadableModel, artifact: Artifact | None, optimization: str, threads: int, library: Library
) -> dict[str, Any]:
    what = f"cold start of model {model.name!r}"
    with library.scratch() as scratch, tempfile.TemporaryDirectory(dir=scratch) as folder:
        inputs, request = Path(folder) / "inputs.npz", Path(folder) / "request.json"
        feed: dict[str, Any] = make_feed(model, 0)
        np.savez(inputs, **feed)
        content = {
            "graph": os.fspath(artifact.graph if artifact is not None else model.path or ""),
            "artifact": None if artifact is None else artifact.key,
            "inputs": os.fspath(inputs),
            "optimization": optimization,
            "threads": threads,
            "steady_runs": _STEADY_RUNS,
            "spawned_ns": time.perf_counter_ns(),
        }
        request.write_text(json.dumps(content), encoding="utf-8")
        try:
            done = subprocess.run(
                [sys.executable, "-P", "-m", "stratoscope.share.cold_child", os.fspath(request)],
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
                check=False,
                env={**os.environ, "STRATOSCOPE_SHARE": os.fspath(library.root), "TZ": "UTC"},
            )
            answer = json.loads(done.stdout)
        except subprocess.TimeoutExpired as error:
            raise ShareError(f"{what} took longer than {_TIMEOUT_S:g} s") from error
        except (OSError, ValueError) as error:
            raise ShareError(f"{what}: its process failed: {error}") from error
    if "error" in answer:
        raise ShareError(f"{what}: {answer['error']}")
    return dict(answer)


def _figures(state: State, answer: dict[str, Any]) -> ColdStart:
    steps = {name: (end - start) / 1e9 for name, _, start, end in answer["steps"]}
    later = {name: steps.pop(name) for name in list(steps) if name.startswith("later run")}
    ends = {name: end for name, _, _, end in answer["steps"]}
    starts = {name: start for name, _, start, _ in answer["steps"]}
    begin, imported, first = starts["start the interpreter"], ends["import"], ends["first run"]
    if state == "resident":
        fastest = min(later.values())
        return ColdStart(state, {"later run": fastest}, fastest, fastest, int(answer["private_bytes"]), answer["tier"])
    steps["later run"] = min(later.values())
    return ColdStart(
        state, steps, (first - imported) / 1e9, (first - begin) / 1e9, int(answer["private_bytes"]), answer["tier"]
    )


def _spans(state: State, run: int, answer: dict[str, Any], base: int) -> list[dict[str, Any]]:
    """Rows of the span table: the cold start, its steps, and the steps inside the load."""
    steps = [step for step in answer["steps"] if state != "resident" or step[0].startswith("later run")]
    begin, end = min(step[2] for step in steps), max(step[3] for step in steps)
    rows = [_row(base, None, Level.APPLICATION, f"cold start: {state}", begin, end, run)]
    ids = {}
    for number, (name, _, _, _) in enumerate(steps):
        ids[name] = base + 1 + number
    for name, parent, start, stop in steps:
        level = Level.MODEL if parent is None else Level.LIBRARY
        rows.append(_row(ids[name], ids.get(parent, base), level, name, start, stop, run))
    return rows


def _row(span: int, parent: int | None, level: int, name: str, start: int, end: int, run: int) -> dict[str, Any]:
    return {
        "span": span,
        "parent": parent,
        "level": int(level),
        "kind": "sync",
        "name": name,
        "track": run,
        "start_ns": start,
        "end_ns": end,
        "correlation": 0,
        "run": run,
        "site": None,
        "attributes": None,
    }


def _frame(rows: list[dict[str, Any]]) -> pl.DataFrame:
    import polars as pl

    from stratoscope.trace.correlate import assign_sites
    from stratoscope.trace.spans import SPAN_SCHEMA

    return assign_sites(pl.DataFrame(rows, schema=dict(SPAN_SCHEMA)))


def _read_through(path: Path) -> None:
    """Brings a file into the page cache."""
    with clear_errors("read", path), open(path, "rb", buffering=0) as file:
        while file.read(16 << 20):
            pass


def _drop(path: Path) -> None:
    """Takes a file out of the page cache, as far as nobody maps it."""
    with clear_errors("drop from the page cache", path), open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
