"""Prepares one GPU case inside a worker: a call that runs so many operations and returns the device's own time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stratoscope.measure.machine.library_cases import CannotRun, check_product, operands

#: Runs so many operations and returns nanoseconds.
Timed = Callable[[int], int]

_NS_PER_MS = 1e6


def prepare_cuda(case: dict[str, Any], threads: int) -> tuple[Timed | None, str]:
    """The timed call and what became known; `devices` only counts them. Raises CannotRun with the reason."""
    import torch

    kind = case["kind"]
    if kind == "devices":
        return None, str(torch.cuda.device_count())
    torch.cuda.set_device(case["device"])
    torch.set_grad_enabled(False)
    if kind in {"launch", "graph-launch", "synchronize"}:
        return _launches(torch, kind), "host time of one call, in a row of calls"
    if kind == "gemm":
        return _by_events(torch, _product(torch, case["dtype"], case["n"])), "cuBLAS through PyTorch"
    if kind == "duplex-pinned":
        return _duplex(torch, case["size"]), "bytes of both directions together"
    call = _device_kernel(torch, kind, case["size"]) if kind.startswith("device-") else _copy(torch, kind, case)
    return _by_events(torch, call), ""


def _by_events(torch: Any, call: Callable[[], object]) -> Timed:
    """Time between two events on the stream around all operations, so that launches overlap with work."""
    call()
    torch.cuda.synchronize()

    def run(iterations: int) -> int:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(iterations):
            call()
        end.record()
        end.synchronize()
        return round(float(start.elapsed_time(end)) * _NS_PER_MS)

    return run


def _copy(torch: Any, kind: str, case: dict[str, Any]) -> Callable[[], object]:
    size = case["size"]
    near = torch.empty(size, dtype=torch.uint8, device="cuda")
    if kind == "peer":
        far = torch.empty(size, dtype=torch.uint8, device=torch.device("cuda", case["to"]))
        return lambda: far.copy_(near, non_blocking=True)
    direction, _, memory = kind.partition("-")
    host = torch.ones(size, dtype=torch.uint8, pin_memory=memory == "pinned")
    if direction == "h2d":
        return lambda: near.copy_(host, non_blocking=True)
    return lambda: host.copy_(near, non_blocking=True)


def _duplex(torch: Any, size: int) -> Timed:
    """Both directions at once on two streams: from the first start to the last end."""
    up, down = torch.cuda.Stream(), torch.cuda.Stream()
    hosts = [torch.ones(size, dtype=torch.uint8, pin_memory=True) for _ in range(2)]
    devices = [torch.empty(size, dtype=torch.uint8, device="cuda") for _ in range(2)]

    def run(iterations: int) -> int:
        torch.cuda.synchronize()
        starts = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        ends = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        for stream, start in zip((up, down), starts, strict=True):
            start.record(stream)
        for _ in range(iterations):
            with torch.cuda.stream(up):
                devices[0].copy_(hosts[0], non_blocking=True)
            with torch.cuda.stream(down):
                hosts[1].copy_(devices[1], non_blocking=True)
        for stream, end in zip((up, down), ends, strict=True):
            end.record(stream)
        torch.cuda.synchronize()
        return round(max(float(start.elapsed_time(end)) for start in starts for end in ends) * _NS_PER_MS)

    run(1)
    return run


def _device_kernel(torch: Any, kind: str, size: int) -> Callable[[], object]:
    """STREAM's kernels on float32 arrays of `size` bytes, and a sum that only reads."""
    a, b, c = (torch.ones(size // 4, device="cuda") for _ in range(3))
    kernels: dict[str, Callable[[], object]] = {
        "device-copy": lambda: c.copy_(a),
        "device-scale": lambda: torch.mul(c, 3.0, out=b),
        "device-add": lambda: torch.add(a, b, out=c),
        "device-read": lambda: a.sum(),
    }
    return kernels[kind]


def _product(torch: Any, dtype: str, n: int) -> Callable[[], object]:
    """C = A B, checked on its first rows; raises CannotRun where the device or PyTorch has no such product."""
    a, b = operands("int8" if dtype == "int8" else "fp64" if dtype == "fp64" else "fp32", n)
    x, y = torch.from_numpy(a).cuda(), torch.from_numpy(b).cuda()
    torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"
    tolerance = {"tf32": "fp16", "fp8": "fp8"}.get(dtype, dtype)
    call: Callable[[], Any]
    if dtype == "int8":
        y = y.t().contiguous().t()
        call = lambda: torch._int_mm(x, y)  # noqa: E731
    elif dtype == "fp8":
        if torch.cuda.get_device_capability() < (8, 9):
            raise CannotRun("the device has no fp8 products")
        one = torch.ones((), device="cuda")
        x, y = x.to(torch.float8_e4m3fn), y.t().contiguous().to(torch.float8_e4m3fn).t()
        call = lambda: torch._scaled_mm(x, y, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)  # noqa: E731
    else:
        kind = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(dtype)
        x, y = (x, y) if kind is None else (x.to(kind), y.to(kind))
        call = lambda: torch.mm(x, y)  # noqa: E731
    rows = call()[:4]
    check_product(a, b, (rows if dtype == "int8" else rows.double()).cpu().numpy(), tolerance)
    if dtype in {"fp32", "tf32"}:
        return lambda: _with_tf32(torch, dtype == "tf32", call)
    return call


def _with_tf32(torch: Any, allowed: bool, call: Callable[[], Any]) -> Any:
    """The product with the setting that it was asked for: cases are interleaved, and the setting is global."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    return call()


def _launches(torch: Any, kind: str) -> Timed:
    """Host time of launching an almost empty kernel, of replaying a graph with one, or of an empty synchronize."""
    import time

    one = torch.ones(1, device="cuda")
    call: Callable[[], object]
    if kind == "launch":
        call = lambda: one.add_(0)  # noqa: E731
    elif kind == "synchronize":
        call = torch.cuda.synchronize
    else:
        one.add_(0)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            one.add_(0)
        call = graph.replay
    call()
    torch.cuda.synchronize()

    def run(iterations: int) -> int:
        torch.cuda.synchronize()
        start = time.perf_counter_ns()
        for _ in range(iterations):
            call()
        took = time.perf_counter_ns() - start
        torch.cuda.synchronize()
        return took

    return run
