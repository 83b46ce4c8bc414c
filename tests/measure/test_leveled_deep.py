"""Leveled profiling below the layer, on a back end whose times and overheads are known to the nanosecond."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from stratoscope.backends.base import BackendOptions, Capabilities, Feeds, SpanMix
from stratoscope.backends.null import NullBackend, NullSession
from stratoscope.errors import MeasurementError
from stratoscope.measure.leveled_deep import DeepProfile, profile_levels
from stratoscope.measure.leveled_plan import plan_levels
from stratoscope.measure.leveled_serialised import with_serialised_parents
from stratoscope.spec.model import LoadableModel, ModelManifest
from stratoscope.trace.check import check_conservation
from stratoscope.trace.correlate import AMBIGUOUS, assign_sites
from stratoscope.trace.levels import Level
from stratoscope.trace.spans import SPAN_SCHEMA

US = 1_000
#: (level, parent, name, start, end) of one inference in microseconds, and what each deeper level adds to each span.
TREE: tuple[tuple[Level, int | None, str, int, int, dict[str, Any]], ...] = (
    (Level.MODEL, None, "net", 0, 1000, {}),
    (Level.LAYER, 0, "conv", 0, 700, {"op": "Conv", "container": False}),
    (Level.LAYER, 0, "relu", 700, 900, {"op": "Relu", "container": False}),
    (Level.OPERATOR, 1, "aten::conv2d", 100, 700, {"shapes": [[1, 3], [3]]}),
    (Level.OPERATOR, 3, "aten::mkldnn_convolution", 110, 690, {}),
    (Level.OPERATOR, 2, "aten::relu", 710, 890, {}),
    (Level.LIBRARY, 4, "reorder", 120, 220, {"library": "onednn", "kind": "weight reorder", "problem": "8x3"}),
    (Level.LIBRARY, 4, "convolution", 230, 600, {"library": "onednn", "kind": "compute", "implementation": "jit"}),
    (Level.LIBRARY, 4, "reorder", 610, 660, {"library": "onednn", "kind": "layout reorder"}),
)
#: Microseconds that tracing down to a level adds at the end of the model.
COST = {Level.LAYER: 20, Level.OPERATOR: 100, Level.LIBRARY: 300}


@dataclass
class KnownTrace(NullSession):
    """Leaves TREE down to `deepest` for each call, the model longer by what that costs."""

    model: LoadableModel
    options: BackendOptions
    deepest: Level
    starts: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(self.model, self.options)

    def bind(self, feeds: Feeds) -> Callable[[], list[np.ndarray]]:
        call = super().bind(feeds)

        def traced() -> list[np.ndarray]:
            self.starts.append(time.perf_counter_ns())
            return call()

        return traced

    def finish(self) -> pl.DataFrame:
        rows = []
        for run, start in enumerate(self.starts):
            first = len(rows)
            for level, parent, name, begin, end, told in TREE:
                if level > self.deepest:
                    continue
                end += COST[self.deepest] if level == Level.MODEL else 0
                rows.append(
                    (
                        *(len(rows), None if parent is None else first + parent, level.value, "sync", name, 1),
                        *(start + begin * US, start + end * US, 0, run, None, json.dumps(told)),
                    )
                )
        return assign_sites(pl.DataFrame(rows, schema=SPAN_SCHEMA, orient="row"))


class KnownBackend(NullBackend):
    """Every inference takes a millisecond; levels down to LIBRARY, of which `without` are missing."""

    name = "known"

    def __init__(self, *without: Level) -> None:
        self.without = without

    def trace_levels(self, options: BackendOptions) -> Mapping[Level, str | None]:
        return {level: "not here" if level in self.without or level > Level.LIBRARY else None for level in Level}

    def open_trace(self, model: LoadableModel, options: BackendOptions, level: Level = Level.LAYER) -> KnownTrace:
        return KnownTrace(model, options, level)

    def span_cost_samples(self, options: BackendOptions, level: Level, mix: SpanMix) -> list[float] | None:
        assert mix == SpanMix(2, 3 if level > Level.LAYER else 0, 0)
        spans = {Level.LAYER: 2, Level.OPERATOR: 5}
        return [COST[level] * US * 1e-9 / spans[level]] * 5 if level in spans else None


MODEL = LoadableModel(ModelManifest(id="net"), Path("unused"))
MILLISECOND = BackendOptions(null_latency_s=0.001)


def profiled(level: Level = Level.LIBRARY, *without: Level) -> DeepProfile:
    backend = KnownBackend(*without)
    plan = plan_levels(backend, MILLISECOND, level)
    return profile_levels(backend, MODEL, MILLISECOND, {}, plan, repeats=6, blocks=6)


@pytest.fixture(scope="module")
def deep() -> DeepProfile:
    return profiled()


def test_times_of_layers_operators_and_primitives_are_those_of_their_spans(deep: DeepProfile) -> None:
    section = deep.section
    assert [(row.name, round(row.time.require() * 1e6)) for row in section.layers] == [("conv", 700), ("relu", 200)]
    assert [
        (row.name, row.layer, row.depth, round(row.time.require() * 1e6), round(row.self_time.require() * 1e6))
        for row in section.operators
    ] == [
        ("aten::conv2d", "conv", 0, 600, 20),
        ("aten::mkldnn_convolution", "conv", 1, 580, 580),
        ("aten::relu", "relu", 0, 180, 180),
    ]
    assert [(row.kind, row.operator, row.layer, round(row.time.require() * 1e6)) for row in section.primitives] == [
        ("weight reorder", "aten::mkldnn_convolution", "conv", 100),
        ("compute", "aten::mkldnn_convolution", "conv", 370),
        ("layout reorder", "aten::mkldnn_convolution", "conv", 50),
    ]
    assert section.operators[0].shapes == "1x3, 3"
    assert section.primitives[1].parent == section.operators[1].site


def test_reorders_of_weights_are_told_apart_with_their_share(deep: DeepProfile) -> None:
    reorders = deep.section.reorders
    assert reorders is not None
    assert reorders.weights.require() == pytest.approx(100e-6)
    assert reorders.weights_share == pytest.approx(100 / 1300)  # of the model's time with primitives traced
    assert (reorders.weights_count, reorders.activations_count) == (1, 1)


def test_model_time_of_each_level_holds_what_its_tracing_adds(deep: DeepProfile) -> None:
    levels = {one.level: one for one in deep.section.levels}
    assert list(levels) == ["layer", "operator", "library"]
    for level, cost in COST.items():
        assert levels[level.name.lower()].model_time.require() == pytest.approx((1000 + cost) * 1e-6)
    assert levels["operator"].added.require() == pytest.approx(80e-6)
    assert levels["library"].added.require() == pytest.approx(200e-6)
    assert [one.spans for one in levels.values()] == [2, 5, 8]


def test_latency_is_put_together_from_profiled_runs_and_the_cost_of_their_spans(deep: DeepProfile) -> None:
    found = {one.level: one for one in deep.section.reconstructions}
    assert set(found) == {"layer", "operator"}
    for one in found.values():
        assert one.time.require() == pytest.approx(1000e-6)
        assert one.difference is not None  # in pairs by the clock: tests/measure/test_reconstruction.py has its rules


def test_all_checks_hold_and_each_names_its_level(deep: DeepProfile) -> None:
    assert all(deep.section.checks.values()), deep.section.checks
    assert "same_layers_at_library_level" in deep.section.checks
    assert "every_span_placed_at_operator_level" in deep.section.checks


def test_layers_and_gap_make_the_model(deep: DeepProfile) -> None:
    section = deep.section
    whole = section.layers_sum.require() + section.gap.require()
    assert whole == pytest.approx(section.profiled_model_time.require())


def test_spans_of_all_levels_come_in_one_table_that_tells_how_deep_each_run_went(deep: DeepProfile) -> None:
    models = deep.spans.filter(pl.col("level") == Level.MODEL.value)
    deepest = models["attributes"].str.json_path_match("$.deepest").cast(pl.Int64)
    assert sorted(set(deepest)) == [20, 30, 40, 50]
    assert models["run"].is_unique().all()
    assert deep.spans["span"].is_unique().all()
    for level in (30, 40, 50):
        runs = models.filter(deepest == level)["run"]
        assert deep.spans.filter(pl.col("run").is_in(runs.implode()))["level"].max() == level
        assert all(check_conservation(deep.spans.filter(pl.col("run").is_in(runs.implode()))).holds.values())


def test_level_that_is_missing_is_named_and_the_others_are_measured() -> None:
    deep = profiled(Level.LIBRARY, Level.LIBRARY)
    assert [(item.what, item.why) for item in deep.missing] == [("library level", "not here")]
    assert deep.section.operators
    assert not deep.section.primitives
    assert deep.section.reorders is None


def test_without_layers_operators_are_still_profiled() -> None:
    deep = profiled(Level.OPERATOR, Level.LAYER)
    assert not deep.section.layers
    assert deep.section.layers_sum.status == "unavailable"
    assert len(deep.section.operators) == 3


def test_back_end_that_traces_layers_only_gives_layers_and_names_the_rest() -> None:
    plan = plan_levels(NullBackend(), MILLISECOND, Level.LIBRARY)
    assert plan.levels == (Level.LAYER,)
    assert [item.what for item in plan.missing] == ["operator level", "library level"]
    section = profile_levels(NullBackend(), MODEL, MILLISECOND, {}, plan, repeats=3, blocks=3).section
    assert len(section.layers) == 4
    assert not section.operators


def test_back_end_without_any_level_below_the_model_is_refused() -> None:
    with pytest.raises(MeasurementError, match="nothing below the model: layer level: not here"):
        plan_levels(KnownBackend(*Level), MILLISECOND, Level.LAYER)

    class Deaf:
        name = "deaf"

        def capabilities(self) -> Capabilities:
            return Capabilities(available=True, reason=None, version="1")

    with pytest.raises(MeasurementError, match="'deaf' cannot trace"):
        plan_levels(Deaf(), MILLISECOND, Level.LAYER)  # type: ignore[arg-type]


def side_by_side(parallel: bool) -> pl.DataFrame:
    """Two layers and a primitive of each; in parallel both layers enclose both primitives."""
    layers = [(1, "a", 0, 100), (2, "b", 0, 100)] if parallel else [(1, "a", 0, 100), (2, "b", 100, 200)]
    flag = json.dumps({"flagged": AMBIGUOUS}) if parallel else None
    rows = [(0, None, 20, "net", 0, 0, 300, None)]
    rows += [(span, 0, 30, name, span, start, end, None) for span, name, start, end in layers]
    rows += [
        (3, 0 if parallel else 1, 50, "gemm", 9, 10, 20, flag),
        (4, 0 if parallel else 2, 50, "gemm", 9, 110, 120, flag),
    ]
    frame = pl.DataFrame(
        rows,
        schema={
            k: SPAN_SCHEMA[k] for k in ("span", "parent", "level", "name", "track", "start_ns", "end_ns", "attributes")
        },
        orient="row",
    ).with_columns(
        kind=pl.lit("sync").cast(SPAN_SCHEMA["kind"]),
        correlation=pl.lit(0, dtype=pl.Int64),
        run=pl.lit(0, dtype=pl.Int32),
        site=pl.lit(None, dtype=pl.String),
    )
    return assign_sites(frame.select(list(SPAN_SCHEMA)))


def test_ambiguous_parents_come_from_the_serialised_run_and_times_stay() -> None:
    spans = side_by_side(parallel=True)
    placed, left = with_serialised_parents(spans, lambda: side_by_side(parallel=False))
    assert left == 0
    assert placed["parent"].to_list() == [None, 0, 0, 1, 2]
    assert placed["site"].to_list()[3:] == ["20:net#0|30:a#0|50:gemm#0", "20:net#0|30:b#0|50:gemm#0"]
    assert placed["attributes"].null_count() == 5
    assert placed.select("start_ns", "end_ns").equals(spans.select("start_ns", "end_ns"))


def test_span_that_the_serialised_run_lacks_stays_ambiguous_and_is_counted() -> None:
    serial = side_by_side(parallel=False).filter(pl.col("span") != 4)
    placed, left = with_serialised_parents(side_by_side(parallel=True), lambda: serial)
    assert left == 1
    assert "flagged" in str(placed["attributes"][4])


def test_clear_trace_needs_no_serialised_run() -> None:
    spans = side_by_side(parallel=False)
    placed, left = with_serialised_parents(spans, lambda: pytest.fail("not needed"))
    assert placed is spans
    assert left == 0
