"""What the first answer costs: import, load and first inference, each in a fresh process."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from stratoscope.errors import MeasurementError
from stratoscope.host.fresh_process import ask
from stratoscope.spec.model import LoadableModel
from stratoscope.spec.options import BackendOptions
from stratoscope.spec.record import ColdStartSection
from stratoscope.stats.bootstrap import estimate
from stratoscope.trace.steps import Step

#: Fresh processes; each gives one sample a figure.
REPEATS: Final = 3
TIMEOUT_S: Final = 300.0
CHILD: Final = "stratoscope.measure.cold_child"


@dataclass(frozen=True, slots=True)
class ColdRun:
    """One fresh process: its steps (top ones without a parent), a steady inference in seconds, and its memory.

    `private_bytes` is what the load took for itself, None where the steps inside it were not asked for; `tier` says
    where the weights are: private, file, or memory.
    """

    steps: tuple[Step, ...]
    steady_s: float
    private_bytes: int | None
    tier: str

    def step(self, name: str) -> Step:
        """The step of this name; raises KeyError where there is none."""
        for one in self.steps:
            if one.name == name:
                return one
        raise KeyError(name)

    def seconds(self, name: str) -> float:
        """How long a step took."""
        found = self.step(name)
        return (found.end_ns - found.start_ns) / 1e9


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
    runs = [run_cold(backend, model, options, timeout_s=timeout_s, seed=seed) for _ in range(repeats)]
    return cold_section(runs)


def cold_section(runs: list[ColdRun]) -> ColdStartSection:
    """Medians of the four phases over runs of one state."""

    def seconds(name: str) -> list[float]:
        return [run.seconds(name) for run in runs]

    return ColdStartSection(
        import_s=estimate(seconds("import"), "s"),
        load_s=estimate(seconds("load"), "s"),
        first_inference_s=estimate(seconds("first run"), "s"),
        steady_s=estimate([run.steady_s for run in runs], "s"),
    )


def run_cold(
    backend: str,
    model: LoadableModel,
    options: BackendOptions,
    *,
    inside: bool = False,
    timeout_s: float = TIMEOUT_S,
    seed: int = 0,
) -> ColdRun:
    """One fresh process, with the steps inside its load where `inside`; raises as `measure_cold_start` does."""
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
        "inside": inside,
        "spawned_ns": time.perf_counter_ns(),
    }
    what = f"cold start of model {model.name!r}"
    reply = ask(CHILD, request, what=what, timeout_s=timeout_s, error=MeasurementError)
    steps = tuple(Step(*values) for values in reply["steps"])
    return ColdRun(steps, float(reply["steady_s"]), reply["private_bytes"], str(reply["tier"]))
