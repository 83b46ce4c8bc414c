"""Profiled layers in the executed graph: what waits for what, also through layers that have no time."""

from __future__ import annotations

import json

import polars as pl
import pytest

from stratoscope.backends.openvino import OpenVinoBackend
from stratoscope.explain.bounds.layers import dependences
from stratoscope.improve.placing import placed_layers
from stratoscope.improve.variants import Variant
from stratoscope.measure.inputs import make_inputs
from stratoscope.models.resolve import resolve
from stratoscope.spec.options import BackendOptions
from stratoscope.spec.record import LayerRow, NoiseRecord, ProfileSection
from stratoscope.stats.quantity import Quantity
from stratoscope.trace.levels import Level

pytest.importorskip("openvino", reason="the openvino extra is not installed")

NONE = Quantity.unavailable("s", "not measured")
OPTIONS = BackendOptions(threads=1)


def profile(model: str) -> tuple[Variant, ProfileSection]:
    """The layers that OpenVINO times, without their times."""
    original = Variant(resolve(model), "openvino", OPTIONS)
    feeds = make_inputs(original.model, 1, 0)[0]
    spans = OpenVinoBackend().trace(original.model, OPTIONS, feeds, warmup=1, repeats=1)
    layers = spans.filter(pl.col("level") == Level.LAYER.value)
    rows = tuple(
        LayerRow(
            index=place, name=name, op=json.loads(told)["op"], time=NONE,
            flops=NONE, bytes=NONE, parameters=NONE, allocated=NONE,
        )
        for place, (name, told) in enumerate(layers.select("name", "attributes").iter_rows())
    )  # fmt: skip
    names = [name for name, field in NoiseRecord.model_fields.items() if field.annotation is Quantity]
    section = ProfileSection(
        backend="openvino", repeats=1, model_time=NONE, profiled_model_time=NONE, overhead=NONE,
        overhead_below_noise=True, layers_sum=NONE, gap=NONE, layers=rows,
        noise=NoiseRecord.model_validate(dict.fromkeys(names, NONE)),
    )  # fmt: skip
    return original, section


def test_a_chain_stays_a_chain_where_a_view_between_its_layers_has_no_time() -> None:
    """OpenVINO does not time the Reshape ahead of the first product of the digits model."""
    original, section = profile("digits")
    placed = placed_layers(original, section)
    assert all(one.layer is not None for one in placed)
    assert not any(one.row.op == "Reshape" for one in placed)
    assert dependences(placed) == [(), *((place,) for place in range(len(placed) - 1))]


def test_branches_stay_branches() -> None:
    """The two expanding convolutions of a fire module of squeezenet wait for the same layer, not for each other."""
    original, section = profile("squeezenet")
    placed = placed_layers(original, section)
    before = dependences(placed)
    concats = [place for place, one in enumerate(placed) if one.row.op == "Concat"]
    assert len(concats) == 8
    for place in concats:
        left, right = before[place]
        assert before[left] == before[right]
        assert left not in before[right]
