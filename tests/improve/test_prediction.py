"""A prediction adds the layers that come and takes away those that go; what is not known is never zero."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from stratoscope.improve import predict
from stratoscope.improve.predict import predict_speedup
from stratoscope.improve.variants import Variant
from stratoscope.models.resolve import resolve
from stratoscope.spec.options import BackendOptions
from stratoscope.spec.record import LayerRow, NoiseRecord, ProfileSection
from stratoscope.stats.quantity import Quantity

NONE = Quantity.unavailable("s", "not measured")
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
    wanted: Counter[str] = Counter()
    monkeypatch.setattr(predict, "executed_signatures", lambda variant: wanted or None)
    return wanted


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


def test_executed_signatures_come_from_the_runtime_and_leave_views_out(tmp_path: Path) -> None:
    found = predict.executed_signatures(VARIANT)
    assert found is not None
    assert sum(found.values()) >= 3
