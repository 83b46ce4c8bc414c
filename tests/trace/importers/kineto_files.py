"""Small traces in Kineto's format, made up, for tests of importers and analyses."""

from __future__ import annotations

from typing import Any


def event(category: str, name: str, pid: Any, tid: Any, ts: float, dur: float, **args: Any) -> dict[str, Any]:
    return {"ph": "X", "cat": category, "name": name, "pid": pid, "tid": tid, "ts": ts, "dur": dur, "args": args}


def arrow(phase: str, correlation: int, pid: int, tid: int, ts: float) -> dict[str, Any]:
    return {"ph": phase, "id": correlation, "pid": pid, "tid": tid, "ts": ts, "cat": "ac2g", "name": "ac2g", "bp": "e"}


def document(*events: dict[str, Any], base_ns: int = 1_700_000_000_000_000_000) -> dict[str, Any]:
    return {
        "schemaVersion": 1,
        "deviceProperties": [{"id": 0, "name": "made up"}],
        "traceEvents": list(events),
        "traceName": "made_up.json",
        "displayTimeUnit": "ms",
        "baseTimeNanoseconds": base_ns,
    }


def training_step() -> dict[str, Any]:
    """One operator that launches a kernel and a copy, a module around it, an annotation, and the profiler's own."""
    return document(
        {"name": "process_name", "ph": "M", "ts": 1.0, "pid": 42, "tid": 0, "args": {"name": "python"}},
        {"name": "thread_name", "ph": "M", "ts": 1.0, "pid": 42, "tid": 42, "args": {"name": "main"}},
        {"name": "thread_name", "ph": "M", "ts": 1.0, "pid": 0, "tid": 7, "args": {"name": "stream 7 "}},
        event("user_annotation", "ProfilerStep#3", 42, 42, 100.001, 500.0, **{"External id": 1}),
        event("python_function", "model.py(3): forward", 42, 42, 105.0, 400.0),
        event("python_function", "nn.Module: Linear_0", 42, 42, 110.0, 300.0),
        event("cpu_op", "aten::linear", 42, 42, 120.0, 200.0, **{"External id": 2, "Input Dims": [[8, 8]]}),
        event("cuda_runtime", "cudaLaunchKernel", 42, 42, 130.0, 5.5, correlation=77, cbid=211),
        arrow("s", 77, 42, 42, 130.0),
        event("cuda_runtime", "cudaMemcpyAsync", 42, 42, 140.0, 4.0, correlation=78),
        event("cuda_runtime", "cudaStreamSynchronize", 42, 42, 150.0, 60.0, correlation=79),
        event("kernel", "gemm<float>", 0, 7, 150.25, 40.125, correlation=77, stream=7, device=0),
        arrow("f", 77, 0, 7, 150.25),
        event("gpu_memcpy", "Memcpy DtoH (Device -> Pinned)", 0, 7, 195.0, 2.0, correlation=78, stream=7, bytes=64),
        event("cuda_sync", "Stream Sync", 0, 7, 190.0, 8.0, correlation=79, stream=7),
        event("gpu_user_annotation", "ProfilerStep#3", 0, 7, 150.25, 46.75),
        event("overhead", "Activity Buffer Request", -1, 0, 131.0, 3.0, correlation=77),
        event("Trace", "PyTorch Profiler (0)", "Spans", "PyTorch Profiler", 90.0, 600.0),
        {"name": "Iteration Start", "ph": "i", "s": "g", "pid": "Traces", "tid": "Trace", "ts": 90.0},
    )
