"""PyTorch and OpenVINO compute what ONNX Runtime computes, in every layout and precision, or say that they cannot."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from stratoscope.errors import MeasurementError
from stratoscope.measure.parts import default_candidates, run_parts
from stratoscope.spec.performance import PartMeasurement

pytestmark = [pytest.mark.torch, pytest.mark.slow]

BOTH = ("float32", "bfloat16")


def models(small: ModuleType) -> list[object]:
    """Convolutions with uneven pads, groups and dilation, products, pools and what stands between them."""
    image = (1, 8, 9, 9)
    ones, spread = np.ones(8, np.float32), np.linspace(0.5, 1.5, 8, dtype=np.float32)
    return [
        small.one("Conv", image, small.random(4, 8, 3, 3), pads=[1, 0, 1, 2]),
        small.one("Conv", image, small.random(8, 2, 3, 3), small.random(8), group=4, strides=[2, 2]),
        small.one("Conv", image, small.random(4, 8, 3, 3), dilations=[2, 2]),
        small.one("MaxPool", image, kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1]),
        small.one("LRN", image, size=5, alpha=1e-4, beta=0.75),
        small.one("BatchNormalization", image, spread, ones, spread, spread),
        small.one("Gemm", (3, 16), small.random(5, 16), small.random(5), transB=1),
        small.one("MatMul", (2, 3, 16), small.random(16, 5)),
        small.one("Softmax", (4, 10), axis=-1),
        small.one("Transpose", (2, 3, 4), perm=[0, 2, 1]),
    ]


def test_every_library_agrees_with_the_reference_or_has_nothing_to_offer(small: ModuleType) -> None:
    found: list[PartMeasurement] = []
    parts = [part for model in models(small) for part in small.parts_of(model)]
    candidates = [one for one in default_candidates(precisions=BOTH) if one.library != "onnxruntime"]
    assert {one.library for one in candidates} == {"pytorch", "onednn", "openvino"}
    run_parts(parts, candidates, [small.HOT], environment=small.HERE, on_result=found.append)
    assert len(found) == len(parts) * len(candidates)
    bad = [(one.part.slug, one.candidate.name, one.reason) for one in found if one.status in ("wrong", "failed")]
    # PyTorch has no bfloat16 kernel for some: that is told, and nothing is measured in its place.
    assert [one for one in bad if "bfloat16" not in one[1] or "BFloat16" not in str(one[2])] == []
    timed = {(one.part.operators[0], one.candidate.name) for one in found if one.status == "ok"}
    for op in ("Conv", "MaxPool", "LRN", "BatchNormalization"):
        assert {(op, "pytorch/eager"), (op, "pytorch/eager/NHWC"), (op, "openvino/compiled")} <= timed
    assert {("Conv", "onednn/packed"), ("Conv", "onednn/packed/NHWC/bfloat16"), ("Gemm", "onednn/packed")} <= timed
    assert ("Gemm", "pytorch/eager/NHWC") not in timed
    assert all(
        one.settings["precision"] == one.candidate.precision
        for one in found
        if one.status == "ok" and "precision" in one.settings
    )


def test_bfloat16_is_not_float32_under_another_name(small: ModuleType) -> None:
    found: list[PartMeasurement] = []
    candidates = default_candidates(libraries=("pytorch", "openvino"), precisions=BOTH)
    parts = small.parts_of(small.one("MatMul", (4, 256), small.random(256, 64)))
    run_parts(parts, candidates, [small.HOT], environment=small.HERE, on_result=found.append)
    errors = {one.candidate.name: one.max_error or 0.0 for one in found if one.status == "ok"}
    assert errors["pytorch/eager"] < 1e-5
    assert errors["pytorch/eager/bfloat16"] > 1e-4
    assert errors["openvino/compiled"] < 1e-5


def test_changes_of_layout_at_the_border_of_a_layer_are_told_with_its_time(small: ModuleType) -> None:
    """OpenVINO's convolution has channels last inside: alone it pays for conversions that a model may not pay."""
    found: list[PartMeasurement] = []
    model = small.one("Conv", (1, 16, 32, 32), small.random(64, 16, 3, 3))
    candidates = default_candidates(libraries=("openvino",))
    run_parts(small.parts_of(model), candidates, [small.HOT], environment=small.HERE, on_result=found.append)
    (one,) = found
    assert any(name.startswith("Convolution(") for name in one.executed_operators)
    assert any(name.startswith("Reorder(") for name in one.executed_operators)


def test_unknown_libraries_and_precisions_are_named() -> None:
    with pytest.raises(MeasurementError, match="no library is called 'mkl'"):
        default_candidates(libraries=("mkl",))
    with pytest.raises(MeasurementError, match="no candidate computes in 'float8'"):
        default_candidates(precisions=("float8",))


def test_executed_nodes_are_run_as_they_are() -> None:
    (candidate,) = default_candidates("executed")
    assert (candidate.library, candidate.implementation, candidate.layout) == ("onnxruntime", "graph=off", "opaque")
