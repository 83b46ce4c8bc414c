"""Records for the renderings: as many layers as asked for, and one in which nothing was measured."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import polars as pl
import pytest

from stratoscope.spec.record import LayerRow, ProfileSection, RunRecord
from stratoscope.stats.quantity import Quantity

LayerMaker = Callable[[int], tuple[LayerRow, ...]]
RecordMaker = Callable[[int], RunRecord]

_OPERATORS = ("Conv", "Conv", "Conv", "BatchNormalization", "Relu", "Add", "MaxPool", "Gemm", "Softmax", "Reshape")


@pytest.fixture(scope="session")
def make_layers(records: ModuleType) -> LayerMaker:
    """`make_layers(n)`: n layers one after another, times spread over two decades, shares that add up to 1."""

    def make(number: int) -> tuple[LayerRow, ...]:
        random = np.random.default_rng(number)
        operators = [_OPERATORS[int(i)] for i in random.integers(0, len(_OPERATORS), number)]
        seconds = [float(t) for t in np.exp(random.normal(-9 if number < 200 else -11, 1.2, number))]
        rows, start_ns = [], 50_000
        for index, (op, time) in enumerate(zip(operators, seconds, strict=True)):
            duration_ns = round(time * 1e9)
            known = op in {"Conv", "Gemm"}
            rows.append(
                LayerRow(
                    index=index,
                    name=f"resnetv17_stage{index // 12 + 1}_{op.lower()}{index % 12}_fwd",
                    op="FusedConv" if op == "Conv" else op,
                    authored=(f"conv_{index}", f"batchnorm_{index}", f"relu_{index}") if op == "Conv" else (),
                    output_shape=(1, 64 * (1 + index % 4), 56, 56),
                    output_type="float32",
                    time=records.estimate(time, "s", n=20, spread=0.01 + 0.03 * float(random.random())),
                    share=time / sum(seconds),
                    start_ns=start_ns,
                    duration_ns=duration_ns,
                    flops=Quantity.exact(time * 4e10, "FLOP")
                    if known
                    else Quantity.unavailable("FLOP", f"no work function for {op}", "count"),
                    bytes=Quantity.exact(float(round(time * 3e9)), "byte"),
                    parameters=Quantity.exact(float(36_864 * (1 + index % 4)) if known else 0.0, "1"),
                    allocated=Quantity.unavailable("byte", "the runtime does not tell"),
                )
            )
            start_ns += duration_ns + 3_000
        return tuple(rows)

    return make


@pytest.fixture(scope="session")
def record_of(records: ModuleType, make_layers: LayerMaker) -> RecordMaker:
    """`record_of(n)`: a full record whose profile has n layers."""

    def make(number: int) -> RunRecord:
        layers = make_layers(number)
        total = sum(layer.time.require() for layer in layers)
        profile: ProfileSection = records.profile_section().model_copy(
            update={
                "layers": layers,
                "layers_sum": records.estimate(total, "s", n=20),
                "model_time": records.estimate(total * 1.01, "s", n=20),
                "profiled_model_time": records.estimate(total * 1.03, "s", n=20),
                "gap": records.estimate(total * 0.03, "s", n=20, spread=0.2),
            }
        )
        record: RunRecord = records.make_record(profile=profile)
        return record

    return make


@pytest.fixture(scope="session")
def bare_record(records: ModuleType) -> RunRecord:
    """A record in which no section was measured."""
    nothing = dict.fromkeys(("graph", "load", "sweep", "cold_start", "profile", "accuracy"))
    record: RunRecord = records.make_record(**nothing, unavailable=(), software={}, hardware={}, command="")
    return record


@pytest.fixture(scope="session")
def make_samples() -> Callable[[int], pl.DataFrame]:
    """`make_samples(n)`: n single-stream queries around 10 ms with a slow tail, as the store keeps them."""

    def make(number: int) -> pl.DataFrame:
        random = np.random.default_rng(1)
        took = (9.6e6 + random.gamma(3.0, 1.6e5, number) + (random.random(number) > 0.985) * 4e6).astype(np.int64)
        sent = np.concatenate([[0], np.cumsum(took + 8_000)[:-1]])
        return pl.DataFrame(
            {
                "query": np.arange(number),
                "sample": np.arange(number) % 16,
                "scheduled_ns": sent,
                "issued_ns": sent + 500,
                "completed_ns": sent + took,
            }
        )

    return make
