"""Requests of a load with their layers: matched by order, on one clock, and what was slow in the slow one."""

from __future__ import annotations

import polars as pl
import pytest

from stratoscope.backends.null import NullBackend
from stratoscope.backends.onnxruntime import OnnxRuntimeBackend
from stratoscope.errors import MeasurementError
from stratoscope.explain.analyses.leveled_trace import LeveledTrace
from stratoscope.explain.analyses.registry import analyse
from stratoscope.explain.analyses.result import AnalysisResult
from stratoscope.host.noise import ThreadNoise
from stratoscope.measure.leveled_load import QUEUED, REQUEST, TRACED_NOTE, request_spans, run_traced_load, with_waits
from stratoscope.models.resolve import resolve
from stratoscope.spec.options import BackendOptions
from stratoscope.spec.scenario import ScenarioKind, ScenarioManifest
from stratoscope.trace.correlate import assign_sites
from stratoscope.trace.levels import Level
from stratoscope.trace.spans import SPAN_SCHEMA

SHIFT = 1_000_000  # what the trace's clock is ahead of the load's


def _spans(calls: list[tuple[int, list[int]]]) -> pl.DataFrame:
    """Inferences that start at a time and consist of layers a, b, ... of these durations."""
    rows = []
    for run, (start, layers) in enumerate(calls):
        number = 10 * run
        rows.append((number, None, 20, "sync", "m", 1, start, start + sum(layers), 0, run, None, None))
        for place, length in enumerate(layers):
            begin = start + sum(layers[:place])
            rows.append(
                (number + 1 + place, number, 30, "sync", "abc"[place], 1, begin, begin + length, 0, run, None, None)
            )
    return assign_sites(pl.DataFrame(rows, schema=dict(SPAN_SCHEMA), orient="row"))


def _samples(rows: list[tuple[int, int, int, int]]) -> pl.DataFrame:
    names = ("query", "scheduled_ns", "issued_ns", "completed_ns")
    return pl.DataFrame(rows, schema=dict.fromkeys(names, pl.Int64), orient="row").with_columns(sample=pl.lit(0))


def _tail(spans: pl.DataFrame, samples: pl.DataFrame) -> AnalysisResult:
    result = analyse("tail", LeveledTrace.of(spans, requests=samples))
    assert isinstance(result, AnalysisResult)
    return result


def test_requests_hold_their_inference_and_the_warm_up_is_left_out() -> None:
    calls = [(SHIFT - 500, [10, 10]), (SHIFT + 100, [10, 20]), (SHIFT + 210, [10, 30])]
    found = request_spans(_spans(calls), _samples([(0, 90, 100, 140), (1, 150, 205, 255)]))
    outer = found.filter(pl.col("name") == REQUEST).sort("run")
    assert outer.select("run", "start_ns", "end_ns").rows() == [
        (0, SHIFT + 90, SHIFT + 140),
        (1, SHIFT + 150, SHIFT + 255),
    ]
    waits = found.filter(pl.col("name") == QUEUED).sort("run")
    assert (waits["end_ns"] - waits["start_ns"]).to_list() == [10, 60]  # until its inference began
    models = found.filter(pl.col("level") == Level.MODEL).sort("run")
    assert models["parent"].to_list() == outer["span"].to_list()
    layers = found.filter(pl.col("level") == Level.LAYER)
    assert layers.height == 4
    assert layers["site"].n_unique() == 2
    assert layers["site"].str.starts_with("10:request#0|20:m#0|30:").all()


def test_the_layer_that_made_a_request_slow_is_its_cause_and_the_parts_add_up() -> None:
    calls = [(SHIFT + 1000 * n, [100, 900 if n == 7 else 200]) for n in range(10)]
    samples = _samples([(n, 1000 * n, 1000 * n, 1000 * n + (1000 if n == 7 else 300)) for n in range(10)])
    result = _tail(request_spans(_spans(calls), samples), samples)
    assert result.facts["request"] == 7
    assert result.facts["cause"] == "layer b"
    parts = {row["component"]: row["excess_s"] for row in result.frame.to_dicts()}
    assert parts["layer b"] == pytest.approx(700e-9)
    inside = sum(row["excess_s"] for row in result.frame.to_dicts() if row["part_of"] == "service")
    assert inside == pytest.approx(parts["service"])


def test_a_request_that_waited_behind_another_was_queued_though_it_had_been_sent() -> None:
    starts = [1000 * n for n in range(9)] + [8000 + 300]
    calls = [(SHIFT + start, [100, 200]) for start in starts]
    rows = [(n, 1000 * n, 1000 * n, 1000 * n + 300) for n in range(9)] + [(9, 8010, 8010, 8600)]
    result = _tail(request_spans(_spans(calls), _samples(rows)), _samples(rows))
    assert result.facts["request"] == 9
    assert result.facts["cause"] == "queueing"


def test_a_request_whose_inference_waited_for_a_cpu_was_slow_for_that() -> None:
    # The inferences are told in the order of their calls, of which the first two were the warm-up.
    calls = [(SHIFT - 900, [10, 10]), (SHIFT - 500, [10, 10])]
    calls += [(SHIFT + 1000 * n, [100, 900 if n == 7 else 200]) for n in range(10)]
    samples = _samples([(n, 1000 * n, 1000 * n, 1000 * n + (1000 if n == 7 else 300)) for n in range(10)])
    spans = _spans(calls)
    waits = [5000, 5000, *(680 if n == 7 else 0 for n in range(10))]
    watched = with_waits(samples, spans, waits)
    assert watched["run_queue_wait_ns"].to_list() == waits[2:]
    result = _tail(request_spans(spans, watched), watched)
    assert result.facts["cause"] == "run-queue wait"
    assert not any("run-queue wait was not recorded" in note for note in result.notes)


def test_requests_stay_as_they_are_where_a_wait_is_not_known() -> None:
    spans = _spans([(SHIFT, [100, 200]), (SHIFT + 400, [100, 200])])
    samples = _samples([(0, 0, 0, 300), (1, 400, 400, 700)])
    assert with_waits(samples, spans, [0, None]).columns == samples.columns
    assert with_waits(samples, spans, [0]).columns == samples.columns


def test_what_does_not_fit_is_refused() -> None:
    spans = _spans([(SHIFT, [100, 200])])
    with pytest.raises(MeasurementError, match="do not fit"):
        request_spans(spans, _samples([(0, 0, 0, 250)]))
    with pytest.raises(MeasurementError, match="1 inferences for 2 requests"):
        request_spans(spans, _samples([(0, 0, 0, 300), (1, 300, 300, 600)]))
    with pytest.raises(MeasurementError, match="several inferences"):
        request_spans(spans, _samples([(0, 0, 0, 300), (0, 0, 0, 300)]))


@pytest.mark.parametrize("kind", [ScenarioKind.OFFLINE, ScenarioKind.MULTI_STREAM])
def test_scenarios_whose_queries_hold_several_are_refused_before_they_run(kind: ScenarioKind) -> None:
    with pytest.raises(MeasurementError, match="cannot be traced"):
        run_traced_load(OnnxRuntimeBackend(), resolve("digits"), BackendOptions(), ScenarioManifest(kind=kind))


def test_load_on_a_back_end_without_layers_says_so() -> None:
    scenario = ScenarioManifest(min_duration_s=0.1, min_queries=20, warmup_s=0.02)
    result, _ = run_traced_load(NullBackend(), resolve("digits"), BackendOptions(), scenario)
    assert any("back end null has no layers" in note for note in result.section.notes)


@pytest.mark.parametrize("kind", [ScenarioKind.SINGLE_STREAM, ScenarioKind.CONSTANT_RATE])
def test_every_request_of_a_real_load_has_all_its_layers(kind: ScenarioKind) -> None:
    rate = {"target_qps": 200.0} if kind is ScenarioKind.CONSTANT_RATE else {}
    scenario = ScenarioManifest(kind=kind, min_duration_s=0.2, min_queries=20, warmup_s=0.05, **rate)
    result, spans = run_traced_load(OnnxRuntimeBackend(), resolve("digits"), BackendOptions(), scenario)
    assert TRACED_NOTE in result.section.notes
    assert not any("has no layers" in note for note in result.section.notes)
    assert sorted(spans["run"].unique()) == sorted(result.samples["query"].unique())
    layers = spans.filter(pl.col("level") == Level.LAYER).group_by("run").len()
    assert layers.height == result.samples["query"].n_unique()
    with ThreadNoise() as noise:
        counted = noise.snapshot().wait_ns is not None
    assert ("run_queue_wait_ns" in result.samples.columns) is counted
    assert layers["len"].n_unique() == 1
    assert _tail(spans, result.samples).facts["cause"] is not None
