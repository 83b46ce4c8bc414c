"""Loads and runs an ONNX file in a fresh process: what it answers, how long it takes, what memory it keeps for itself.

Run as a module it is that process: a request as JSON on standard input, figures as JSON on standard output.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from stratoscope.host.fresh_process import answer, ask
from stratoscope.share.errors import ShareError
from stratoscope.share.memory import give_back_free_memory, private_bytes
from stratoscope.spec.model import LoadableModel, TensorSpec

LEVELS: Final = {
    "off": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
#: Inputs on which a prepared model is compared with the original.
INPUTS: Final = 2
_TIMEOUT_S: Final = 900.0


@dataclass(frozen=True, slots=True)
class Probe:
    """What one fresh process saw: growth of its private memory by the load, seconds of load and first run, outputs."""

    private_bytes: int
    load_s: float
    first_s: float
    outputs: tuple[np.ndarray, ...]


def run_probe(model: LoadableModel, graph: Path, optimization: str, scratch: Path) -> Probe:
    """Loads `graph`, the model's own file or a prepared one, and runs it on the model's seeded inputs.

    Raises:
        ShareError: the process failed; the message is the runtime's.
    """
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        inputs = Path(folder) / "inputs.npz"
        feeds = [make_feed(model, seed) for seed in range(INPUTS)]
        arrays: dict[str, Any] = {f"{number}/{name}": feed[name] for number, feed in enumerate(feeds) for name in feed}
        np.savez(inputs, **arrays)
        request = {"graph": os.fspath(graph), "optimization": optimization, "folder": folder}
        what = f"a trial of model {model.name!r}"
        reply = ask("stratoscope.share.probe", request, what=what, timeout_s=_TIMEOUT_S, error=ShareError)
        with np.load(Path(folder) / "outputs.npz", allow_pickle=False) as kept:
            outputs = tuple(kept[f"{number}"] for number in range(len(kept.files)))
    return Probe(int(reply["private_bytes"]), float(reply["load_s"]), float(reply["first_s"]), outputs)


def session_options(optimization: str) -> Any:
    """Quiet session options at this optimisation level."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    settings.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, LEVELS[optimization])
    return settings


def make_feed(model: LoadableModel, seed: int) -> dict[str, np.ndarray]:
    """Seeded values in the shapes, types and ranges of the manifest."""
    stream = np.random.default_rng(seed)
    return {spec.name: _values(model, spec, stream) for spec in model.manifest.inputs}


def _values(model: LoadableModel, spec: TensorSpec, stream: np.random.Generator) -> np.ndarray:
    if not all(isinstance(size, int) for size in spec.shape):
        raise ShareError(
            f"input {spec.name!r} of model {model.name!r} has free dimensions: {list(spec.shape)}",
            hint="bind them with shapes= or --shape",
        )
    shape = tuple(int(size) for size in spec.shape)
    try:
        kind = np.dtype(spec.element_type)
    except TypeError as error:
        raise ShareError(
            f"input {spec.name!r} of model {model.name!r} has type {spec.element_type}, of which no values can be made"
        ) from error
    if kind.kind == "b":
        return stream.integers(0, 2, shape).astype(kind)
    if kind.kind in "iu":
        low = int(spec.low or 0)
        return stream.integers(low, max(low + 1, int(spec.high or 2)), shape, dtype=kind)
    if kind.kind != "f":
        return np.full(shape, "", dtype=object)
    if spec.low is not None and spec.high is not None:
        return stream.uniform(spec.low, spec.high, shape).astype(kind)
    return stream.standard_normal(shape).astype(kind)


def _measure(request: dict[str, Any]) -> dict[str, Any]:
    import onnxruntime

    folder = Path(request["folder"])
    with np.load(folder / "inputs.npz", allow_pickle=False) as kept:
        feeds: list[dict[str, np.ndarray]] = [{} for _ in range(INPUTS)]
        for key in kept.files:
            number, _, name = key.partition("/")
            feeds[int(number)][name] = kept[key]
    settings = session_options(request["optimization"])
    settings.intra_op_num_threads = 1
    give_back_free_memory()
    before, start = private_bytes(), time.perf_counter()
    session = onnxruntime.InferenceSession(request["graph"], settings, providers=["CPUExecutionProvider"])
    loaded = time.perf_counter()
    give_back_free_memory()
    private, again = private_bytes() - before, time.perf_counter()
    outputs = session.run(None, feeds[0])
    answered = time.perf_counter()
    for feed in feeds[1:]:
        outputs.extend(session.run(None, feed))
    np.savez(folder / "outputs.npz", **{str(number): value for number, value in enumerate(outputs)})
    return {"private_bytes": private, "load_s": loaded - start, "first_s": answered - again}


if __name__ == "__main__":
    sys.exit(answer(_measure))
