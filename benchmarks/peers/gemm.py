"""The peer of `stratoscope machine`'s matrix products: each library timed by its own community's tool.

    python gemm.py LIBRARY THREADS    then lines "KIND DTYPE N CALLS" on standard input

NumPy by `timeit`, PyTorch by `torch.utils.benchmark.Timer`; answers the seconds of one product.
"""

from __future__ import annotations

import sys
import timeit
from typing import Any

import numpy as np


def numpy_seconds(dtype: str, n: int, calls: int, kept: dict[Any, Any]) -> float:
    """Seconds of `a @ b` into an array that is there."""
    kind = {"fp32": np.float32, "fp64": np.float64}[dtype]
    if (dtype, n) not in kept:
        rng = np.random.default_rng(0)
        kept[dtype, n] = rng.uniform(-1, 1, (n, n)).astype(kind), rng.uniform(-1, 1, (n, n)).astype(kind)
    a, b = kept[dtype, n]
    out = np.empty_like(a)
    np.matmul(a, b, out=out)
    return timeit.timeit(lambda: np.matmul(a, b, out=out), number=calls) / calls


def torch_seconds(kind: str, dtype: str, n: int, calls: int, threads: int) -> float:
    """Seconds of `torch.mm`, `torch._int_mm`, or oneDNN's product with packed weights."""
    import torch
    from torch.utils.benchmark import Timer

    types = {"fp32": torch.float32, "bf16": torch.bfloat16}
    if dtype == "int8":
        x, y = (torch.randint(-128, 128, (n, n), dtype=torch.int8) for _ in range(2))
    else:
        x, y = (torch.rand(n, n).mul(2).sub(1).to(types[dtype]) for _ in range(2))
    scope: dict[str, Any] = {"torch": torch, "x": x, "y": y}
    statement = "torch._int_mm(x, y)" if dtype == "int8" else "torch.mm(x, y, out=z)"
    if kind == "packed":
        scope["w"] = torch.ops.mkldnn._reorder_linear_weight(y.t().contiguous(), n)
        statement = "torch.ops.mkldnn._linear_pointwise(x, w, None, 'none', [], '')"
    elif dtype != "int8":
        scope["z"] = torch.empty_like(x)
    with torch.no_grad():
        timer = Timer(statement, globals=scope, num_threads=threads)
        timer.timeit(1)
        return float(timer.timeit(calls).mean)


def main() -> None:
    """Answers each line with a time."""
    library, threads = sys.argv[1], int(sys.argv[2])
    kept: dict[Any, Any] = {}
    for line in sys.stdin:
        kind, dtype, n, calls = line.split()
        if library == "numpy":
            seconds = numpy_seconds(dtype, int(n), int(calls), kept)
        else:
            seconds = torch_seconds(kind, dtype, int(n), int(calls), threads)
        print(f"{seconds:.9g}", flush=True)


if __name__ == "__main__":
    main()
