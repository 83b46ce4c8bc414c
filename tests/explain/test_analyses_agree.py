"""What different analyses of one trace must agree on, whatever the trace."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratoscope.errors import MeasurementError
from stratoscope.explain.analyses.leveled_trace import LeveledTrace
from stratoscope.explain.analyses.registry import analyse
from stratoscope.explain.analyses.result import AnalysisOptions, AnalysisResult
from stratoscope.explain.roofs import Roofs, from_machine
from stratoscope.trace.levels import Level

ROOFS = Roofs({"float32": 1e9}, 1e9)


def chance_trace(builder: Any, seed: int, batch_sizes: tuple[int, ...] = (1,)) -> LeveledTrace:
    """Model, layer and kernel runs of a model with random layers and kernels; the device lags behind at random."""
    chance = random.Random(seed)
    layers = [
        (chance.choice("abc"), [chance.choice("xyz") for _ in range(chance.randint(0, 4))])
        for _ in range(chance.randint(1, 6))
    ]
    deepest: dict[int, int] = {}
    batch: dict[int, int] = {}
    for size in batch_sizes:
        for level in (Level.MODEL, Level.LAYER, Level.KERNEL):
            for _ in range(chance.randint(1, 4)):
                run = len(deepest)
                deepest[run], batch[run] = level, size
                _one_run(builder, chance, run, layers, level)
    made: LeveledTrace = builder.trace(deepest=deepest, batch_size=batch)
    return made


def _one_run(builder: Any, chance: random.Random, run: int, layers: Any, level: int) -> None:
    builder.add(run, Level.MODEL, "net", 0, 10_000)
    at, correlation, free = 1.0, 0, 0.0
    for name, kernels in layers if level > Level.MODEL else ():
        start = at
        for kernel in kernels if level == Level.KERNEL else ():
            correlation += 1
            builder.add(run, Level.KERNEL, kernel, at, 2, kind="launch", correlation=correlation)
            begin, length = max(free, at + chance.randint(0, 30)), chance.randint(1, 50)
            told = {
                "flops": chance.randint(0, 9000),
                "dram_read_bytes": 100,
                "dram_write_bytes": chance.randint(0, 900),
            }
            attributes = {"kind": "exec", "correlation": correlation, "track": 9, **told}
            builder.add(run, Level.KERNEL, kernel, begin, length, **attributes)
            free, at = begin + length, at + 3
        at += chance.randint(1, 50)
        builder.add(run, Level.LAYER, name, start, at - start, op=name.upper(), output_bytes=chance.randint(1, 99))


def frame(trace: LeveledTrace, analysis: str, size: int = 1) -> Any:
    found = analyse(analysis, trace, AnalysisOptions(size, ROOFS))
    assert isinstance(found, AnalysisResult), found
    return found.frame


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_sums_by_kernel_by_name_by_layer_and_by_model_are_one(make_spans: Any, seed: int) -> None:
    trace = chance_trace(make_spans(), seed)
    layers = frame(trace, "A2")
    assert frame(trace, "A3")["self_time_s"].sum() == pytest.approx(frame(trace, "A6")["time_s"].sum())
    assert layers["allocated_bytes"].sum() == pytest.approx(frame(trace, "A7")["allocated_bytes"].sum())
    assert frame(trace, "A5")["layers"].sum() == layers.height
    assert layers["index"].to_list() == list(range(layers.height))
    if trace.primitive(1) is None:
        return
    kernels, names, by_layer, model = (frame(trace, analysis) for analysis in ("A8", "A10", "A11", "A15"))
    assert names["calls"].sum() == by_layer["kernels"].sum() == model["kernels"][0] == kernels.height
    for one, column in ((kernels, "time_s"), (names, "time_s"), (by_layer, "kernel_time_s")):
        assert one[column].sum() == pytest.approx(model["kernel_time_s"][0])
    for column in ("flops", "dram_read_bytes", "dram_write_bytes"):
        assert kernels[column].sum() == pytest.approx(model[column][0])
        assert by_layer[column].sum() == pytest.approx(model[column][0])
    parts = frame(trace, "A13")
    assert (parts["kernel_time_s"] + parts["other_time_s"]).to_list() == pytest.approx(parts["layer_time_s"].to_list())
    assert frame(trace, "A14").height <= layers.height


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_order_of_the_rows_of_a_trace_does_not_matter(make_spans: Any, seed: int) -> None:
    trace = chance_trace(make_spans(), seed)
    deepest = {run.run: run.deepest for run in trace.runs}
    mixed = LeveledTrace.of(trace.spans.sample(fraction=1, shuffle=True, seed=seed), deepest=deepest, batch_size=1)
    for analysis in ("A2", "A6", "A8", "A11", "A15"):
        one, other = (analyse(analysis, each, AnalysisOptions(1, ROOFS)) for each in (trace, mixed))
        if isinstance(one, AnalysisResult):
            assert isinstance(other, AnalysisResult)
            assert one.frame.equals(other.frame)
        else:
            assert one == other


def test_a15_has_a_row_for_each_batch_size(make_spans: Any) -> None:
    trace = chance_trace(make_spans(), 3, (1, 2, 8))
    found = analyse("A15", trace, AnalysisOptions(roofs=ROOFS))
    assert isinstance(found, AnalysisResult)
    assert found.frame["batch_size"].to_list() == [1, 2, 8]
    for size in (1, 2, 8):
        (row,) = found.frame.filter(found.frame["batch_size"] == size).to_dicts()
        assert row["kernel_time_s"] == pytest.approx(frame(trace, "A8", size)["time_s"].sum())
        assert row["model_time_s"] == pytest.approx(10_000e-6)


class Measured:
    """What `host.roofs.Roofs` tells of a machine that was measured with one thread."""

    def __init__(self, value: float | None) -> None:
        self.value = value

    def flops_per_s(self, threads: int = 1) -> dict[str, float]:
        return {"float32": 1e11} if threads == 1 else {}

    def bandwidth(self, level: str = "memory", threads: int = 1) -> Measured:
        return self


def test_roofs_are_taken_from_a_machine_record() -> None:
    roofs = from_machine(Measured(2e10))
    assert roofs.ridge() == 5.0
    assert roofs.source == "measured with 1 thread"
    with pytest.raises(MeasurementError, match="for 4 threads"):
        from_machine(Measured(2e10), 4)
    with pytest.raises(MeasurementError, match="for 1 thread"):
        from_machine(Measured(None))
