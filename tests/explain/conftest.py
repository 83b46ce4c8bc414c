"""A synthetic trace on a virtual clock, whose analyses have exact values worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import polars as pl
import pytest

from stratoscope.explain.analyses.leveled_trace import LeveledTrace
from stratoscope.explain.roofs import Roofs
from stratoscope.trace.levels import Level
from stratoscope.trace.spans import SPAN_SCHEMA

US = 1000
HOST, STREAM = 1, 99


class Spans:
    """Builds a span table on a clock that only the test moves."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def add(
        self,
        run: int,
        level: int,
        name: str,
        start_us: float,
        duration_us: float,
        *,
        kind: str = "sync",
        track: int = HOST,
        correlation: int = 0,
        parent: int | None = None,
        **attributes: Any,
    ) -> int:
        """One span; returns its id."""
        self.rows.append(
            {
                "span": len(self.rows),
                "parent": parent,
                "level": int(level),
                "kind": kind,
                "name": name,
                "track": track,
                "start_ns": round(start_us * US),
                "end_ns": round((start_us + duration_us) * US),
                "correlation": correlation,
                "run": run,
                "site": None,
                "attributes": json.dumps(attributes) if attributes else None,
            }
        )
        return len(self.rows) - 1

    def frame(self) -> pl.DataFrame:
        return pl.DataFrame(self.rows, schema=SPAN_SCHEMA)

    def trace(self, **known: Any) -> LeveledTrace:
        return LeveledTrace.of(self.frame(), **known)


#: Model latencies in us by batch size: trimmed means 120, 160 (the median of three) and 305 (the mean of two).
MODEL_US: Mapping[int, tuple[int, ...]] = {1: (100, 130, 1000, 110, 120), 2: (160, 150, 900), 4: (300, 310)}

#: Layers in order: name, type, shape, allocated bytes, and latency in each of five layer-profiled runs (None: absent).
#: Trimmed means 44, 10, 23 (four samples: none is cut) and 6.
LAYERS: tuple[tuple[str, str, list[int], int, tuple[int | None, ...]], ...] = (
    ("conv", "Conv", [1, 64], 256, (40, 400, 42, 46, 44)),
    ("relu", "Relu", [1, 64], 256, (10, 10, 10, 10, 10)),
    ("conv", "Conv", [1, 10], 40, (None, 20, 26, 22, 24)),
    ("mean", "ReduceMean", [], 4, (5, 7, 6, 5, 7)),
)
#: Kernels of each layer: name and time in us in each of three kernel-profiled runs; medians 13, 8; 12; 10; none.
KERNELS: tuple[tuple[tuple[str, tuple[int, int, int]], ...], ...] = (
    (("gemm", (12, 14, 13)), ("gemm", (8, 8, 8))),
    (("relu_k", (13, 11, 12)),),
    (("gemm", (10, 10, 10)),),
    (),
)
#: Counters of the kernels in order, from one run with replay, whose times are ten times too long.
COUNTERS: tuple[dict[str, float], ...] = (
    {"flop_count_sp": 2e6, "dram_read_bytes": 1000, "dram_write_bytes": 500, "achieved_occupancy": 0.5},
    {"flop_count_tensor": 8e6, "dram_read_bytes": 2000, "dram_write_bytes": 500, "achieved_occupancy": 0.25},
    {"flop_count_sp": 64, "dram_read_bytes": 128, "dram_write_bytes": 128, "achieved_occupancy": 0.9},
    {"int8_operations": 1e6, "dram_read_bytes": 3000, "dram_write_bytes": 1000, "achieved_occupancy": 0.1},
)
#: Roofs under which the four kernels take at least (compute, memory) us: (2, 1.5), (2, 2.5), (0, 0.256), (0.5, 4).
ROOFS = Roofs({"float32": 1e12, "tensor-float16": 4e12, "int8": 2e12}, 1e9, "made up")


def gpu_spans() -> tuple[pl.DataFrame, dict[int, int], dict[int, int]]:
    """The spans of all runs, the deepest level of each run, and its batch size."""
    spans = Spans()
    deepest: dict[int, int] = {}
    batch: dict[int, int] = {}
    run = 0
    for size, latencies in MODEL_US.items():
        for latency in latencies:
            spans.add(run, Level.MODEL, "net", 0, latency)
            deepest[run], batch[run] = Level.MODEL, size
            run += 1
    for number in range(5):
        spans.add(run, Level.MODEL, "net", 0, 900)
        at = 1
        for name, kind, shape, allocated, latencies in LAYERS:
            latency = latencies[number]
            if latency is not None:
                facts = {"op": kind, "outputs": [{"type": "float32", "shape": shape}], "output_bytes": allocated}
                spans.add(run, Level.LAYER, name, at, latency, **facts)
                at += latency
        deepest[run], batch[run] = Level.LAYER, 1
        run += 1
    for number in range(4):
        _kernel_run(spans, run, number)
        deepest[run], batch[run] = Level.KERNEL, 1
        run += 1
    return spans.frame(), deepest, batch


def _kernel_run(spans: Spans, run: int, number: int) -> None:
    """A run down to the kernels; the fourth one collects counters. Launch and execution have one name, as in XSP."""
    replayed = number == 3
    spans.add(run, Level.MODEL, "net", 0, 9000)
    spans.add(run, Level.KERNEL, "Memcpy HtoD", 1, 1, kind="launch", correlation=1)
    spans.add(run, Level.KERNEL, "Memcpy HtoD", 3, 3, kind="exec", correlation=1, track=STREAM, bytes=4096)
    at, count, free = 10, 0, 10
    for (name, *_), kernels in zip(LAYERS, KERNELS, strict=True):
        spans.add(run, Level.LAYER, name, at, 100)
        for place, (kernel, times) in enumerate(kernels):
            counters = COUNTERS[count] if replayed else {}
            launched = at + 1 + 5 * place
            time = 10 * times[0] if replayed else times[number]
            # In the second run the device only begins when both launches are done: the order of starts differs.
            begin = max(free, launched + (8 if number == 1 else 1))
            spans.add(run, Level.KERNEL, kernel, launched, 2, kind="launch", correlation=count + 2, **counters)
            spans.add(run, Level.KERNEL, kernel, begin, time, kind="exec", correlation=count + 2, track=STREAM)
            free = begin + time
            count += 1
        at += 100


@pytest.fixture(scope="session")
def gpu_trace() -> LeveledTrace:
    """Model runs at batch 1, 2 and 4; layer and kernel runs and one run with counters at batch 1."""
    frame, deepest, batch = gpu_spans()
    return LeveledTrace.of(frame, deepest=deepest, batch_size=batch)


@pytest.fixture(scope="session")
def make_spans() -> type[Spans]:
    """`make_spans()`: an empty builder, for tests that need many."""
    return Spans


@pytest.fixture
def spans() -> Spans:
    """An empty builder."""
    return Spans()


@pytest.fixture(scope="session")
def roofs() -> Roofs:
    return ROOFS
