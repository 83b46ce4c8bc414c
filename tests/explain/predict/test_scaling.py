"""Moving times between machines: the identity, hand-computed ratios, exponents that are found again."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratoscope.errors import MeasurementError
from stratoscope.explain.compose.estimate import Placed
from stratoscope.explain.predict.layers import LayerPredictor, Roof
from stratoscope.explain.predict.model import pairs_of, predict_model
from stratoscope.explain.predict.scaling import (
    Exponents,
    Fit,
    Load,
    Resources,
    fit_exponents,
    fitted_scaling,
    memory_share,
    resources_of,
    scaled,
)
from stratoscope.host.roofs import Roofs
from stratoscope.spec.machine import MachineRecord
from stratoscope.spec.performance import Candidate, Environment, Part, PartMeasurement, Protocol
from stratoscope.stats.quantity import Quantity

HERE = Resources(100e9, ((1e6, 200e9), (math.inf, 20e9)), "here")
THERE = Resources(400e9, ((1e6, 200e9), (math.inf, 80e9)), "there")
COMPUTE = Load(flops=1e12, moved_bytes=1.0)
MEMORY = Load(flops=0.0, moved_bytes=1e9)
loads = st.builds(Load, st.floats(0, 1e12), st.floats(1, 1e10))


@given(load=loads, seconds=st.floats(1e-6, 10))
def test_a_time_moved_to_the_same_machine_is_the_same(load: Load, seconds: float) -> None:
    assert scaled(seconds, load, HERE, HERE) == pytest.approx(seconds)


@given(load=loads, seconds=st.floats(1e-6, 10))
def test_a_time_lies_between_the_ratios_of_the_roofs_and_comes_back(load: Load, seconds: float) -> None:
    moved = scaled(seconds, load, HERE, THERE)
    assert seconds / 4 * 0.999 <= moved <= seconds * 1.001


def test_pure_loads_scale_by_their_own_roof_and_level() -> None:
    assert memory_share(COMPUTE, HERE) == pytest.approx(0.0, abs=1e-6)
    assert memory_share(MEMORY, HERE) == 1.0
    assert scaled(8.0, COMPUTE, HERE, THERE) == pytest.approx(2.0)
    assert scaled(8.0, MEMORY, HERE, THERE) == pytest.approx(2.0)
    assert scaled(8.0, Load(0.0, 1e5), HERE, THERE) == pytest.approx(8.0)  # the level that holds it is as fast there
    assert scaled(8.0, COMPUTE, HERE, THERE, Exponents(0.5, 1.0)) == pytest.approx(4.0)


def test_exponents_are_found_again() -> None:
    truth = Exponents(0.6, 0.9)
    mixed = [Load(10.0**power, 1e9) for power in range(6, 13)]
    pairs = [(1.0, scaled(1.0, load, HERE, THERE, truth), load) for load in mixed]
    found = fit_exponents(pairs, HERE, THERE, ridge=1e-9)
    assert (found.compute, found.memory) == (pytest.approx(0.6, abs=1e-3), pytest.approx(0.9, abs=1e-3))


def test_an_exponent_that_nothing_tells_stays_whole() -> None:
    same_memory = Resources(400e9, HERE.bandwidths)
    pairs = [(1.0, 0.5, COMPUTE), (1.0, 1.0, MEMORY)]
    found = fit_exponents(pairs, HERE, same_memory)
    assert found.memory == pytest.approx(1.0)
    assert found.compute < 1.0
    with pytest.raises(MeasurementError, match="no part"):
        fit_exponents([], HERE, THERE)


def test_a_fit_says_its_error_on_parts_left_out_and_that_of_plain_scaling() -> None:
    truth = Exponents(0.5, 1.0)
    mixed = [Load(10.0 ** (8 + number / 4), 1e8) for number in range(16)]
    pairs = [(1.0, scaled(1.0, load, HERE, THERE, truth), load) for load in mixed]
    assert fitted_scaling(pairs[:7], HERE, THERE) is None  # too few
    found = fitted_scaling(pairs, HERE, THERE)
    assert found is not None
    assert found.pairs == 16
    assert found.exponents.compute == pytest.approx(0.5, abs=0.1)
    assert found.plain_error == pytest.approx(1.0, abs=0.2)  # 4 ** 0.5 where compute decides, which it does not quite
    assert found.error < found.plain_error / 4


def test_parts_measured_on_both_machines_are_paired_by_content() -> None:
    parts = [_part("b", 10**9, 10**6), _part("a", 10**8, 10**6), _part("only-here", 1, 1)]
    failed = _measured(_part("c", 1, 1), 1.0).model_copy(update={"status": "failed", "reason": "no"})
    here = [*(_measured(part, 1.0) for part in parts), _measured(_part("c", 1, 1), 1.0)]
    there = [_measured(parts[0], 2.0), _measured(parts[1], 3.0), failed]
    assert pairs_of(here, there) == [(1.0, 3.0, Load(1e8, 1e6)), (1.0, 2.0, Load(1e9, 1e6))]


def test_resources_come_from_a_machine_record_and_what_is_missing_is_said(machines: ModuleType) -> None:
    machine_record: MachineRecord = machines.make_machine()
    found = resources_of(Roofs(machine_record))
    assert found.flops_per_s > 0
    sizes = [size for size, _ in found.bandwidths]
    assert sizes == sorted(sizes)
    assert sizes[-1] == math.inf
    bare = machine_record.model_copy(update={"measurements": ()})
    with pytest.raises(MeasurementError, match="no peak"):
        resources_of(Roofs(bare))


def _part(slug: str, flops: int, moved: int, operator: str = "Conv") -> Part:
    return Part(
        digest=slug, kind="brick", slug=slug, operators=(operator,), flops=flops, flops_valid=flops, bytes=moved,
        parameter_bytes=moved // 4,
    )  # fmt: skip


def _measured(part: Part, seconds: float) -> PartMeasurement:
    return PartMeasurement(
        part=part,
        candidate=Candidate(library="onnxruntime", implementation="graph=off", version="1"),
        environment=Environment(),
        protocol=Protocol(cache="sequence"),
        status="ok",
        samples_s=(seconds,) * 8,
        started_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def test_a_model_moves_brick_by_brick_and_its_interval_has_the_known_error() -> None:
    compute, memory = _part("a", 10**12, 1), _part("b", 0, 10**9)
    times = {"a": _measured(compute, 4.0), "b": _measured(memory, 8.0)}
    places = [Placed("a", "a", 1, 1.0), Placed("b", "b", 1, 1.0), Placed("a", "a", 1, 1.0)]
    latency = Quantity(value=16.0, unit="s", statistic="sum of p25")
    wide = Resources(400e9, ((math.inf, 20e9),), "there")
    found = predict_model("m", places, times, latency, 1.0, HERE, wide, error=0.25)
    assert found.there.value == pytest.approx(1.0 + 1.0 + 8.0)
    assert found.speedup == pytest.approx(1.6)
    assert found.memory_share == pytest.approx(0.5, abs=1e-6)
    assert (found.there.ci_low, found.there.ci_high) == (pytest.approx(8.0), pytest.approx(12.5))
    assert predict_model("m", places, times, latency, 1.0, HERE, wide).there.ci_low is None
    assert (found.exponents, found.fitted_on, found.plain_error) == ((1.0, 1.0), 0, None)
    fitted = predict_model("m", places, times, latency, 1.0, HERE, wide, fit=Fit(Exponents(0.5, 1.0), 9, 0.1, 0.7))
    assert fitted.there.value == pytest.approx(2.0 + 2.0 + 8.0)
    assert (fitted.exponents, fitted.fitted_on, fitted.error, fitted.plain_error) == ((0.5, 1.0), 9, 0.1, 0.7)
    with pytest.raises(MeasurementError, match="no brick of m"):
        predict_model("m", places, {}, latency, 1.0, HERE, wide)


def test_layers_are_predicted_from_near_ones_and_a_constant_efficiency_is_found() -> None:
    roof = Roof(100e9, 20e9, 0.0)
    parts = [_part(f"conv_3x3s1p1_{size}", size * 10**6, size * 10**3) for size in range(10, 200, 10)]
    predictor = LayerPredictor([(part, roof.seconds(part) / 0.7) for part in parts], roof)
    unseen = _part("conv_3x3s1p1_105", 105 * 10**6, 105 * 10**3)
    assert predictor.predict(unseen).seconds == pytest.approx(roof.seconds(unseen) / 0.7, rel=1e-6)


def test_other_operators_do_not_decide_where_the_same_one_is_known() -> None:
    roof = Roof(100e9, 20e9, 0.0)
    good, bad = _part("relu_a", 10**6, 10**6, "Relu"), _part("lrn_a", 10**6, 10**6, "LRN")
    predictor = LayerPredictor([(good, 1e-4), (bad, 5e-3)], roof)
    assert predictor.predict(_part("relu_b", 10**6, 10**6, "Relu")).seconds == pytest.approx(1e-4, rel=0.1)
    assert predictor.predict(_part("lrn_b", 10**6, 10**6, "LRN")).seconds == pytest.approx(5e-3, rel=0.1)


def test_nothing_is_predicted_from_nothing() -> None:
    with pytest.raises(MeasurementError, match="no layer"):
        LayerPredictor([], Roof(1.0, 1.0))
    known = LayerPredictor([(_part("a", 1, 1), 1.0)], Roof(1.0, 1.0))
    with pytest.raises(MeasurementError, match="work of b is not known"):
        known.predict(Part(digest="b", kind="layer", slug="b", operators=("Custom",)))
