"""Explains a cold start: the same model from nothing to its first answer, from states that are made on purpose."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from stratoscope.errors import MeasurementError
from stratoscope.graph.onnx_file import model_files
from stratoscope.measure.cold_start import REPEATS, ColdRun, cold_section, run_cold
from stratoscope.share.artifact import Artifact, Kind
from stratoscope.share.library import Library
from stratoscope.share.manager import ManagerSettings
from stratoscope.share.prepare import prepare
from stratoscope.share.server import Server
from stratoscope.spec.model import LoadableModel
from stratoscope.spec.options import BackendOptions
from stratoscope.spec.record import ColdStartSection, ColdState, ColdStep
from stratoscope.stats.bootstrap import estimate
from stratoscope.trace.levels import Level
from stratoscope.trace.steps import Step

if TYPE_CHECKING:
    import polars as pl

#: What each state means, in the order in which they are shown.
STATES: Final = {
    "dropped": "default load, its files not in the page cache",
    "cached": "default load, its files in the page cache",
    "mapped-dropped": "shared, the prepared file not in the page cache",
    "mapped": "shared, the prepared file in the page cache",
    "shared": "shared, in the sealed memory of a server",
    "resident": "loaded already: a later call",
}
_SHARED: Final = ("mapped-dropped", "mapped", "shared")
_KINDS: Final[dict[str, Kind]] = {"onnxruntime": "onnxruntime", "pytorch": "pytorch"}
_READ_BYTES: Final = 16 << 20


def measure_cold_states(
    backend: str,
    model: LoadableModel,
    options: BackendOptions,
    *,
    repeats: int = REPEATS,
    seed: int = 0,
    on_progress: Callable[[str], None] | None = None,
) -> tuple[ColdStartSection, pl.DataFrame]:
    """Every state in `repeats` fresh processes, in turns; medians, and the spans of one run a state (its number: run).

    Back ends that do not share have the states of the default load only. The page cache is emptied of the model's own
    files (posix_fadvise); pages that another process maps stay. The section's four figures are those of "cached".

    Raises:
        MeasurementError: the model has no file, or a process failed.
        ShareError: the model cannot be prepared.
    """
    if model.path is None:
        raise MeasurementError(f"model {model.name!r} has no file to load", hint="export it to ONNX")
    library, kind = Library.open(), _KINDS.get(backend)
    artifact = None
    if kind is not None:
        artifact = prepare(
            model,
            kind=kind,
            optimization=options.graph_optimization,
            granularity=options.shared_granularity,
            library=library,
        )
    wanted = [state for state in STATES if state != "resident" and (artifact is not None or state not in _SHARED)]
    runs: dict[str, list[ColdRun]] = {state: [] for state in wanted}
    for number in range(repeats):
        for state in wanted:
            if on_progress is not None:
                on_progress(f"cold start {number + 1} of {repeats}: {state}")
            with _in_state(state, model, artifact, library):
                asked = options.model_copy(update={"shared": state in _SHARED})
                runs[state].append(run_cold(backend, model, asked, inside=True, seed=seed))
    states = tuple(_state(state, found) for state, found in runs.items())
    resident = _resident(runs["cached"])
    return cold_section(runs["cached"]).model_copy(update={"states": (*states, resident)}), _spans(runs)


@contextmanager
def _in_state(state: str, model: LoadableModel, artifact: Artifact | None, library: Library) -> Iterator[None]:
    """Puts the files where the state wants them, and a server beside where it wants one."""
    if artifact is not None and state in _SHARED:
        files = [artifact.folder / stored.name for stored in artifact.manifest.files]
    else:
        files = [] if model.path is None else model_files(model.path)
    for file in files:
        _read_through(file)
        if state.endswith("dropped"):
            _drop(file)
    if state != "shared" or artifact is None:
        yield
        return
    budget = sum(stored.nbytes for stored in artifact.manifest.files)
    with Server(library, ManagerSettings(budget, budget)) as server:
        server.start()
        server.manager.open(artifact.key)
        yield
        server.manager.close(artifact.key)


def _read_through(path: Path) -> None:
    """Brings a file into the page cache."""
    with _clear(path), open(path, "rb", buffering=0) as file:
        while file.read(_READ_BYTES):
            pass


def _drop(path: Path) -> None:
    """Takes a file out of the page cache, as far as nobody maps it."""
    with _clear(path), open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextmanager
def _clear(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MeasurementError(f"cannot read {path}: {error.strerror}", hint="check its permissions") from error


def _state(state: str, runs: list[ColdRun]) -> ColdState:
    """Medians of each step over the runs; starts count from that of the process."""
    steps = []
    for one in sorted(runs[0].steps, key=lambda step: (step.start_ns, -step.end_ns)):
        found = [run.step(one.name) for run in runs if any(step.name == one.name for step in run.steps)]
        begins = [run.step("start the process").start_ns for run in runs]
        steps.append(
            ColdStep(
                name=one.name,
                inside=one.parent,
                start_s=estimate([(a.start_ns - b) / 1e9 for a, b in zip(found, begins, strict=False)], "s"),
                duration_s=estimate([(a.end_ns - a.start_ns) / 1e9 for a in found], "s"),
            )
        )
    first = [run.step("first run").end_ns for run in runs]
    loads = [run.step("load").start_ns for run in runs]
    begins = [run.step("start the process").start_ns for run in runs]
    return ColdState(
        state=state,
        meaning=STATES[state],
        steps=tuple(steps),
        load_and_first_s=estimate([(end - start) / 1e9 for end, start in zip(first, loads, strict=True)], "s"),
        total_s=estimate([(end - start) / 1e9 for end, start in zip(first, begins, strict=True)], "s"),
        private_bytes=estimate([float(run.private_bytes or 0) for run in runs], "byte"),
        tier=runs[0].tier,
    )


def _resident(runs: list[ColdRun]) -> ColdState:
    """A later call: no step but itself."""
    steady = estimate([run.steady_s for run in runs], "s")
    return ColdState(
        state="resident",
        meaning=STATES["resident"],
        steps=(),
        load_and_first_s=steady,
        total_s=steady,
        private_bytes=estimate([float(run.private_bytes or 0) for run in runs], "byte"),
        tier=runs[0].tier,
    )


def _spans(runs: dict[str, list[ColdRun]]) -> pl.DataFrame:
    """The first run of each state in the span table's form (trace.spans.SPAN_SCHEMA)."""
    import polars as pl

    from stratoscope.trace.correlate import assign_sites
    from stratoscope.trace.spans import SPAN_SCHEMA

    rows: list[dict[str, Any]] = []
    for number, (state, found) in enumerate(runs.items()):
        steps = sorted(found[0].steps, key=lambda step: step.start_ns)
        whole = Step(f"cold start: {state}", None, steps[0].start_ns, max(step.end_ns for step in steps))
        top = len(rows)
        rows.append(_row(top, None, Level.APPLICATION, whole, number))
        ids = {step.name: top + 1 + place for place, step in enumerate(steps)}
        for one in steps:
            level = Level.MODEL if one.parent is None else Level.LIBRARY
            parent = top if one.parent is None else ids[one.parent]
            rows.append(_row(ids[one.name], parent, level, one, number))
    return assign_sites(pl.DataFrame(rows, schema=dict(SPAN_SCHEMA)))


def _row(span: int, parent: int | None, level: Level, step: Step, run: int) -> dict[str, Any]:
    return {
        "span": span,
        "parent": parent,
        "level": int(level),
        "kind": "sync",
        "name": step.name,
        "track": run,
        "start_ns": step.start_ns,
        "end_ns": step.end_ns,
        "correlation": 0,
        "run": run,
        "site": None,
        "attributes": None,
    }
