"""Training steps: their time, rate and memory unprofiled, and their phases from profiled ones."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import polars as pl
import psutil

from stratoscope.backends.base import Backend, BackendOptions, Feeds
from stratoscope.errors import MeasurementError
from stratoscope.host.noise import ThreadNoise
from stratoscope.measure.leveled_runs import Runs
from stratoscope.spec.model import LoadableModel
from stratoscope.spec.profile import Phase, TrainingSection
from stratoscope.stats.estimators import estimate
from stratoscope.stats.quantity import Quantity
from stratoscope.stats.rows import estimate_rows
from stratoscope.trace.levels import Level

_WARMUP: Final = 2
_FEWEST: Final = 5
_MOST: Final = 500
_NS: Final = 1e-9


def measure_training(
    backend: Backend, model: LoadableModel, options: BackendOptions, feeds: Feeds, *, budget_s: float
) -> TrainingSection:
    """Unprofiled steps of `backend`, whose calls are training steps, for about `budget_s` seconds.

    Peak memory is the most that the process held resident, less what it held before the model was loaded.
    """
    before = psutil.Process().memory_info().rss
    resettable = _reset_peak()
    session: Any = backend.load(model, options)
    try:
        call = session.bind(feeds)
        for _ in range(_WARMUP):
            call()
        runs = Runs()
        end = time.perf_counter() + budget_s
        with ThreadNoise() as noise:
            while len(runs.call) < _FEWEST or (time.perf_counter() < end and len(runs.call) < _MOST):
                runs.before.append(noise.snapshot())
                start = time.perf_counter_ns()
                call()
                runs.duration_ns.append(time.perf_counter_ns() - start)
                runs.after.append(noise.snapshot())
                runs.call.append(len(runs.call))
        verdict = runs.gate()
        loss = str(getattr(session, "loss_name", "unknown"))
    finally:
        session.close()
    steps = np.asarray(runs.duration_ns)[verdict.accepted] * _NS
    batch = next(iter(model.bound_shapes().values()), (1,))[0]
    return TrainingSection(
        step_time=estimate(steps, "s", "median"),
        samples_per_s=estimate(batch / steps, "1/s", "median"),
        peak_memory=_peak(before, resettable),
        phases=(),
        optimizer="SGD with momentum",
        loss=loss,
        batch_size=batch,
        note=verdict.reason,
    )


def phases_of(spans: pl.DataFrame, names: Iterable[str]) -> tuple[Phase, ...]:
    """The phases of a step, from runs whose deepest level is LAYER, in which they are spans right under the model."""
    models = spans.filter(pl.col("level") == Level.MODEL.value).sort("run")
    whole = float((models["end_ns"] - models["start_ns"]).mean() or 0)  # type: ignore[arg-type]
    found = []
    for name in names:
        chosen = spans.filter((pl.col("level") == Level.LAYER.value) & (pl.col("name") == name))
        duration = chosen.group_by("run").agg((pl.col("end_ns") - pl.col("start_ns")).sum().alias("ns")).sort("run")
        if duration.height == 0:
            raise MeasurementError(f"the trace of the training steps has no phase {name!r}")
        time_s = estimate_rows(duration["ns"].to_numpy() * _NS, "s")[0]
        found.append(Phase(name=name, time=time_s, share=(time_s.value or 0) / (whole * _NS) if whole else None))
    return tuple(found)


def _reset_peak() -> bool:
    """Makes the kernel count this process's peak from now on."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        return False
    return True


def _peak(before: int, resettable: bool) -> Quantity:
    if not resettable:
        return Quantity.unavailable("byte", "the kernel does not reset this process's peak", "max")
    with open("/proc/self/status") as file:
        peak = next((int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM")), None)
    if peak is None:
        return Quantity.unavailable("byte", "the kernel does not tell this process's peak", "max")
    return Quantity.exact(max(0, peak - before), "byte", "max")
