"""A prediction adds the layers that come and takes away those that go; what is not known is never zero."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import pytest

from stratoscope.explain.advice.calibration import prediction_error
from stratoscope.graph.ir import Graph, Layer, Tensor
from stratoscope.graph.signature import signature
from stratoscope.improve import predict
from stratoscope.improve.predict import Pairs, PartTimer, predict_by_calls, scaled_times, with_model_error
from stratoscope.improve.variants import Variant
from stratoscope.models.resolve import resolve
from stratoscope.spec.options import BackendOptions
from stratoscope.spec.record import LayerRow, NoiseRecord, ProfileSection
from stratoscope.stats.quantity import Quantity

NONE = Quantity.unavailable("s", "not measured")
CALL = ("pytorch", "eager", "NHWC")
EMPTY = Graph("empty", {}, (), (), ())
VARIANT = Variant(resolve("digits"), "onnxruntime", BackendOptions(threads=1))


def seconds(value: float) -> Quantity:
    return Quantity(value=value, unit="s", n=5, ci_low=value * 0.9, ci_high=value * 1.1)


def profile(rows: dict[str, list[float]], model_time: float, unknown: float = 0.0) -> ProfileSection:
    entries = [(signature, time) for signature, times in rows.items() for time in times]
    total = sum(time for _, time in entries) + unknown
    every = [*entries, *([(None, unknown)] if unknown else [])]
    layers = tuple(
        LayerRow(
            index=place, name=f"l{place}", op="Conv", time=seconds(time), share=time / total, signature=signature,
            flops=NONE, bytes=NONE, parameters=NONE, allocated=NONE,
        )
        for place, (signature, time) in enumerate(every)
    )  # fmt: skip
    names = [name for name, field in NoiseRecord.model_fields.items() if field.annotation is Quantity]
    return ProfileSection(
        backend="onnxruntime", repeats=5, model_time=seconds(model_time), profiled_model_time=NONE, overhead=NONE,
        overhead_below_noise=True, layers_sum=NONE, gap=NONE, layers=layers,
        noise=NoiseRecord.model_validate(dict.fromkeys(names, NONE)),
    )  # fmt: skip


@pytest.fixture
def executes(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """What the changed model executes, by signature; empty: it does not tell."""
    wanted: Counter[str] = Counter()
    monkeypatch.setattr(predict, "executed_layers", lambda variant: list(wanted.elements()) or None)
    monkeypatch.setattr(predict, "signature", lambda layer: layer)
    monkeypatch.setattr(predict, "scaled_times", lambda layers, known, missing: {})
    return wanted


def predict_speedup(section: ProfileSection, variant: Variant, timer: PartTimer) -> Quantity:
    return predict.predict_speedup(section, VARIANT, variant, timer)


def no_timer(variant: Variant, digests: frozenset[str]) -> dict[str, Quantity]:
    return {}


def test_layers_that_go_and_come_by_hand(executes: Counter[str]) -> None:
    executes.update({"a": 1, "b": 3, "new": 2})
    section = profile({"a": [1.0, 3.0], "b": [1.0, 1.0], "gone": [4.0]}, model_time=12.0)  # 2 between layers
    found = predict_speedup(section, VARIANT, lambda variant, digests: {"new": seconds(0.5)})
    after = 12.0 - 2.0 + 1.0 - 4.0 + 2 * 0.5
    assert found.require() == pytest.approx(12.0 / after)
    error = ((0.2) ** 2 + 0.1**2 + 0.4**2 + 0.1**2) ** 0.5
    assert found.ci_low == pytest.approx(12.0 / (after + error))
    assert found.ci_high == pytest.approx(12.0 / (after - error))


def test_the_same_graph_predicts_no_change_exactly(executes: Counter[str]) -> None:
    executes.update({"a": 2})
    found = predict_speedup(profile({"a": [1.0, 2.0]}, 3.5), VARIANT, no_timer)
    assert (found.value, found.ci_low, found.ci_high) == (1.0, 1.0, 1.0)


def test_a_new_layer_that_was_not_benchmarked_gives_no_prediction(executes: Counter[str]) -> None:
    executes.update({"new": 1})
    found = predict_speedup(profile({"gone": [1.0]}, 1.0), VARIANT, no_timer)
    assert found.value is None
    assert "1 of 1 new layers" in (found.reason or "")


def test_a_profile_with_unknown_layers_gives_no_prediction(executes: Counter[str]) -> None:
    executes.update({"a": 1})
    found = predict_speedup(profile({"a": [1.0]}, 1.0, unknown=0.5), VARIANT, no_timer)
    assert found.value is None


def test_a_back_end_that_does_not_tell_its_graph_gives_no_prediction(executes: Counter[str]) -> None:
    found = predict_speedup(profile({"a": [1.0]}, 1.0), VARIANT, no_timer)
    assert "does not tell" in (found.reason or "")


def test_executed_layers_come_from_the_runtime_and_leave_views_out() -> None:
    found = predict.executed_layers(VARIANT)
    assert found is not None
    assert len(found) >= 3
    assert not {layer.op for layer in found} & {"Reshape", "Flatten", "Identity", "Dropout"}


def relu(size: int, op: str = "Relu") -> Layer:
    tensors = [Tensor(name, "float32", (size,), "activation", bytes=4 * size) for name in ("x", "y")]
    return Layer(0, op, op, "", {}, (tensors[0],), (tensors[1],))


def test_layers_without_a_benchmark_are_scaled_from_others_of_their_operator() -> None:
    """8 bytes an element at rates of 1, 2 and 3 seconds a byte: the median is 2."""
    known = {signature(relu(size)): 8.0 * size * rate for size, rate in ((100, 1.0), (200, 2.0), (300, 3.0))}
    wanted, strange = relu(1000), relu(1000, "Sigmoid")
    layers = [relu(100), relu(200), relu(300), wanted, strange]
    found = scaled_times(layers, known, {signature(wanted), signature(strange)})
    assert set(found) == {signature(wanted)}  # of Sigmoid nothing is known
    one = found[signature(wanted)]
    assert one.require() == pytest.approx(2.0 * 8000)
    assert one.ci_low is not None
    assert one.ci_high is not None
    assert 0 < one.ci_low < 2.0 * 8000 < one.ci_high
    assert not scaled_times(layers[1:], dict(list(known.items())[1:]), {signature(wanted)})  # two rates are too few


def test_layers_that_become_other_calls_change_by_the_difference_of_both_benchmarks() -> None:
    """What a benchmark alone does not see of a layer in place is in both of its times, and cancels."""
    section = profile({"pool": [5.0, 5.0], "conv": [10.0], "dense": [4.0]}, model_time=26.0)
    pairs = Pairs({"pool": (seconds(4.0), seconds(1.0)), "conv": (seconds(9.0), seconds(9.5))})
    found = predict_by_calls(section, EMPTY, CALL, lambda *_: pairs)
    after = 26.0 - 2 * 3.0 + 0.5
    assert found.require() == pytest.approx(26.0 / after)
    error = (2**2 * (0.4**2 + 0.1**2) + 0.9**2 + 0.95**2) ** 0.5
    assert found.ci_low == pytest.approx(26.0 / (after + error))


def test_the_layers_that_take_the_most_are_benchmarked_first_and_views_never() -> None:
    asked: list[str] = []

    def timer(graph: Graph, call: tuple[str, str, str], digests: Sequence[str]) -> Pairs:
        asked.extend(digests)
        return Pairs({})

    section = profile({"small": [1.0], "large": [9.0], "often": [3.0, 3.0, 4.0]}, model_time=20.0)
    found = predict_by_calls(section, EMPTY, CALL, timer)
    assert asked == ["often", "large", "small"]
    assert "no layer could be benchmarked both ways" in (found.reason or "")


def test_layers_left_for_lack_of_time_give_no_prediction_and_impossible_ones_stay() -> None:
    section = profile({"pool": [5.0], "other": [5.0]}, model_time=10.0)
    times = {"pool": (seconds(4.0), seconds(1.0))}
    left = predict_by_calls(section, EMPTY, CALL, lambda *_: Pairs(times, frozenset({"other"})))
    assert left.value is None
    assert "50%" in (left.reason or "")
    stays = predict_by_calls(section, EMPTY, CALL, lambda *_: Pairs(times))
    assert stays.require() == pytest.approx(10.0 / 7.0)


def test_layers_that_the_profile_does_not_know_are_those_that_they_are_said_to_stand_for() -> None:
    section = profile({}, model_time=10.0, unknown=8.0)
    pairs = Pairs({"dense": (seconds(6.0), seconds(2.0))})
    asked: list[str] = []

    def timer(graph: Graph, call: tuple[str, str, str], digests: Sequence[str]) -> Pairs:
        asked.extend(digests)
        return pairs

    found = predict_by_calls(section, EMPTY, CALL, timer, {0: "dense"})
    assert asked == ["dense"]
    assert found.require() == pytest.approx(10.0 / 6.0)


def test_the_interval_is_widened_by_how_far_predictions_missed() -> None:
    """A sampling error of 1 % and a model error of 3 %, both in the logarithm, add in squares."""
    narrow = Quantity(value=2.0, unit="1", ci_low=2 * math.exp(-0.01), ci_high=2 * math.exp(0.01))
    wide = with_model_error(narrow, 0.03)
    half = math.hypot(0.01, 1.959964 * 0.03)
    assert wide.value == 2.0
    assert wide.ci_low == pytest.approx(2 * math.exp(-half))
    assert wide.ci_high == pytest.approx(2 * math.exp(half))
    nothing = Quantity(value=1.0, unit="1", ci_low=1.0, ci_high=1.0)
    assert with_model_error(nothing, 0.03) == nothing


def test_the_error_of_predictions_starts_at_the_prior_and_follows_the_trials() -> None:
    assert prediction_error([], prior=0.03, worth=5) == pytest.approx(0.03)
    twice_as_far = prediction_error([math.exp(0.1)] * 1000, prior=0.03, worth=5)
    assert twice_as_far == pytest.approx(0.1, rel=0.01)
    one = prediction_error([math.exp(-0.3)], prior=0.03, worth=5)
    assert one == pytest.approx(math.sqrt((5 * 0.03**2 + 0.3**2) / 6))
