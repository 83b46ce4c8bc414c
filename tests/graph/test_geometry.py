"""Sliding windows against brute force over every position and tap."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratoscope.graph.geometry import Window, explicit_pads, sliding


def _pairs(window: Window) -> list[int]:
    """The input that each (output, tap) pair meets, inside or not."""
    return [
        output * window.stride + tap * window.dilation - window.pad_begin
        for output in range(window.outputs)
        for tap in range(window.taps)
    ]


windows = st.builds(
    Window,
    size=st.integers(1, 40),
    outputs=st.integers(0, 40),
    taps=st.integers(1, 9),
    stride=st.integers(1, 6),
    dilation=st.integers(1, 5),
    pad_begin=st.integers(0, 12),
)


@given(windows)
def test_valid_taps_are_the_pairs_on_real_inputs(window: Window) -> None:
    assert window.valid_taps() == sum(0 <= place < window.size for place in _pairs(window))


@given(windows)
def test_touched_are_the_distinct_real_inputs(window: Window) -> None:
    assert window.touched() == len({place for place in _pairs(window) if 0 <= place < window.size})


def test_valid_share_of_the_resnet_convolutions() -> None:
    # A 3x3 convolution with pad 1 on 14x14: (3 * 14 - 2)^2 of (3 * 14)^2 taps, 90.7 %; on 7x7 81.9 %.
    assert Window(14, 14, 3, 1, 1, 1).valid_taps() ** 2 / (3 * 14) ** 2 == pytest.approx(0.907, abs=5e-4)
    assert Window(7, 7, 3, 1, 1, 1).valid_taps() ** 2 / (3 * 7) ** 2 == pytest.approx(0.819, abs=5e-4)


@given(
    size=st.integers(1, 60),
    taps=st.integers(1, 9),
    stride=st.integers(1, 5),
    dilation=st.integers(1, 4),
    auto_pad=st.sampled_from(["SAME_UPPER", "SAME_LOWER"]),
)
def test_same_padding_gives_size_over_stride_outputs_or_no_padding(
    size: int, taps: int, stride: int, dilation: int, auto_pad: str
) -> None:
    begin, end = explicit_pads(auto_pad, None, [size], [taps], [stride], [dilation])
    field = (taps - 1) * dilation + 1
    outputs = (size + begin + end - field) // stride + 1
    assert outputs == -(-size // stride) or begin == end == 0
    assert end - begin in ((0, 1) if auto_pad == "SAME_UPPER" else (-1, 0))


def test_absent_attributes_take_the_defaults_of_onnx() -> None:
    geometry = sliding({}, (3, 5), (10, 20))
    assert geometry.strides == geometry.dilations == (1, 1)
    assert geometry.pads == (0, 0, 0, 0)
    assert sliding({"auto_pad": "VALID", "pads": (1, 1)}, (3,), (10,)).pads == (0, 0)
