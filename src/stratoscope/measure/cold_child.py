"""The fresh process of a cold start: reads what to load as JSON, writes when each step began and ended; see `ask`."""

from __future__ import annotations

import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import stratoscope.share.opening
import stratoscope.share.torch_model  # noqa: F401 - our own modules are no part of the load
from stratoscope.backends.base import Backend
from stratoscope.backends.registry import get_backend
from stratoscope.host.fresh_process import answer
from stratoscope.measure.inputs import make_inputs
from stratoscope.measure.latency import measure_latency
from stratoscope.share.memory import give_back_free_memory, private_bytes
from stratoscope.spec.model import LoadableModel, ModelManifest
from stratoscope.spec.options import BackendOptions
from stratoscope.stats.location import median
from stratoscope.stats.stopping import StoppingRule
from stratoscope.trace.steps import Step, listening


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Steps as (name, parent, start, end in ns), seconds of a steady inference, private memory that the load took.

    With `inside` the steps inside the load are noted too, where the back end tells them.
    """
    path = request["path"]
    model = LoadableModel(
        manifest=ModelManifest.model_validate(request["manifest"]),
        path=None if path is None else Path(path),
        batch_axis=request["batch_axis"],
    )
    options = BackendOptions.model_validate(request["options"])
    feeds = make_inputs(model, 1, request["seed"])[0]
    ready = time.perf_counter_ns()
    backend: Backend = get_backend(request["backend"])
    backend.capabilities()
    before = _private() if request["inside"] else 0
    start = time.perf_counter_ns()
    inner: list[Step] = []
    with listening() if request["inside"] else nullcontext(inner) as inner:
        session = backend.load(model, options)
    loaded = time.perf_counter_ns()
    private = _private() - before if request["inside"] else None
    call = session.bind(feeds)
    first = time.perf_counter_ns()
    call()
    answered = time.perf_counter_ns()
    steady = median(measure_latency(call, warmup=2, rule=StoppingRule(min_repeats=5, max_time_s=0.5)).kept_s())
    facts = session.effective_options.get("shared")
    session.close()
    steps = [
        ("start the process", None, request["spawned_ns"], ready),
        ("import", None, ready, start),
        ("load", None, start, loaded),
        *((one.name, one.parent or "load", one.start_ns, one.end_ns) for one in inner),
        ("first run", None, first, answered),
    ]
    return {
        "steps": steps,
        "steady_s": steady,
        "private_bytes": private,
        "tier": facts["tier"] if facts else "private",
    }


def _private() -> int:
    give_back_free_memory()
    return private_bytes()


if __name__ == "__main__":
    sys.exit(answer(measure))
