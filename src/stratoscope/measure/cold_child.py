"""The fresh process of a cold start: reads what to load as JSON, writes four figures as JSON; see `cold_start`."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from stratoscope.backends.base import Backend
from stratoscope.backends.registry import get_backend
from stratoscope.errors import StratoscopeError
from stratoscope.measure.inputs import make_inputs
from stratoscope.measure.latency import measure_latency
from stratoscope.spec.model import LoadableModel, ModelManifest
from stratoscope.spec.options import BackendOptions
from stratoscope.stats.location import median
from stratoscope.stats.stopping import StoppingRule


def measure(request: dict[str, Any]) -> dict[str, float]:
    """Seconds of import, load, first inference and steady state; everything that they need is imported already."""
    path = request["path"]
    model = LoadableModel(
        manifest=ModelManifest.model_validate(request["manifest"]),
        path=None if path is None else Path(path),
        batch_axis=request["batch_axis"],
    )
    options = BackendOptions.model_validate(request["options"])
    feeds = make_inputs(model, 1, request["seed"])[0]
    start = time.perf_counter_ns()
    backend: Backend = get_backend(request["backend"])
    backend.capabilities()
    imported = time.perf_counter_ns()
    session = backend.load(model, options)
    loaded = time.perf_counter_ns()
    call = session.bind(feeds)
    call()
    answered = time.perf_counter_ns()
    steady = measure_latency(call, warmup=2, rule=StoppingRule(min_repeats=5, max_time_s=0.5))
    session.close()
    return {
        "import_s": (imported - start) / 1e9,
        "load_s": (loaded - imported) / 1e9,
        "first_inference_s": (answered - loaded) / 1e9,
        "steady_s": median(steady.kept_s()),
    }


def main() -> int:
    """Answers one request; standard output holds nothing but the answer, whatever a framework prints."""
    answer_to = os.dup(1)
    os.dup2(2, 1)
    try:
        answer: dict[str, Any] = dict(measure(json.load(sys.stdin)))
    except StratoscopeError as error:
        answer = {"error": str(error)}
    with os.fdopen(answer_to, "w") as out:
        json.dump(answer, out)
    return 2 if "error" in answer else 0


if __name__ == "__main__":
    sys.exit(main())
