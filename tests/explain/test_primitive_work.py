"""The work of library calls, from lines that oneDNN 3.12 and MKL 2024 printed."""

from __future__ import annotations

from typing import Any

import pytest

from stratoscope.explain.analyses.primitive_work import PrimitiveWork, primitive_work
from stratoscope.graph.ir import Layer, Tensor
from stratoscope.graph.work import work_of

F32 = {"src": "f32:abcd", "wei": "f32:Acdb16a", "dst": "f32:aBcd16b"}
STEM = "mb1_ic3oc64_ih224oh111kh3sh2dh0ph0_iw224ow111kw3sw2dw0pw0"
STEM_WORK = {"float32": 2 * 64 * 111**2 * 27}


def onednn(name: str, problem: str, layouts: dict[str, str], **told: str) -> PrimitiveWork | None:
    return primitive_work(name, {"library": "onednn", "problem": problem, "layouts": layouts, **told})


def test_a_convolution_has_the_work_of_the_same_layer_in_a_graph() -> None:
    def tensor(name: str, shape: tuple[int, ...], role: Any) -> Tensor:
        size = 4
        for dimension in shape:
            size *= dimension
        return Tensor(name, "float32", shape, role, bytes=size)

    layer = Layer(
        index=0,
        name="conv",
        op="Conv",
        domain="",
        attributes={"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 0, 0], "group": 1, "dilations": [1, 1]},
        inputs=(
            tensor("x", (1, 3, 224, 224), "input"),
            tensor("w", (64, 3, 3, 3), "weight"),
            tensor("b", (64,), "weight"),
        ),
        outputs=(tensor("y", (1, 64, 111, 111), "output"),),
    )
    expected = work_of(layer)
    found = onednn("convolution", STEM, {**F32, "bia": "f32:a"}, direction="forward_training")
    assert expected is not None
    assert found is not None
    taps = 2 * 64 * 111 * 111 * 3 * 3 * 3
    assert found.operations == {"float32": taps}
    assert 0 <= expected.flops - taps <= 64 * 111 * 111  # the graph counts the addition of the bias too
    assert found.written_bytes == expected.bytes_written
    assert found.read_bytes == 4 * (3 * 224 * 224 + 64 * 3 * 3 * 3 + 64)


@pytest.mark.parametrize(
    ("name", "problem", "layouts", "direction", "operations", "read", "written"),
    [
        (
            "convolution",
            "g32mb4_ic32oc32_ih16oh16kh3sh1dh0ph1_iw16ow16kw3sw1dw0pw1",
            F32,
            "forward_inference",
            {"float32": 2 * 4 * 32 * 16 * 16 * 9},
            4 * (4 * 32 * 256 + 32 * 9),
            4 * 4 * 32 * 256,
        ),
        ("convolution", STEM, F32, "backward_weights", STEM_WORK, 4 * (3 * 224**2 + 64 * 111**2), 4 * 64 * 27),
        ("convolution", STEM, F32, "backward_data", STEM_WORK, 4 * (64 * 27 + 64 * 111**2), 4 * 3 * 224**2),
        (
            "deconvolution",
            "mb4_ic32oc8_ih16oh18kh3sh1dh0ph0_iw16ow18kw3sw1dw0pw0",
            F32,
            "forward_training",
            {"float32": 2 * 4 * 32 * 256 * 8 * 9},
            4 * (4 * 32 * 256 + 32 * 8 * 9),
            4 * 4 * 8 * 18 * 18,
        ),
        (
            "matmul",
            "8x64x32:1x32x16",
            {"src": "bf16:abc", "wei": "bf16:abc", "dst": "f32:abc"},
            "",
            {"bfloat16": 2 * 8 * 64 * 32 * 16},
            2 * (8 * 64 * 32 + 32 * 16),
            4 * 8 * 64 * 16,
        ),
        (
            "inner_product",
            "mb2ic64ih2iw2oc10",
            {"src": "u8:abcd", "wei": "s8:abcd", "dst": "s32:ab"},
            "forward_inference",
            {"int8": 2 * 2 * 256 * 10},
            2 * 256 + 2560,
            4 * 20,
        ),
        ("reorder", "64x3x3x3", {"src": "f32:abcd", "dst": "bf16:Acdb16a"}, "", {}, 4 * 1728, 2 * 1728),
    ],
)  # fmt: skip
def test_work_and_traffic_follow_from_the_sizes(
    name: str,
    problem: str,
    layouts: dict[str, str],
    direction: str,
    operations: dict[str, float],
    read: float,
    written: float,
) -> None:
    assert onednn(name, problem, layouts, direction=direction) == PrimitiveWork(operations, read, written)


def test_products_of_mkl_are_counted_by_their_letter() -> None:
    assert primitive_work("sgemm", {"library": "mkl", "problem": "169x192x48"}) == PrimitiveWork(
        {"float32": 2 * 169 * 192 * 48}, 4 * (169 * 48 + 48 * 192), 4 * 169 * 192
    )
    assert primitive_work("dgemm", {"library": "mkl", "problem": "2x3x4"}) == PrimitiveWork({"float64": 48}, 160, 48)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("pooling", {"library": "onednn", "problem": "mb1ic64_ih2oh1kh2", "layouts": F32}),
        ("convolution", {"library": "onednn", "problem": "mb1_ih224", "layouts": F32}),
        ("convolution", {"library": "onednn", "problem": STEM}),
        ("matmul", {"library": "onednn", "problem": "64x32:31x16", "layouts": F32}),
        ("reorder", {"library": "onednn", "problem": "64x?", "layouts": F32}),
        ("sgemm", {"library": "mkl", "problem": "169x192"}),
        ("sgemm_batch", {"library": "mkl", "problem": ""}),
        ("convolution", {}),
    ],
)
def test_what_the_library_does_not_tell_is_not_known(name: str, told: dict[str, Any]) -> None:
    assert primitive_work(name, told) is None
