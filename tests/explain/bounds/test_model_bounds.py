"""The defects of Benanza's artefact and the known pitfalls, each as a fact about our bounds."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from stratoscope.explain.bounds.calls import best_calls
from stratoscope.explain.bounds.layers import PlacedLayer
from stratoscope.explain.bounds.model import ModelBounds, model_bounds
from stratoscope.explain.bounds.roofline import FREE, Level, Machine, roofline
from stratoscope.graph.ir import Layer
from stratoscope.graph.onnx_reader import read_graph
from stratoscope.graph.signature import signature
from stratoscope.graph.work import work_of
from stratoscope.measure.parts.parts import part_of
from stratoscope.spec.performance import Candidate, Environment, PartMeasurement, Protocol
from stratoscope.spec.record import LayerRow, NoiseRecord, ProfileSection
from stratoscope.stats.quantity import Quantity

GIGA = 1e9
MACHINE = Machine(
    {"float32": 100 * GIGA},
    (Level("L2", 1e6, 200 * GIGA), Level("memory", None, 20 * GIGA)),
    "test",
)
ENVIRONMENT = Environment(cpu="test")


def branches() -> ModelProto:
    """x -> Conv a -> Concat <- Conv b <- x, then Reshape: two branches, and a view."""
    rng = np.random.default_rng(0)
    weights = numpy_helper.from_array(rng.standard_normal((8, 4, 3, 3)).astype(np.float32), "w")
    other = numpy_helper.from_array(rng.standard_normal((4, 4, 1, 1)).astype(np.float32), "v")
    shape = numpy_helper.from_array(np.array([1, -1], np.int64), "shape")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1], name="a"),
        helper.make_node("Conv", ["x", "v"], ["b"], name="b"),
        helper.make_node("Concat", ["a", "b"], ["c"], axis=1, name="c"),
        helper.make_node("Reshape", ["c", "shape"], ["y"], name="r"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 14, 14])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [weights, other, shape],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def seconds(value: float) -> Quantity:
    return Quantity(value=value, unit="s", statistic="median", n=9, ci_low=value * 0.99, ci_high=value * 1.01)


def row(layer: Layer, time: float) -> LayerRow:
    none = Quantity.unavailable("byte", "not asked for")
    return LayerRow(
        index=layer.index, name=layer.name, op=layer.op, authored=(layer.name,), time=seconds(time),
        flops=none, bytes=none, parameters=none, allocated=none, signature=signature(layer),
    )  # fmt: skip


def profile(layers: list[Layer], times: list[float], model_time: float | None = None) -> ProfileSection:
    nothing = Quantity.unavailable("s", "not measured")
    noise = {name: nothing for name in NoiseRecord.model_fields if name.endswith(("_s", "average", "switches"))}
    return ProfileSection(
        backend="test", repeats=9, model_time=seconds(model_time or sum(times)), profiled_model_time=nothing,
        overhead=nothing, overhead_below_noise=True, layers_sum=nothing, gap=nothing,
        layers=tuple(row(layer, time) for layer, time in zip(layers, times, strict=True)),
        noise=NoiseRecord.model_validate({**noise, "throttled": nothing}),
    )  # fmt: skip


def measured(layer: Layer, time: float, *, library: str = "onnxruntime", **changes: Any) -> PartMeasurement:
    ok = changes.pop("status", "ok") == "ok"
    candidate = {"library": library, "implementation": "eager", "version": "1", **changes.pop("candidate", {})}
    return PartMeasurement(
        part=part_of(layer, "layer"),
        candidate=Candidate.model_validate(candidate),
        environment=ENVIRONMENT,
        protocol=Protocol.model_validate(changes.pop("protocol", {})),
        status="ok" if ok else "wrong",
        reason=None if ok else "differs",
        samples_s=(time,) * 5 if ok else (),
        started_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


LAYERS = list(read_graph(branches()).layers)
TIMES = [3e-3, 2e-3, 1e-3, 1e-4]


def bounds(measurements: list[PartMeasurement], times: list[float] = TIMES, workers: int = 1) -> ModelBounds:
    placed = [
        PlacedLayer(row(layer, time), layer, (layer,), work_of(layer))
        for layer, time in zip(LAYERS, times, strict=True)
    ]
    calls = best_calls(measurements, 1)
    return model_bounds(profile(LAYERS, times), placed, MACHINE, calls, workers=workers)


def time_of(found: ModelBounds, key: str) -> float:
    return next(one.time.require() for one in found.bounds if one.key == key)


def coverage_of(found: ModelBounds, key: str) -> float:
    return next(one.coverage for one in found.bounds if one.key == key)


FULL = [measured(LAYERS[0], 2e-3), measured(LAYERS[1], 1.5e-3), measured(LAYERS[2], 5e-4)]


def test_sequential_and_parallel_bounds_by_hand() -> None:
    found = bounds(FULL)
    assert time_of(found, "library") == pytest.approx(2e-3 + 1.5e-3 + 5e-4)
    assert time_of(found, "parallel") == pytest.approx(2e-3 + 5e-4)
    assert time_of(bounds(FULL, workers=2), "workers") == pytest.approx(2e-3 + 5e-4)
    assert coverage_of(found, "library") == pytest.approx(1.0)
    assert found.parallel_gain == pytest.approx(4e-3 / 2.5e-3)


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_missing_entry_counts_as_its_roofline_in_every_bound_and_is_told(missing: int) -> None:
    """Benanza dropped convolutions without a bias entry from the parallel graph: 1.21x where 1.08x is true."""
    left = [one for place, one in enumerate(FULL) if place != missing]
    found = bounds(left)
    roof = roofline(LAYERS[missing], [LAYERS[missing]], work_of(LAYERS[missing]), MACHINE)
    assert roof is not None
    assert roof.seconds > 0
    full = [2e-3, 1.5e-3, 5e-4]
    full[missing] = roof.seconds
    assert time_of(found, "library") == pytest.approx(sum(full))
    assert time_of(found, "parallel") == pytest.approx(max(full[0], full[1]) + full[2])
    assert coverage_of(found, "library") == pytest.approx(1 - TIMES[missing] / sum(TIMES))


@pytest.mark.parametrize("known", [0, 1])
def test_a_fused_layer_of_which_one_part_was_measured_counts_as_its_roofline(known: int) -> None:
    """A convolution whose bias has no entry is neither free nor as fast as the part that has one."""
    conv, concat = LAYERS[0], LAYERS[2]
    fused = dataclasses.replace(conv, op="FusedConv", domain="com.microsoft")
    placed = [PlacedLayer(row(fused, 3e-3), fused, (conv, concat), work_of(conv))]
    calls = best_calls([measured((conv, concat)[known], 1e-7)], 1)
    assert len(calls) == 1
    found = model_bounds(profile([fused], [3e-3]), placed, MACHINE, calls, workers=1)
    (layer,) = found.layers
    assert layer.best.value is None
    assert layer.bound.require() == layer.roofline.require() > 1e-7
    assert coverage_of(found, "library") == 0.0


def test_a_layer_of_unknown_work_and_without_a_measurement_counts_as_it_is() -> None:
    unknown = Layer(9, "u", "Mystery", "vendor", {}, LAYERS[2].inputs, LAYERS[2].outputs)
    placed = [PlacedLayer(row(unknown, 7e-3), unknown, (unknown,), None)]
    found = model_bounds(profile([unknown], [7e-3]), placed, MACHINE, {}, workers=1)
    assert time_of(found, "roofline") == time_of(found, "library") == pytest.approx(7e-3)
    assert coverage_of(found, "roofline") == 0.0


def test_a_layer_faster_than_its_roofline_counts_as_it_runs_and_is_named() -> None:
    """PyTorch transposes by strides and moves nothing: its roofline, which moves the data, bounds nothing."""
    fast = [TIMES[0], TIMES[1], 1e-9, TIMES[3]]
    found = bounds([], fast)
    assert found.beaten == ("Concat c",)
    assert found.layers[2].bound.require() == 1e-9
    assert not bounds([]).beaten
    for one in found.bounds:
        assert one.time.require() <= sum(fast) * 1.0001


def test_free_layers_come_from_a_list_and_everything_else_costs() -> None:
    found = bounds([])
    free = [one.op for one in found.layers if one.limited_by == FREE]
    assert free == ["Reshape"]
    assert all(one.roofline.require() > 0 for one in found.layers if one.op != "Reshape")  # Concat too


def test_bounds_never_exceed_what_was_measured() -> None:
    slow = [measured(layer, 1.0) for layer in LAYERS[:3]]  # every library call is slower than what runs now
    found = bounds(slow)
    assert time_of(found, "library") <= sum(TIMES) + 1e-12
    assert [one.best_candidate for one in found.layers[:3]] == ["as it runs now"] * 3
    assert all(one.ratio.require() <= 1 for one in found.bounds)


def test_adding_measurements_only_moves_a_layer_towards_what_is_measured() -> None:
    """With the roofline standing in, a bound without measurements is the lowest, and never above one with them."""
    assert time_of(bounds([]), "library") <= time_of(bounds(FULL[:1]), "library") <= time_of(bounds(FULL), "library")


def test_a_call_that_computes_something_else_never_wins() -> None:
    """The clipped ReLU that won for ReLU: wrong outputs, another precision, another protocol or thread count."""
    others = [
        measured(LAYERS[0], 1e-6, library="wrong", status="wrong"),
        measured(LAYERS[0], 1e-6, library="bf16", candidate={"precision": "bfloat16"}),
        measured(LAYERS[0], 1e-6, library="hot", protocol={"cache": "hot"}),
        measured(LAYERS[0], 1e-6, library="two", protocol={"threads": 2}),
    ]
    assert time_of(bounds([*FULL, *others]), "library") == time_of(bounds(FULL), "library")


def test_duplicate_rows_change_nothing() -> None:
    assert bounds([*FULL, *FULL]).bounds == bounds(FULL).bounds


def test_only_taps_on_data_count_and_asymmetric_pads_are_seen() -> None:
    def conv(pads: list[int]) -> Layer:
        node = helper.make_node("Conv", ["x", "w"], ["y"], pads=pads)
        model = branches()
        del model.graph.node[:]
        model.graph.node.append(node)
        return read_graph(model).layers[0]

    symmetric, shifted = conv([1, 1, 1, 1]), conv([2, 2, 0, 0])
    assert signature(symmetric) != signature(shifted)
    machine = Machine({"float32": 1e6}, MACHINE.levels, "slow arithmetic")
    found = roofline(symmetric, [symmetric], work_of(symmetric), machine)
    assert found is not None
    assert found.limited_by == "compute"
    # 3x3, pad 1 on 14x14: per axis 12 positions see 3 rows and 2 see 2, so 40 of 42.
    assert found.seconds == pytest.approx(2 * 40 * 40 * 4 * 8 / 1e6, rel=1e-6)


def test_bandwidth_is_that_of_the_level_that_holds_the_working_set() -> None:
    concat = LAYERS[2]
    work = work_of(concat)
    assert work is not None
    moved = work.bytes_read + work.bytes_written
    near = roofline(concat, [concat], work, MACHINE)
    far = roofline(concat, [concat], work, Machine(MACHINE.flops_per_s, (Level("memory", None, 20 * GIGA),), "far"))
    assert near is not None
    assert far is not None
    assert (near.limited_by, near.seconds) == ("L2", pytest.approx(moved / (200 * GIGA)))
    assert (far.limited_by, far.seconds) == ("memory", pytest.approx(moved / (20 * GIGA)))


def test_what_fits_into_nearer_levels_moves_at_their_speed() -> None:
    """Of a working set of 4 MB one is left in L2 by the layer before, and 3 come from memory."""
    assert MACHINE.traffic_s(4e6, 4e6) == pytest.approx(1e6 / (200 * GIGA) + 3e6 / (20 * GIGA))
    # In place each byte is read and written: twice the traffic within the same working set.
    assert MACHINE.traffic_s(8e6, 4e6) == pytest.approx(2 * MACHINE.traffic_s(4e6, 4e6))
    assert MACHINE.traffic_s(0.0, 0.0) == 0.0
    small = Machine({}, (Level("L2", 1e6, 200 * GIGA),))
    assert small.traffic_s(4e6, 4e6) == pytest.approx(4e6 / (200 * GIGA))  # nothing is known beyond


def test_intervals_are_propagated_and_equal_layers_err_together() -> None:
    spread = tuple(float(one) for one in np.linspace(1.5e-3, 2.5e-3, 9))
    wide = FULL[0].model_copy(update={"samples_s": spread})
    found = bounds([wide, *FULL[1:]])
    library = next(one for one in found.bounds if one.key == "library")
    own = wide.seconds()
    assert library.time.ci_low is not None
    assert library.time.ci_high is not None
    assert own.ci_low is not None
    assert own.ci_high is not None
    width, own_width = library.time.ci_high - library.time.ci_low, own.ci_high - own.ci_low
    assert 0.5 * own_width < width < 1.6 * own_width


def test_the_items_of_the_gap_add_up() -> None:
    found = bounds(FULL)
    now = sum(TIMES)
    assert sum(item.seconds.require() for item in found.gap) == pytest.approx(now - time_of(found, "library"))


def test_layers_that_are_not_known_in_the_executed_graph_stay_in_sequence() -> None:
    placed = [PlacedLayer(row(layer, time), None, (), None) for layer, time in zip(LAYERS, TIMES, strict=True)]
    found = model_bounds(profile(LAYERS, TIMES), placed, MACHINE, {}, workers=2)
    assert time_of(found, "parallel") == pytest.approx(sum(TIMES))
    assert time_of(found, "workers") == pytest.approx(sum(TIMES))
