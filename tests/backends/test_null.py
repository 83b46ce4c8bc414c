from __future__ import annotations

import time

import numpy as np
import polars as pl
import pytest

from stratoscope.backends.base import BackendOptions
from stratoscope.backends.null import LAYERS, NullBackend
from stratoscope.errors import BackendError
from stratoscope.spec.model import LoadableModel, ModelManifest, TensorSpec
from stratoscope.trace.levels import Level
from stratoscope.trace.spans import SPAN_SCHEMA

MODEL = LoadableModel(
    ModelManifest(
        id="nothing",
        inputs=(TensorSpec(name="x", element_type="float32", shape=(4, 3)),),
        outputs=(
            TensorSpec(name="y", element_type="float32", shape=("N", 7)),
            TensorSpec(name="k", element_type="int64", shape=(2, "tokens")),
        ),
    )
)
FEEDS = {"x": np.ones((4, 3), np.float32)}


def test_outputs_are_zeros_of_the_declared_shapes_with_the_batch_filled_in() -> None:
    session = NullBackend().load(MODEL, BackendOptions(null_latency_s=0))
    for outputs in (session.run(FEEDS), session.bind(FEEDS)()):
        assert [(value.shape, value.dtype.name) for value in outputs] == [((4, 7), "float32"), ((2, 1), "int64")]
        assert not any(value.any() for value in outputs)


def test_a_model_without_inputs_outputs_and_file_runs() -> None:
    assert NullBackend().load(LoadableModel(ModelManifest(id="empty")), BackendOptions(null_latency_s=0)).run({}) == []


def test_it_waits_until_the_deadline_of_the_clock_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(1000, 10**9, 100))  # each look at the clock takes 100 ns
    looked: list[int] = []

    def clock() -> int:
        looked.append(next(now))
        return looked[-1]

    session = NullBackend().load(MODEL, BackendOptions(null_latency_s=1e-6))
    monkeypatch.setattr(time, "perf_counter_ns", clock)
    session.run(FEEDS)
    assert (looked[0], looked[-1]) == (1000, 2000)
    looked.clear()
    session.bind(FEEDS)()
    assert looked[-1] - looked[0] == 1000


def test_trace_is_exact_to_the_nanosecond() -> None:
    spans = NullBackend().trace(MODEL, BackendOptions(null_latency_s=1.003e-6), FEEDS, warmup=2, repeats=3)
    assert dict(spans.schema) == dict(SPAN_SCHEMA)
    models = spans.filter(pl.col("level") == Level.MODEL)
    layers = spans.filter(pl.col("level") == Level.LAYER)
    assert (models["end_ns"] - models["start_ns"]).to_list() == [1003, 1003, 1003]
    assert models["run"].to_list() == [0, 1, 2]
    assert layers["name"].to_list() == list(LAYERS) * 3
    sums = layers.group_by("run", maintain_order=True).agg((pl.col("end_ns") - pl.col("start_ns")).sum().alias("sum"))
    assert sums["sum"].to_list() == [1003, 1003, 1003]
    assert layers["parent"].to_list() == [model for model in models["span"] for _ in LAYERS]
    assert layers["site"].to_list() == [f"20:nothing#0|30:{name}#0" for name in LAYERS] * 3


def test_traced_session_leaves_one_inference_a_call() -> None:
    session = NullBackend().open_trace(MODEL, BackendOptions(null_latency_s=0.00002))
    call = session.bind(FEEDS)
    before = time.perf_counter_ns()
    for _ in range(3):
        call()
    after = time.perf_counter_ns()
    models = session.finish().filter(pl.col("level") == Level.MODEL)
    assert models["run"].to_list() == [0, 1, 2]
    assert (models["end_ns"] - models["start_ns"]).to_list() == [20_000] * 3
    assert before <= models["start_ns"].min() < models["end_ns"].max() <= after
    assert models["start_ns"].is_sorted()


def test_feeds_are_checked_though_they_are_not_used() -> None:
    with pytest.raises(BackendError, match=r"'x' expects shape \[4, 3\], got \[3, 4\]"):
        NullBackend().load(MODEL, BackendOptions()).bind({"x": np.ones((3, 4), np.float32)})


def test_trace_without_repeats_is_refused() -> None:
    with pytest.raises(BackendError, match="at least one repeat"):
        NullBackend().trace(MODEL, BackendOptions(), FEEDS, warmup=0, repeats=0)


def test_nothing_is_executed() -> None:
    capabilities = NullBackend().capabilities()
    assert [level for level, why in capabilities.levels.items() if why is None] == [Level.MODEL, Level.LAYER]
    assert set(capabilities.levels) == set(Level)


def test_element_types_that_numpy_lacks_are_zeros_too_and_unknown_ones_are_refused() -> None:
    def outputs(element_type: str) -> list[np.ndarray]:
        spec = TensorSpec(name="y", element_type=element_type, shape=(2,))
        return NullBackend().load(LoadableModel(ModelManifest(id="m", outputs=(spec,))), BackendOptions()).run({})

    assert (outputs("bfloat16")[0].itemsize, outputs("str")[0].tolist()) == (2, ["", ""])
    with pytest.raises(BackendError, match="element type 'seq'"):
        outputs("seq")
