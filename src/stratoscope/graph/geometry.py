"""Sliding windows of convolutions and pools, one spatial axis at a time: pads, taps on real data, elements touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any


@dataclass(frozen=True, slots=True)
class Window:
    """One spatial axis of a sliding window: `size` inputs, `outputs` positions, `taps` of the kernel.

    Output o and tap t meet input o * stride + t * dilation - pad_begin. A tap outside [0, size) is padding.
    """

    size: int
    outputs: int
    taps: int
    stride: int = 1
    dilation: int = 1
    pad_begin: int = 0

    def valid_taps(self) -> int:
        """The number of (output, tap) pairs that meet a real input; the rest of outputs * taps is padding."""
        return _valid_taps(self)

    def touched(self) -> int:
        """The number of inputs that at least one (output, tap) pair meets."""
        return _touched(self)


def _outputs_of_tap(window: Window, tap: int) -> range:
    """The outputs for which this tap meets a real input."""
    offset = tap * window.dilation - window.pad_begin
    first = max(0, -(offset // window.stride))  # smallest o with o * stride + offset >= 0
    last = min(window.outputs - 1, (window.size - 1 - offset) // window.stride)
    return range(first, last + 1)


@lru_cache(maxsize=4096)
def _valid_taps(window: Window) -> int:
    return sum(len(_outputs_of_tap(window, tap)) for tap in range(window.taps))


@lru_cache(maxsize=4096)
def _touched(window: Window) -> int:
    seen = bytearray(window.size)
    for tap in range(window.taps):
        outputs = _outputs_of_tap(window, tap)
        if outputs:
            first = outputs[0] * window.stride + tap * window.dilation - window.pad_begin
            last = outputs[-1] * window.stride + tap * window.dilation - window.pad_begin
            seen[first : last + 1 : window.stride] = b"\x01" * len(outputs)
    return seen.count(1)


def explicit_pads(
    auto_pad: str,
    pads: Sequence[int] | None,
    inputs: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> tuple[int, ...]:
    """Pads as ONNX writes them (begins, then ends), with SAME_UPPER, SAME_LOWER and VALID resolved.

    SAME: the output has ceil(input / stride) positions; the odd element of padding goes to the end (UPPER) or the
    begin (LOWER), as the ONNX operators Conv and MaxPool define it.
    """
    rank = len(kernel)
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        begins, ends = [], []
        for size, taps, stride, dilation in zip(inputs, kernel, strides, dilations, strict=True):
            outputs = -(-size // stride)
            total = max((outputs - 1) * stride + (taps - 1) * dilation + 1 - size, 0)
            small, large = total // 2, total - total // 2
            begins.append(small if auto_pad == "SAME_UPPER" else large)
            ends.append(large if auto_pad == "SAME_UPPER" else small)
        return (*begins, *ends)
    if auto_pad == "VALID" or not pads:
        return (0,) * (2 * rank)
    return tuple(pads)


@dataclass(frozen=True, slots=True)
class Sliding:
    """The canonical geometry of a convolution or pool, all attributes explicit."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]

    def windows(self, inputs: Sequence[int], outputs: Sequence[int]) -> tuple[Window, ...]:
        """One window an axis, for these spatial input and output sizes."""
        return tuple(
            Window(size, out, taps, stride, dilation, begin)
            for size, out, taps, stride, dilation, begin in zip(
                inputs, outputs, self.kernel, self.strides, self.dilations, self.pads, strict=False
            )
        )


def sliding(attributes: Mapping[str, Any], kernel: Sequence[int], inputs: Sequence[int]) -> Sliding:
    """The geometry that a layer's attributes say, for spatial `inputs`; absent attributes take ONNX's defaults."""
    rank = len(kernel)
    strides = tuple(attributes.get("strides") or (1,) * rank)
    dilations = tuple(attributes.get("dilations") or (1,) * rank)
    auto_pad = attributes.get("auto_pad") or "NOTSET"
    pads = explicit_pads(auto_pad, attributes.get("pads"), inputs, kernel, strides, dilations)
    return Sliding(tuple(kernel), strides, dilations, pads)
