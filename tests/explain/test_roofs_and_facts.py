"""Classes of work under the roofs, and what the attributes of spans tell."""

from __future__ import annotations

import json
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratoscope.errors import MeasurementError, TraceError
from stratoscope.explain.analyses import facts
from stratoscope.explain.analyses.layer_sites import resolved
from stratoscope.explain.analyses.leveled_trace import LeveledTrace
from stratoscope.explain.analyses.model import optimum
from stratoscope.explain.analyses.registry import analyse
from stratoscope.explain.analyses.result import TEXT, AnalysisOptions, AnalysisResult, Column
from stratoscope.explain.analyses.samples import NOTHING, Estimate, difference, estimate_s, total
from stratoscope.explain.roofs import Bound, Roofs, place
from stratoscope.measure.leveled_rows import resolved as record_resolved
from stratoscope.measure.sweep import optimal_batch
from stratoscope.spec.record import GraphSection, SweepPoint
from stratoscope.stats.location import trimmed_mean
from stratoscope.stats.quantity import Quantity
from stratoscope.trace.levels import Level
from stratoscope.trace.spans import SPAN_SCHEMA

ROOFS = Roofs({"float32": 100.0, "int8": 400.0}, 10.0)  # ridge points 10 and 40 FLOP/byte


@pytest.mark.parametrize(
    ("operations", "moved", "time", "share", "bound"),
    [
        ({"float32": 1000}, 10, 20, 0.5, Bound.COMPUTE),
        ({"float32": 100}, 100, 20, 0.5, Bound.MEMORY),
        ({"float32": 100}, 10, 10, 0.1, Bound.COMPUTE),  # exactly a tenth of both roofs is not overhead yet
        ({"float32": 100}, 10, 10.1, 1 / 10.1, Bound.OVERHEAD),
        ({"float32": 1000}, 0, 20, 0.5, Bound.COMPUTE),
        ({}, 100, 20, 0.5, Bound.MEMORY),
        ({}, 0, 20, 0.0, Bound.OVERHEAD),
        ({"int8": 4000}, 10, 20, 0.5, Bound.COMPUTE),
        ({"float32": 500, "int8": 2000}, 10, 20, 0.5, Bound.COMPUTE),  # 5 s of one, then 5 s of the other
    ],
)
def test_work_is_bound_by_the_nearer_roof_or_by_overhead(
    operations: dict[str, float], moved: float, time: float, share: float, bound: Bound
) -> None:
    spot = place(operations, moved, time, ROOFS)
    assert spot.roof_share == pytest.approx(share)
    assert spot.bound is bound


@pytest.mark.parametrize(
    ("operations", "moved", "time", "roofs", "why"),
    [
        (None, 1, 1, ROOFS, "operations"),
        ({"float32": 1}, None, 1, ROOFS, "bytes"),
        ({"float32": 1}, 1, None, ROOFS, "time is not known"),
        ({"float32": 1}, 1, 0, ROOFS, "not above zero"),
        ({"float64": 1}, 1, 1, ROOFS, "no roof for float64"),
        ({"float32": 1}, 1, 1, None, "no roofs"),
    ],
)
def test_a_class_that_cannot_be_told_says_why(
    operations: dict[str, float] | None, moved: float | None, time: float | None, roofs: Roofs | None, why: str
) -> None:
    spot = place(operations, moved, time, roofs)
    assert spot.bound is None
    assert why in (spot.why or "")


@given(flops=st.floats(1, 1e6), moved=st.floats(1, 1e6), time=st.floats(1e-3, 1e6), scale=st.floats(0.01, 100))
def test_the_share_is_the_attained_part_of_the_roofline(flops: float, moved: float, time: float, scale: float) -> None:
    spot = place({"float32": flops}, moved, time, ROOFS)
    roofline = min(100.0, flops / moved * 10.0)
    assert spot.roof_share == pytest.approx(flops / time / roofline)
    scaled = place({"float32": flops * scale}, moved * scale, time * scale, ROOFS)
    assert scaled.roof_share == pytest.approx(spot.roof_share)


@pytest.mark.parametrize("peaks", [{}, {"float32": 0.0}, {"float32": float("nan")}])
def test_roofs_are_above_zero(peaks: dict[str, float]) -> None:
    with pytest.raises(MeasurementError, match="above zero"):
        Roofs(peaks, 1.0)


def parse(**told: Any) -> facts.Facts:
    return facts.parse("k", json.dumps(told))


def test_operations_of_every_type_are_counted() -> None:
    assert parse(flop_count_sp=1, flop_count_tensor=2, int8_operations=4).flops == 7
    assert parse(operations={"tensor-float16": 8, "float32": 1}).operations == {"tensor-float16": 8, "float32": 1}
    assert parse(flops=5, outputs=[{"type": "float16", "shape": [1]}]).operations == {"float16": 5}
    assert parse(flops=5, inputs=[{"type": "uint8"}], outputs=[{"type": "int32"}]).operations == {"int8": 5}


def test_what_is_not_told_is_unknown_and_not_zero() -> None:
    told = facts.parse("k", None)
    assert (told.flops, told.moved_bytes, told.occupancy, told.allocated_bytes, told.shape) == (None,) * 5
    assert facts.parse("k", "[1]").flops is None
    assert facts.parse("k", "[" * 100_000).flops is None
    assert parse(flops=-1, dram_read_bytes="many", occupancy=True).flops is None


def test_a_scalar_has_an_empty_shape_and_a_copy_no_operations() -> None:
    assert parse(outputs=[{"type": "float32", "shape": []}]).shape == ()
    assert facts.parse("Memcpy HtoD (Pinned)", None).operations == {}
    assert parse(activity="gpu_memset").copy


def test_facts_of_a_site_are_trimmed_means_of_those_who_tell() -> None:
    every = [parse(flops=value) for value in (1, 2, 3, 4, 100)] + [parse()]
    assert facts.merged(every).flops == 3


def test_estimates_follow_xsp_and_have_nothing_without_samples() -> None:
    assert estimate_s([]) == NOTHING
    assert estimate_s([2, 4]) == Estimate(pytest.approx(3e-9), None, None, 2)
    assert estimate_s([1, 2, 90]).value == pytest.approx(2e-9)
    assert total([Estimate(1, 0.5, 2, 5), Estimate(2, 1, 3, 4)]) == Estimate(3, 1.5, 5, 4)
    assert total([Estimate(1, 0.5, 2, 5), NOTHING]) == NOTHING
    assert difference(Estimate(5, 4, 6, 9), Estimate(2, 1, 3, 4)) == Estimate(3, 1, 5, 4)


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=30))
def test_the_estimate_is_the_trimmed_mean(durations: list[int]) -> None:
    assert estimate_s(durations).value == pytest.approx(trimmed_mean(durations) * 1e-9)


@given(st.lists(st.floats(1, 1e6), min_size=1, max_size=8))
def test_the_optimum_of_doublings_is_that_of_the_sweep(rates: list[float]) -> None:
    points = [(2**k, rate) for k, rate in enumerate(rates)]
    best, saturated = optimum(dict(points))
    expected, stops = optimal_batch(points)
    assert saturated == stops
    assert best == (expected if len(rates) > 1 else None)


def test_rounding_of_a_clock_is_mended_as_in_the_record() -> None:
    ours = resolved(Estimate(1e-5, 9e-6, 1.1e-5, 5), 0, 1000)
    theirs = record_resolved(Quantity(value=1e-5, unit="s", ci_low=9e-6, ci_high=1.1e-5), 1, 1000)
    assert ours.times() == pytest.approx((theirs.value, theirs.ci_low, theirs.ci_high))


def test_modules_of_modules_count_once(spans: Any) -> None:
    spans.add(0, Level.MODEL, "net", 0, 20)
    spans.add(0, Level.LAYER, "block", 1, 10, op="Block", output_bytes=8)
    spans.add(0, Level.LAYER, "conv", 2, 5, op="Conv", output_bytes=4)
    spans.add(0, Level.OPERATOR, "aten::conv", 3, 2)
    spans.add(0, Level.LAYER, "relu", 7, 3, op="Relu", output_bytes=8)
    trace = LeveledTrace.of(spans.frame(), deepest=None, batch_size=1)
    assert trace.runs[0].deepest == Level.OPERATOR
    shallow = LeveledTrace.of(spans.frame().filter(spans.frame()["level"] < Level.OPERATOR), batch_size=1)
    by_type = analyse("A6", shallow)
    counts, memory = analyse("A5", shallow), analyse("A7", shallow)
    assert isinstance(by_type, AnalysisResult)
    assert isinstance(counts, AnalysisResult)
    assert isinstance(memory, AnalysisResult)
    times = dict(by_type.frame.select("type", "time_s").iter_rows())
    assert times == {"Conv": pytest.approx(5e-6), "Relu": pytest.approx(3e-6), "Block": pytest.approx(2e-6)}
    assert counts.frame.rows() == [("Conv", 1, 0.5), ("Relu", 1, 0.5)]
    assert memory.facts["allocated_bytes"] == 12


def test_a_run_cannot_have_spans_below_its_deepest_level(spans: Any) -> None:
    spans.add(0, Level.LAYER, "conv", 0, 1)
    with pytest.raises(TraceError, match="run 0 is said to go down to level 20"):
        spans.trace(deepest=Level.MODEL)


def test_a_run_tells_of_itself_in_its_model_span(spans: Any) -> None:
    spans.add(0, Level.MODEL, "net", 0, 1, deepest="kernel", batch_size=8, replayed=True)
    spans.add(1, Level.MODEL, "net", 0, 1)
    first, second = spans.trace(batch_size={1: 4}).runs
    assert (first.deepest, first.batch_size, first.replayed) == (Level.KERNEL, 8, True)
    assert (second.deepest, second.batch_size, second.replayed) == (Level.MODEL, 4, False)


def test_a_result_has_the_columns_that_it_declares() -> None:
    with pytest.raises(TypeError, match="declares"):
        AnalysisResult("x", "x", (Column("a", TEXT, "", ""),), pl.DataFrame({"a": [1]}))


def test_the_class_changes_with_the_batch_size() -> None:
    graph = GraphSection(
        layers=1,
        unique_layers=1,
        flops=Quantity.exact(100, "FLOP"),
        parameters=Quantity.exact(25, "1"),
        parameter_bytes=Quantity.exact(100, "byte"),
        activation_bytes=Quantity.exact(2, "byte"),
    )

    def point(size: int, seconds: float) -> SweepPoint:
        return SweepPoint(
            batch_size=size,
            latency=Quantity(value=seconds, unit="s"),
            throughput=Quantity(value=size / seconds, unit="1/s"),
        )

    trace = LeveledTrace.of(
        pl.DataFrame(schema=SPAN_SCHEMA),
        sweep=(point(1, 20.0), point(16, 40.0), point(64, 1000.0)),
        graph=graph,
        graph_batch=1,
    )
    found = analyse("bound-sweep", trace, AnalysisOptions(roofs=ROOFS))
    assert isinstance(found, AnalysisResult)
    # bytes 102, 132, 228; least times (1 compute, 10.2 memory), (16, 13.2), (64, 22.8) s
    assert found.frame["bytes"].to_list() == [102, 132, 228]
    assert found.frame["roof_share"].to_list() == pytest.approx([0.51, 0.4, 0.064])
    assert found.frame["bound"].to_list() == ["memory-bound", "compute-bound", "overhead-bound"]
