"""Checks every model of the zoo and prints a table: size, parameters, time to build, agreement with PyTorch.

    python tools/check_zoo.py [NAME ...]

For each model: outputs are finite, a batch of four equals its rows one by one, no parameter is constant or denormal,
and an export computes what its PyTorch module computes. Ends with 1 where one of these does not hold.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, numpy_helper

from stratoscope.models.resolve import resolve
from stratoscope.models.torch_zoo import build_entry, example_tensor
from stratoscope.models.zoo import ZooEntry, find_entry, list_zoo

BATCH = 4
TOLERANCE = 1e-4  # of the largest output
SMALLEST_NORMAL = 2.0**-126
ROW = "| {:<20} | {:>6} | {:>10} | {:>7} | {:>22} | {:>22} | {} |"


def session(path: Path) -> onnxruntime.InferenceSession:
    """A session on one thread, so that the order of summation does not depend on the batch."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options)


def difference(one: list[np.ndarray], other: list[np.ndarray]) -> float:
    """The largest absolute difference, over the largest absolute value."""
    scale = max(float(np.abs(array).max()) for array in one)
    return max(float(np.abs(a - b).max()) for a, b in zip(one, other, strict=True)) / scale


def weights_of(path: Path) -> list[np.ndarray]:
    """The float parameters of more than one element."""
    tensors = onnx.load(str(path)).graph.initializer
    return [numpy_helper.to_array(t) for t in tensors if t.data_type == TensorProto.FLOAT and np.prod(t.dims) > 1]


def check(entry: ZooEntry, cache: Path) -> bool:
    """Prints the row of `entry`; returns whether all holds."""
    start = time.perf_counter()
    model = resolve(entry.name, batch_size=BATCH, cache=cache)
    seconds = time.perf_counter() - start
    assert model.path is not None
    feeds = {spec.name: example_tensor(spec, seed=7, batch=BATCH).numpy() for spec in entry.inputs}
    run = session(model.path)
    batched = run.run(None, feeds)
    rows = [run.run(None, {k: v[row : row + 1] for k, v in feeds.items()}) for row in range(BATCH)]
    by_row = difference(batched, [np.concatenate(parts) for parts in zip(*rows, strict=True)])
    against_torch = None
    if entry.needs_torch:
        expected = build_entry(entry, 0)(*(torch.from_numpy(array) for array in feeds.values()))
        against_torch = difference([tensor.numpy() for tensor in expected], batched)
    weights = weights_of(model.path)
    sound = all(w.std() > 0 and np.abs(w[w != 0]).min() >= SMALLEST_NORMAL for w in weights)
    finite = all(bool(np.isfinite(array).all()) for array in batched)
    holds = sound and finite and by_row <= TOLERANCE and (against_torch is None or against_torch <= TOLERANCE)
    size, parameters = model.path.stat().st_size / 1e6, sum(w.size for w in weights) / 1e6
    torch_text = "-" if against_torch is None else f"{against_torch:.1e}"
    verdict = "ok" if holds else "FAILS"
    figures = (f"{size:.1f}", f"{parameters:.2f}", f"{seconds:.1f}", f"{by_row:.1e}", torch_text)
    print(ROW.format(entry.name, *figures, verdict), flush=True)
    return holds


def main() -> int:
    """Checks the models named on the command line, or all, each built anew."""
    torch.set_num_threads(1)
    print(ROW.format("model", "MB", "M params", "build s", "batch of 4 / its rows", "ONNX / PyTorch", ""))
    print("|---|--:|--:|--:|--:|--:|---|")
    entries = [find_entry(name) for name in sys.argv[1:]] or list_zoo()
    results = []
    for entry in entries:
        with tempfile.TemporaryDirectory() as cache:
            results.append(check(entry, Path(cache)))
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
