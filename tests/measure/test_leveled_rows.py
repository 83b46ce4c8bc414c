from __future__ import annotations

import json
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratoscope.graph.ir import Layer, Tensor
from stratoscope.graph.mapping import ExecutedLayer
from stratoscope.graph.work import work_of
from stratoscope.measure.leveled_join import ExecutedModel, ExecutedNode
from stratoscope.measure.leveled_rows import ProfiledRuns, closest_to_median, layer_rows, resolved
from stratoscope.stats.bootstrap import estimate
from stratoscope.stats.quantity import Quantity
from stratoscope.trace.correlate import assign_parents, assign_sites
from stratoscope.trace.spans import SPAN_SCHEMA

UNKNOWN = ExecutedModel(why="nobody knows")


def inference(
    run: int, start: int, duration: int, *layers: tuple[str, int, int], clock: dict[str, Any] | None = None, **more: Any
) -> list[dict[str, Any]]:
    """A model span and its layers (name, start in the inference, duration, track 1 or as in the name's `@n`)."""
    plain = {"parent": None, "kind": "sync", "correlation": 0, "run": run, "site": None, "attributes": None} | more
    base = 1000 * run
    rows = [
        {**plain, "span": base, "level": 20, "name": "net", "track": 1, "start_ns": start, "end_ns": start + duration}
    ]
    rows[0]["attributes"] = None if clock is None else json.dumps(clock)
    for number, (name, begin, length) in enumerate(layers, 1):
        plain_name, _, track = name.partition("@")
        rows.append(
            {
                **plain,
                "span": base + number,
                "level": 30,
                "name": plain_name,
                "track": int(track or 1),
                "start_ns": start + begin,
                "end_ns": start + begin + length,
            }
        )
    return rows


def profiled(*runs: list[dict[str, Any]]) -> ProfiledRuns:
    rows = [tuple(row[key] for key in SPAN_SCHEMA) for run in runs for row in run]
    return ProfiledRuns.of(assign_sites(assign_parents(pl.DataFrame(rows, schema=SPAN_SCHEMA, orient="row"))))


def test_layers_in_the_body_of_a_layer_count_with_it() -> None:
    runs = profiled(inference(0, 0, 100, ("loop", 10, 50), ("inner", 20, 10), ("inner", 30, 10), ("last", 70, 20)))
    assert runs.layers["name"].to_list() == ["loop", "last"]
    assert runs.nested == 2
    assert runs.sums_s().tolist() == [pytest.approx(70e-9)]
    assert runs.covered_s().tolist() == [pytest.approx(70e-9)]
    assert not runs.side_by_side


def test_layers_side_by_side_cover_less_than_their_sum() -> None:
    runs = profiled(inference(0, 0, 100, ("a@2", 10, 50), ("b@3", 20, 60), ("c@2", 85, 5)))
    assert runs.side_by_side
    assert runs.sums_s().tolist() == [pytest.approx(115e-9)]
    assert runs.covered_s().tolist() == [pytest.approx(75e-9)]  # [10, 80) and [85, 90)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 80), st.integers(0, 20)), min_size=1, max_size=8), min_size=1, max_size=3
    )
)
def test_covered_time_is_the_length_of_the_union(parts: list[list[tuple[int, int]]]) -> None:
    runs = profiled(
        *(
            inference(run, 0, 100, *((f"s{k}@{k + 2}", start, length) for k, (start, length) in enumerate(layers)))
            for run, layers in enumerate(parts)
        )
    )
    union = [len({t for start, length in layers for t in range(start, start + length)}) for layers in parts]
    assert (runs.covered_s() * 1e9).round(6).tolist() == union
    assert runs.layer_counts().tolist() == [len(layers) for layers in parts]


def test_half_of_the_clocks_unit_is_added_to_each_duration_that_it_rounds_down() -> None:
    quantity = Quantity(value=3e-6, unit="s", statistic="mean", n=9, ci_low=2.9e-6, ci_high=3.2e-6, confidence=0.95)
    one = resolved(quantity, 1, 1000)
    assert (one.value, one.ci_low, one.ci_high) == pytest.approx((3.5e-6, 2.9e-6, 4.2e-6))
    many = resolved(quantity, 100, 1000)
    half = 1.96 * np.sqrt(100 / 12) * 1e-6  # 95 % of a sum of 100 uniform errors of variance 1/12 us^2
    assert (many.value, many.ci_low, many.ci_high) == pytest.approx((53e-6, 52.9e-6 - half, 53.2e-6 + half))
    assert resolved(quantity, 1, 0) == quantity
    assert resolved(Quantity.unavailable("s", "no samples"), 1, 1000).status == "unavailable"


@pytest.mark.parametrize("true_us", [0.3, 1.0, 2.4, 2.5, 7.9, 40.2])
@pytest.mark.parametrize("jitter_us", [0.0, 0.3, 2.0])
def test_the_interval_of_a_rounded_time_holds_the_time(true_us: float, jitter_us: float) -> None:
    rng = np.random.default_rng(7)
    durations = true_us + np.abs(rng.normal(0, jitter_us, 400))
    told = resolved(estimate(np.floor(durations) * 1e-6, "s", "trimmed_mean"), 1, 1000)
    assert told.ci_low is not None
    assert told.ci_high is not None
    assert told.ci_low <= estimate(durations * 1e-6, "s", "trimmed_mean").require() <= told.ci_high


def test_only_clocks_that_round_down_are_corrected() -> None:
    layers = ("a", 0, 10), ("b", 10, 20)
    for clock, unit in (
        (None, 0),
        ({"resolution_ns": 1000}, 0),
        ({"resolution_ns": 1000, "rounding": "down"}, 1000),
        ({"synthetic": True}, 0),
    ):
        assert profiled(inference(0, 0, 100, *layers, clock=clock)).resolution_ns == unit


def test_rows_follow_the_shown_inference_with_times_over_all() -> None:
    runs = profiled(
        inference(0, 0, 100, ("a", 10, 30), ("a", 40, 10), ("b", 60, 20)),
        inference(1, 200, 100, ("a", 12, 34), ("a", 50, 14), ("b", 70, 22)),
    )
    rows = layer_rows(runs, UNKNOWN, 1, "trimmed_mean")
    assert [(row.index, row.name, row.start_ns, row.duration_ns, row.track) for row in rows] == [
        (0, "a", 12, 34, 0),
        (1, "a", 50, 14, 0),
        (2, "b", 70, 22, 0),
    ]
    assert [row.time.require() for row in rows] == pytest.approx([32e-9, 12e-9, 21e-9])
    assert [row.share for row in rows] == pytest.approx([32 / 65, 12 / 65, 21 / 65])
    assert sum(row.share or 0 for row in rows) == pytest.approx(1)


def test_a_layer_that_the_shown_inference_lacks_comes_last_without_a_place() -> None:
    runs = profiled(inference(0, 0, 100, ("then", 10, 30)), inference(1, 200, 100, ("else", 10, 40)))
    rows = layer_rows(runs, UNKNOWN, 1, "trimmed_mean")
    assert [(row.name, row.start_ns, row.duration_ns, row.time.n) for row in rows] == [
        ("else", 10, 40, 1),
        ("then", None, None, 1),
    ]


def test_tracks_are_numbered_from_the_models_own() -> None:
    runs = profiled(inference(0, 0, 100, ("a@55", 10, 30), ("b@44", 20, 30), ("c", 60, 10)))
    assert [row.track for row in layer_rows(runs, UNKNOWN, 0, "trimmed_mean")] == [1, 2, 0]


def test_what_is_not_known_says_why_and_is_not_zero() -> None:
    (row,) = layer_rows(profiled(inference(0, 0, 100, ("a", 10, 30))), UNKNOWN, 0, "trimmed_mean")
    for quantity in (row.flops, row.bytes, row.parameters):
        assert (quantity.status, quantity.value, quantity.reason) == ("unavailable", None, "nobody knows")
    assert row.allocated.status == "unavailable"
    assert (row.provider, row.output_shape, row.signature) == (None, None, None)


def relu(name: str, size: int, domain: str = "") -> Layer:
    tensors = [Tensor(f"{name}_{end}", "float32", (1, size), "activation", bytes=4 * size) for end in ("in", "out")]
    return Layer(0, name, "Relu", domain, {}, (tensors[0],), (tensors[1],))


def test_authored_layers_that_do_less_than_the_executed_one_are_not_taken_for_it() -> None:
    runs = profiled(inference(0, 0, 100, ("net", 10, 30), attributes=json.dumps({"op": "Relu"})))
    for size, authored, flops in ((100, ("first",), 100), (40, (), 80), (80, ("first",), 80)):
        first = relu("first", size)
        found = ExecutedLayer(relu("executed", 80), (first,), work_of(first), work_of(relu("executed", 80)))
        executed = ExecutedModel((ExecutedNode("net", "Relu", found),))
        (row,) = layer_rows(runs, executed, 0, "trimmed_mean")
        assert (row.authored, row.flops.value, row.bytes.value) == (authored, flops, 2 * 4 * 80)


def test_a_layer_without_authored_ones_has_its_own_work() -> None:
    runs = profiled(inference(0, 0, 100, ("net", 10, 30), attributes=json.dumps({"op": "Relu"})))
    found = ExecutedLayer(relu("made", 80), (), None, work_of(relu("made", 80)))
    (row,) = layer_rows(runs, ExecutedModel((ExecutedNode("net", "Relu", found),)), 0, "trimmed_mean")
    assert (row.authored, row.flops.value) == ((), 80)


def test_closest_to_median_is_an_inference_that_was_made() -> None:
    assert closest_to_median([9.0, 1.0, 4.0, 5.5]) == 2  # the median is 4.75
    assert closest_to_median([3.0]) == 0


def test_module_that_contains_others_counts_with_its_own_time() -> None:
    def row(span: int, parent: int | None, level: int, start: int, end: int, name: str) -> tuple[object, ...]:
        told = None if level == 20 else json.dumps({"op": name, "container": name == "block"})
        return (span, parent, level, "sync", name, 1, start, end, 0, 0, f"s{span}", told)

    rows = [
        row(0, None, 20, 0, 100, "net"),
        row(1, 0, 30, 10, 90, "block"),
        row(2, 1, 30, 20, 50, "conv"),
        row(3, 1, 30, 60, 85, "relu"),
    ]
    runs = ProfiledRuns.of(pl.DataFrame(rows, schema=SPAN_SCHEMA, orient="row"))
    assert dict(runs.layers.select("name", "duration_ns").iter_rows()) == {"block": 25, "conv": 30, "relu": 25}
    assert runs.sums_s().tolist() == pytest.approx([80e-9])
    assert runs.covered_s().tolist() == pytest.approx([80e-9])
    assert not runs.side_by_side
    assert runs.nested == 0
