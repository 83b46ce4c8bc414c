"""What the first answer costs: import, load and first inference, each in a fresh process."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, Final

from stratoscope.errors import MeasurementError
from stratoscope.spec.model import LoadableModel
from stratoscope.spec.options import BackendOptions
from stratoscope.spec.record import ColdStartSection
from stratoscope.stats.bootstrap import estimate

#: Fresh processes; each gives one sample a figure.
REPEATS: Final = 3
TIMEOUT_S: Final = 300.0
CHILD: Final = "stratoscope.measure.cold_child"


def measure_cold_start(
    backend: str,
    model: LoadableModel,
    options: BackendOptions,
    *,
    repeats: int = REPEATS,
    timeout_s: float = TIMEOUT_S,
    seed: int = 0,
) -> ColdStartSection:
    """Medians over `repeats` fresh processes, in seconds.

    `import_s` is the import of the back end's framework (not of Python and Stratoscope), `load_s` the load of the
    model, `first_inference_s` the first bound call, `steady_s` the median of those after it in the same process. Files
    are in the page cache: what is measured is a new process, not a new machine.

    Raises:
        MeasurementError: the model has no file, a process failed or took longer than `timeout_s`.
    """
    if repeats < 1:
        raise MeasurementError(f"a cold start measured {repeats} times is none", hint="repeat it at least once")
    if model.path is None and model.module is not None:
        raise MeasurementError(
            f"model {model.name!r} is an object of this process, which a fresh one does not have",
            hint="export it to a file to measure its cold start",
        )
    request = {
        "backend": backend,
        "manifest": model.manifest.model_dump(mode="json", by_alias=True),
        "path": None if model.path is None else str(model.path.resolve()),
        "batch_axis": model.batch_axis,
        "options": options.model_dump(mode="json"),
        "seed": seed,
    }
    runs = [_child(request, model.name, timeout_s) for _ in range(repeats)]
    names = ("import_s", "load_s", "first_inference_s", "steady_s")
    return ColdStartSection(**{name: estimate([run[name] for run in runs], "s") for name in names})


def _child(request: dict[str, Any], name: str, timeout_s: float) -> dict[str, float]:
    """The figures of one fresh process."""
    what = f"cold start of model {name!r}"
    try:
        # -P: a file in the current folder cannot stand in for a module.
        done = subprocess.run(
            [sys.executable, "-P", "-m", CHILD],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise MeasurementError(f"{what} took longer than {timeout_s:g} s", hint="allow it more time") from error
    except OSError as error:
        raise MeasurementError(f"{what}: cannot start {sys.executable}: {error.strerror}") from error
    try:
        answer = json.loads(done.stdout)
    except ValueError as error:
        last = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise MeasurementError(f"{what}: the process ended with {done.returncode}: {last[0]}") from error
    if "error" in answer:
        raise MeasurementError(f"{what}: {answer['error']}")
    return {key: float(value) for key, value in answer.items()}
