"""Q4: time between layers, layers that the runtime put in, and layers far slower than their best library call."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from stratoscope.explain.advice.changes import Change
from stratoscope.explain.advice.facts import Facts
from stratoscope.explain.advice.framework import framework_findings
from stratoscope.spec.advice import LayerBound
from stratoscope.spec.options import BackendOptions
from stratoscope.spec.record import LayerRow, NoiseRecord, ProfileSection
from stratoscope.stats.quantity import Quantity

NONE = Quantity.unavailable("s", "not measured")


def seconds(value: float) -> Quantity:
    return Quantity.exact(value, "s", "median")


def row(index: int, op: str, time: float, whole: float, authored: tuple[str, ...]) -> LayerRow:
    return LayerRow(
        index=index, name=f"l{index}", op=op, authored=authored, time=seconds(time), share=time / whole,
        flops=NONE, bytes=NONE, parameters=NONE, allocated=NONE,
    )  # fmt: skip


def profile(layers: Sequence[tuple[str, float, tuple[str, ...]]], between: float = 0.0) -> ProfileSection:
    whole = sum(time for _, time, _ in layers)
    names = [name for name, field in NoiseRecord.model_fields.items() if field.annotation is Quantity]
    return ProfileSection(
        backend="onnxruntime", repeats=5, model_time=seconds(whole + between),
        profiled_model_time=seconds(whole + between), overhead=NONE, overhead_below_noise=True,
        layers_sum=seconds(whole), gap=seconds(between),
        layers=tuple(row(place, op, time, whole, authored) for place, (op, time, authored) in enumerate(layers)),
        noise=NoiseRecord.model_validate(dict.fromkeys(names, NONE)),
    )  # fmt: skip


def bound(index: int, op: str, now: float, best: float | None) -> LayerBound:
    known = seconds(best) if best is not None else NONE
    return LayerBound(
        index=index, name=f"l{index}", op=op, authored=(f"n{index}",), measured=seconds(now), roofline=NONE,
        best=known, best_candidate="onnxruntime/graph=all" if best is not None else None, bound=known,
    )  # fmt: skip


def found(section: ProfileSection | None, **changes: Any) -> dict[str, Any]:
    facts = dataclasses.replace(Facts("onnxruntime", BackendOptions(), profile=section), **changes)
    return {one.key: one for one in framework_findings(facts)}


CONV = ("Conv", 90e-3, ("n0",))


def test_time_between_layers_is_told_from_a_twentieth_on() -> None:
    few = found(profile([CONV, ("Relu", 10e-3, ("n1",))], between=25e-3))
    assert few["between-layers"].share == 0.2
    assert "20% of an inference is between its 2 layers" in few["between-layers"].claim
    assert not found(profile([CONV, ("Relu", 10e-3, ("n1",))], between=5e-3))
    assert not found(None)


def test_layers_that_nobody_asked_for_are_told_and_those_of_the_model_are_not() -> None:
    reorders = [("ReorderInput", 6e-3, ()), ("ReorderOutput", 4e-3, ())]
    told = found(profile([CONV, *reorders]))["put-in"]
    assert told.layers == ("l1", "l2")
    assert "1 ReorderInput, 1 ReorderOutput" in told.claim
    assert "take 10% of the layers' time" in told.claim
    assert not found(profile([CONV, ("Transpose", 10e-3, ("n1",))]))  # written by the author
    unknown = [("Conv", 90e-3, ()), ("ReorderInput", 10e-3, ())]
    assert not found(profile(unknown))  # a runtime that does not tell which layers are the author's


def test_slow_layers_are_told_by_operator_with_what_they_could_save() -> None:
    section = profile([("MaxPool", 30e-3, ("n0",)), ("MaxPool", 20e-3, ("n1",)), ("Conv", 50e-3, ("n2",))])
    layers = (bound(0, "MaxPool", 30e-3, 1e-3), bound(1, "MaxPool", 20e-3, 2e-3), bound(2, "Conv", 50e-3, 40e-3))
    told = found(section, bounds=layers)
    assert set(told) == {"slow-maxpool"}  # the convolution is 1.25 times its best call
    one = told["slow-maxpool"]
    assert one.layers == ("n0", "n1")
    assert one.share == 0.5
    assert "2 layers could save 47% of the inference" in one.claim
    assert "30 ms here and 1 ms with onnxruntime/graph=all" in one.claim


def test_a_layer_without_a_measured_call_is_never_called_slow() -> None:
    section = profile([("LRN", 1.0, ("n0",))])
    assert not found(section, bounds=(bound(0, "LRN", 1.0, None),))


def test_what_says_only_where_time_goes_changes_nothing_and_says_why_it_is_not_tried() -> None:
    for one in found(profile([CONV], between=50e-3)).values():
        assert one.change == Change()
        assert one.untried
        assert one.question == "Q4"
