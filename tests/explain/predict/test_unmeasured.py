"""Models of layers that were never measured: what is known is judged on models left out, and put together."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from stratoscope.errors import MeasurementError
from stratoscope.explain.predict.placement import facts_of
from stratoscope.explain.predict.scaling import Resources
from stratoscope.explain.predict.unmeasured import known_layers, leave_one_out, predict_unmeasured
from stratoscope.measure.sequence import protocol_of
from stratoscope.measure.suite import Suite, build_suite
from stratoscope.models.resolve import resolve
from stratoscope.spec.performance import Environment, PartMeasurement

pytest.importorskip("sklearn")

HERE = Resources(50e9, ((2.0**15, 200e9), (2.0**20, 80e9), (math.inf, 20e9)), "here")
SLOWER = 1.7  # than the roofs, every layer alike: what there is to learn


def model_file(folder: Path, width: int, repeats: int = 4) -> Path:
    """Repeated products and activations; layers of one width are the same, of different widths different."""
    nodes, weights, name = [], [], "x"
    for number in range(repeats):
        weights.append(numpy_helper.from_array(np.zeros((width, width), np.float32), f"w{number}"))
        nodes += [
            helper.make_node("MatMul", [name, f"w{number}"], [f"a{number}"]),
            helper.make_node("Relu", [f"a{number}"], [f"b{number}"]),
            helper.make_node("Tanh", [f"b{number}"], [f"c{number}"]),
            helper.make_node("Softmax", [f"c{number}"], [f"d{number}"]),
        ]
        name = f"d{number}"
    info = [helper.make_tensor_value_info(one, TensorProto.FLOAT, [width, width]) for one in ("x", name)]
    graph = helper.make_graph(nodes, "g", info[:1], info[1:], weights)
    path = folder / f"width_{width}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), str(path))
    return path


def suite_of(folder: Path, *widths: int) -> Suite:
    models = [resolve(str(model_file(folder, width))) for width in widths]
    return build_suite(models, graph="authored", rule="node")


def timed(suite: Suite, factor: float = SLOWER) -> dict[str, PartMeasurement]:
    """Every layer takes `factor` times what the roofs of `HERE` allow."""
    found = {}
    for group in suite.groups():
        for facts, brick in zip(facts_of(group), group, strict=True):
            if facts is not None and brick.wanted:
                found[brick.part.digest] = PartMeasurement(
                    part=brick.part,
                    candidate=suite.index.candidate,
                    environment=Environment(cpu="test"),
                    protocol=protocol_of("sequence"),
                    status="ok",
                    samples_s=(facts.seconds(HERE) * factor,) * 8,
                    started_at=datetime(2026, 1, 1, tzinfo=UTC),
                )
    return found


@pytest.fixture
def known(tmp_path: Path) -> Suite:
    return suite_of(tmp_path, 64, 96, 128, 160, 192, 256)


def test_what_holds_for_all_layers_is_learned_and_the_roofline_errs_by_it(known: Suite) -> None:
    judged = leave_one_out(known, known_layers(known, timed(known)), HERE)
    assert judged.models == 6
    assert 0 < judged.layers <= 24
    assert judged.median < 0.02
    assert judged.model_error < 0.02
    assert judged.roofline > 0.3  # 1 - 1 / 1.7 and more where the cost of a call counts


def test_a_model_never_measured_is_put_together_of_predicted_layers(known: Suite, tmp_path: Path) -> None:
    layers = known_layers(known, timed(known))
    judged = leave_one_out(known, layers, HERE)
    unseen = suite_of(tmp_path, 112)
    truth = timed(unseen)
    (row,) = predict_unmeasured(unseen, {}, layers, HERE, judged)
    expected = sum(truth[place.key].seconds().require() for place in unseen.index.models[0].places)
    assert row.latency.require() == pytest.approx(expected, rel=0.02)
    assert (row.measured, row.layers, row.share) == (0, 4, 1.0)
    assert [one.times for one in row.predicted] == [4, 4, 4, 4]
    assert row.predicted[0].seconds * 4 <= row.latency.require()
    half = row.latency.require() * judged.model_error
    assert row.latency.ci_high == pytest.approx(row.latency.require() + half)


def test_measured_layers_are_taken_as_they_are(known: Suite, tmp_path: Path) -> None:
    layers = known_layers(known, timed(known))
    judged = leave_one_out(known, layers, HERE)
    unseen = suite_of(tmp_path, 112)
    times = timed(unseen, factor=5.0)
    (all_known,) = predict_unmeasured(unseen, times, layers, HERE, judged)
    expected = sum(times[place.key].seconds().require() for place in unseen.index.models[0].places)
    assert all_known.latency.require() == pytest.approx(expected)
    assert (all_known.measured, all_known.share, all_known.predicted) == (4, 0.0, ())
    assert all_known.latency.ci_low == all_known.latency.ci_high == all_known.latency.value
    first = unseen.index.models[0].places[0].key
    (mixed,) = predict_unmeasured(unseen, {first: times[first]}, layers, HERE, judged)
    assert (mixed.measured, len(mixed.predicted)) == (1, 3)
    assert 0 < mixed.share < 1


def test_a_suite_of_larger_bricks_cannot_be_learned_from(tmp_path: Path) -> None:
    suite = build_suite([resolve(str(model_file(tmp_path, 64)))], graph="authored", least_s=0.0)
    with pytest.raises(MeasurementError, match="cut by node"):
        known_layers(suite, {})


def test_a_suite_that_was_not_run_says_so(known: Suite) -> None:
    with pytest.raises(MeasurementError, match="0 layers of the suite have a time here") as caught:
        known_layers(known, {})
    assert "compose run" in (caught.value.hint or "")


def test_models_that_leave_too_little_to_learn_from_cannot_be_judged(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, 64, 96, 128, 160, 192)  # 20 layers: 16 without any one model
    with pytest.raises(MeasurementError, match="too few different models"):
        leave_one_out(suite, known_layers(suite, timed(suite)), HERE)
