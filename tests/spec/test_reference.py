"""Facts about reference logs: what counts as reproduced, which aspect and field differs, how far a metric is off."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratoscope.errors import SpecError
from stratoscope.spec.record import RunRecord
from stratoscope.spec.reference import (
    ReferenceLog,
    ReferenceMetric,
    Tolerance,
    Verdict,
    compare_to_reference,
    metrics_of,
    reference_from_record,
)
from stratoscope.spec.scenario import ScenarioManifest
from stratoscope.spec.yamlio import dump_yaml, load_document
from stratoscope.stats.quantity import Quantity

MakeRecord = Callable[..., RunRecord]
TEN_PERCENT = Tolerance(relative=0.1, direction="higher")


def measured(value: float, spread: float | None = None, statistic: str = "p90") -> Quantity:
    """Seconds with an interval of `spread` seconds either side."""
    interval: dict[str, Any] = {}
    if spread is not None:
        interval = {"ci_low": value - spread, "ci_high": value + spread, "confidence": 0.95}
    return Quantity(value=value, unit="s", statistic=statistic, n=100, **interval)


def with_p90(record: RunRecord, quantity: Quantity) -> RunRecord:
    assert record.load is not None
    load = record.load.model_copy(update={"latency": record.load.latency | {"p90": quantity}})
    return record.model_copy(update={"load": load})


def held(record: RunRecord, quantity: Quantity, tolerance: Tolerance = TEN_PERCENT) -> ReferenceLog:
    return reference_from_record(with_p90(record, quantity), {"latency.p90": tolerance})


def verdict_on(record: RunRecord, expected: Quantity, found: Quantity, tolerance: Tolerance = TEN_PERCENT) -> Verdict:
    return compare_to_reference(held(record, expected, tolerance), with_p90(record, found))


def test_a_record_reproduces_itself(make_record: MakeRecord):
    record = make_record()
    names = [name for name, quantity in metrics_of(record).items() if quantity.status == "ok"]
    reference = reference_from_record(record, {name: Tolerance(relative=0.0) for name in names})
    verdict = compare_to_reference(reference, record)
    assert verdict.reproduced
    assert verdict.reasons == ()
    assert all(aspect.same and not aspect.differences for aspect in verdict.aspects)
    assert {metric.outcome for metric in verdict.metrics} == {"within"}


def test_every_result_of_a_record_has_a_name(make_record: MakeRecord):
    names = set(metrics_of(make_record()))
    assert {
        "latency.p90",
        "latency.early_stopping_p90",
        "throughput",
        "cold_start.first_inference_s",
        "accuracy.top1",
        "sweep.8.throughput",
        "profile.model_time",
        "graph.flops",
    } <= names
    assert (
        metrics_of(make_record(load=None, sweep=None, accuracy=None, profile=None, cold_start=None, graph=None)) == {}
    )


@pytest.mark.parametrize(
    ("found", "outcome"),
    [(10.9, "within"), (11.0, "within"), (11.1, "outside"), (5.0, "within")],
)
def test_a_latency_may_fall_and_not_rise_beyond_the_tolerance(make_record: MakeRecord, found: float, outcome: str):
    (metric,) = verdict_on(make_record(), measured(10.0), measured(found)).metrics
    assert (metric.outcome, metric.low, metric.high) == (outcome, None, 11.0)
    assert metric.difference == pytest.approx(found - 10)
    assert metric.ratio == pytest.approx(found / 10)


@pytest.mark.parametrize(
    ("tolerance", "found", "outcome"),
    [
        (Tolerance(absolute=0.5, direction="lower"), 9.4, "outside"),
        (Tolerance(absolute=0.5, direction="lower"), 99.0, "within"),
        (Tolerance(absolute=0.5), 10.6, "outside"),
        (Tolerance(absolute=0.5), 9.4, "outside"),
        (Tolerance(absolute=0.5), 9.5, "within"),
        (Tolerance(relative=0.0), 10.0, "within"),
    ],
)
def test_directions_and_absolute_tolerances(make_record: MakeRecord, tolerance: Tolerance, found: float, outcome: str):
    (metric,) = verdict_on(make_record(), measured(10.0), measured(found), tolerance).metrics
    assert metric.outcome == outcome


def test_outside_with_an_interval_that_reaches_in_is_undecided_and_not_reproduced(make_record: MakeRecord):
    verdict = verdict_on(make_record(), measured(10.0), measured(11.5, 0.6))
    assert verdict.undecided == ("latency.p90",)
    assert not verdict.reproduced
    assert "+15.0% of the reference" in verdict.reasons[0]
    assert "measure longer" in verdict.reasons[0]


def test_the_references_own_interval_widens_the_band(make_record: MakeRecord):
    # The reference may truly be 10.5: then 11.55 is accepted, and 11.5 with no interval of its own lies in doubt.
    assert verdict_on(make_record(), measured(10.0, 0.5), measured(11.5)).undecided == ("latency.p90",)
    (metric,) = verdict_on(make_record(), measured(10.0, 0.5), measured(11.6)).metrics
    assert metric.outcome == "outside"


@given(
    st.floats(0.1, 100),
    st.floats(0, 10),
    st.floats(0.1, 100),
    st.floats(0, 10),
    st.floats(0, 1),
    st.sampled_from(["either", "higher", "lower"]),
)
def test_what_is_within_stays_within_when_the_tolerance_grows(
    records: ModuleType, value: float, spread: float, found: float, found_spread: float, share: float, direction: Any
):
    record = records.make_record()
    rank = {"outside": 0, "undecided": 1, "within": 2}
    expected, seen = measured(value, spread), measured(found, found_spread)
    outcomes = [
        rank[verdict_on(record, expected, seen, Tolerance(relative=tolerance, direction=direction)).metrics[0].outcome]
        for tolerance in (share, share * 1.5 + 0.01)
    ]
    assert outcomes == sorted(outcomes)


def test_a_reference_of_zero_has_a_difference_and_no_ratio(make_record: MakeRecord):
    (metric,) = verdict_on(make_record(), measured(0.0), measured(0.5), Tolerance(absolute=1.0)).metrics
    assert (metric.outcome, metric.difference, metric.ratio) == ("within", 0.5, None)
    assert "+0.5 s" in metric.reason


def test_missing_unjustified_and_incomparable_metrics_are_not_reproduced(make_record: MakeRecord):
    record = make_record()
    reference = held(record, measured(10.0))
    for found, why in (
        (make_record(load=None), "did not measure"),
        (with_p90(record, Quantity.unjustified("s", "3 samples", "p90", 3)), "unjustified: 3 samples"),
        (with_p90(record, measured(10.0, statistic="mean")), "mean in s, not p90 in s"),
    ):
        verdict = compare_to_reference(reference, found)
        assert not verdict.reproduced
        assert verdict.metrics[0].outcome == "missing"
        assert why in verdict.metrics[0].reason


def test_other_hardware_may_reproduce_and_the_fields_that_differ_are_named(make_record: MakeRecord):
    old = {
        "schema": "stratoscope/hardware/1",
        "cpu": {"model": "A", "isa": ["avx2"]},
        "hostname": "one",
        "state": {"load": 1},
    }
    new = {
        "schema": "stratoscope/hardware/1",
        "cpu": {"model": "B", "isa": ["avx2", "sve"]},
        "hostname": "two",
        "gpus": [{"name": "T4"}],
    }
    reference = held(make_record(hardware=old), measured(10.0))
    verdict = compare_to_reference(reference, with_p90(make_record(hardware=new), measured(10.0)))
    assert verdict.reproduced
    hardware = next(aspect for aspect in verdict.aspects if aspect.aspect == "hardware")
    assert not hardware.same
    found = {difference.path: (difference.expected, difference.found) for difference in hardware.differences}
    assert found == {"cpu.model": ("A", "B"), "cpu.isa": (["avx2"], ["avx2", "sve"]), "gpus[0].name": (None, "T4")}


def test_another_scenario_is_no_rerun_and_its_field_is_named(make_record: MakeRecord):
    reference = held(make_record(), measured(10.0))
    other = with_p90(make_record(scenario=ScenarioManifest(batch_size=4)), measured(10.0))
    verdict = compare_to_reference(reference, other)
    assert not verdict.reproduced
    assert verdict.reasons == ("another scenario was measured",)
    (scenario,) = [aspect for aspect in verdict.aspects if not aspect.same]
    assert [(d.path, d.expected, d.found) for d in scenario.differences] == [("batch_size", 1, 4)]


def test_a_log_of_an_older_version_matches_by_its_content(make_record: MakeRecord):
    record = make_record()
    reference = held(record, measured(10.0))
    aged = reference.model_copy(update={"digests": reference.digests.model_copy(update={"model": "sha256:of-before"})})
    assert compare_to_reference(aged, with_p90(record, measured(10.0))).reproduced


def test_an_interrupted_or_invalid_rerun_reproduces_nothing(make_record: MakeRecord):
    record = with_p90(make_record(), measured(10.0))
    reference = held(record, measured(10.0))
    interrupted = record.model_copy(update={"status": "interrupted"})
    assert compare_to_reference(reference, interrupted).reasons == ("the run is interrupted",)
    assert record.load is not None
    validity = record.load.validity.model_copy(update={"valid": False, "reasons": ("too few queries",)})
    invalid = record.model_copy(update={"load": record.load.model_copy(update={"validity": validity})})
    assert compare_to_reference(reference, invalid).reasons == ("the run is not valid: too few queries",)
    with pytest.raises(SpecError, match="too few queries"):
        reference_from_record(invalid, {"latency.p90": TEN_PERCENT})
    with pytest.raises(SpecError, match="is interrupted"):
        reference_from_record(interrupted, {"latency.p90": TEN_PERCENT})


def test_expected_outputs_are_compared_where_the_log_has_them(make_record: MakeRecord):
    record, digest = make_record(), "a" * 64
    reference = reference_from_record(record, {"latency.p90": TEN_PERCENT}, outputs_sha256=digest)
    assert compare_to_reference(reference, record, outputs_sha256=f"sha256:{digest}").reproduced
    assert "differ" in compare_to_reference(reference, record, outputs_sha256="b" * 64).reasons[0]
    assert "not compared" in compare_to_reference(reference, record).reasons[0]


def test_a_metric_that_the_record_lacks_cannot_be_promised(make_record: MakeRecord):
    with pytest.raises(SpecError, match=r"latency\.p99\.9") as caught:
        reference_from_record(make_record(), {"latency.p99.9": TEN_PERCENT})
    assert "latency.p90" in str(caught.value.hint)
    with pytest.raises(SpecError, match="no metric"):
        reference_from_record(make_record(), {})


def test_a_log_promises_something_that_has_a_value(make_record: MakeRecord):
    reference = held(make_record(), measured(10.0))
    with pytest.raises(ValueError, match="at least one metric"):
        ReferenceLog.model_validate(reference.model_dump() | {"metrics": {}})
    nothing = ReferenceMetric(quantity=Quantity.unavailable("s", "not told"), tolerance=TEN_PERCENT)
    with pytest.raises(ValueError, match=r"cannot be held: latency\.p90"):
        ReferenceLog.model_validate(reference.model_dump() | {"metrics": {"latency.p90": nothing}})


def test_a_tolerance_is_of_one_kind():
    for values in ({}, {"relative": 0.1, "absolute": 1.0}):
        with pytest.raises(ValueError, match="either relative or absolute"):
            Tolerance(**values)


def test_a_reference_log_survives_yaml(make_record: MakeRecord):
    reference = held(make_record(), measured(10.0, 0.25))
    assert load_document(dump_yaml(reference)) == reference
