"""Carries out declared pre- and post-processing in NumPy: one stored sample in, one tensor or answer out.

The steps and their conventions are declared in `spec/steps.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stratoscope.errors import MeasurementError, SpecError
from stratoscope.measure.images import crop_center, decode_image, resize_image
from stratoscope.measure.texts import read_lines, tokenize
from stratoscope.spec.steps import (
    ArgSort,
    Cast,
    Crop,
    Decode,
    Layout,
    Normalize,
    Resize,
    Softmax,
    Step,
    Tokenize,
    ToLayout,
)

Sample = np.ndarray | bytes | str


@dataclass(frozen=True, slots=True)
class Ranked:
    """A class of an output: its index, its score, and its name where labels are declared."""

    index: int
    score: float
    label: str | None = None


def apply_preprocess(steps: Sequence[Step], sample: Sample, *, folder: Path | None = None) -> np.ndarray:
    """One input tensor, without the batch axis, from one stored sample.

    Args:
        steps: the input's declared steps; with none, an array passes as it is.
        sample: an image file's bytes (`decode`), a text (`tokenize`), or an array.
        folder: where vocabulary files are looked up: the manifest's folder.

    Raises:
        SpecError: a step gets what it cannot work on, or a file that it names cannot be used.
    """
    value = sample
    layout: Layout = "HWC"
    for step in steps:
        if isinstance(step, Decode):
            value = decode_image(value, step.color_mode)
            layout = step.data_layout
            value = value if layout == "HWC" else value.transpose(2, 0, 1)
        elif isinstance(step, Tokenize):
            value = tokenize(step, value, folder)
        else:
            array = _array(step.op, value)
            if isinstance(step, Resize):
                value = _spatially(array, layout, lambda image, s=step: resize_image(image, s))
            elif isinstance(step, Crop):
                value = _spatially(array, layout, lambda image, s=step: crop_center(image, s))
            elif isinstance(step, Normalize):
                value = normalize(array, step, layout)
            elif isinstance(step, ToLayout):
                value, layout = _to_layout(array, layout, step.to), step.to
            elif isinstance(step, Cast):
                value = cast(array, step)
            else:
                raise SpecError(f"step {step.op!r} is no pre-processing")
    return np.ascontiguousarray(_array("input", value))


def apply_postprocess(
    steps: Sequence[Step], output: np.ndarray, *, folder: Path | None = None
) -> np.ndarray | list[Ranked]:
    """The answer to one sample from one output tensor without its batch axis: an array, or a ranking after `argsort`.

    Raises:
        SpecError: a step gets what it cannot work on, or a label file cannot be used.
        MeasurementError: the output contains NaN, which has no rank.
    """
    value = output
    for step in steps:
        if isinstance(step, Softmax):
            value = softmax(value, step.axis)
        elif isinstance(step, Cast):
            value = cast(value, step)
        elif isinstance(step, ArgSort):
            return rank(value, step, folder)
        else:
            raise SpecError(f"step {step.op!r} is no post-processing")
    return value


def _array(op: str, value: Sample) -> np.ndarray:
    if not isinstance(value, np.ndarray):
        raise SpecError(
            f"step {op!r} needs an array and has {type(value).__name__}", hint="begin with a decode or tokenize step"
        )
    return value


def _spatially(array: np.ndarray, layout: Layout, work: object) -> np.ndarray:
    """`work` on the image as [height, width, channels]."""
    assert callable(work)
    if array.ndim == 2:
        return np.asarray(work(array[:, :, None]))[:, :, 0]
    if array.ndim != 3:
        raise SpecError(f"an image has two or three axes, this array has {array.ndim}")
    if layout == "HWC":
        return np.asarray(work(array))
    return np.asarray(work(array.transpose(1, 2, 0))).transpose(2, 0, 1)


def normalize(array: np.ndarray, step: Normalize, layout: Layout) -> np.ndarray:
    """float32 (x * rescale - mean) / std, channel by channel."""
    mean, std = np.asarray(step.mean, np.float32), np.asarray(step.std, np.float32)
    channels = max(mean.size, std.size)
    axis = 0 if layout == "CHW" else -1
    if channels > 1 and (array.ndim != 3 or array.shape[axis] != channels):
        raise SpecError(f"normalize has {channels} channels, the array is {list(array.shape)} in {layout}")
    if channels > 1 and layout == "CHW":
        mean, std = (v.reshape(-1, 1, 1) for v in (mean, std))
    scaled = array.astype(np.float32) * np.float32(step.rescale)
    return np.asarray((scaled - mean) / std, np.float32)


def _to_layout(array: np.ndarray, layout: Layout, to: Layout) -> np.ndarray:
    if array.ndim != 3:
        raise SpecError(f"a layout needs three axes, this array is {list(array.shape)}")
    if layout == to:
        return array
    return array.transpose(2, 0, 1) if to == "CHW" else array.transpose(1, 2, 0)


def cast(array: np.ndarray, step: Cast) -> np.ndarray:
    """The array in another element type; integers that do not fit, and fractions or NaN to integers, are errors."""
    target = np.dtype(step.to)
    if np.issubdtype(target, np.integer):
        info = np.iinfo(target)
        whole = not np.issubdtype(array.dtype, np.floating) or bool(np.all(np.trunc(array) == array))
        if not whole or (array.size and (int(array.min()) < info.min or int(array.max()) > info.max)):
            raise SpecError(f"cast to {step.to}: a value is no whole number between {info.min} and {info.max}")
    return array.astype(target)


def softmax(array: np.ndarray, axis: int) -> np.ndarray:
    """Probabilities along `axis`, in float64 and back to the array's floating type."""
    if not -array.ndim <= axis < array.ndim:
        raise SpecError(f"softmax over axis {axis} of an array with {array.ndim} axes")
    wide = array.astype(np.float64)
    powers = np.exp(wide - wide.max(axis=axis, keepdims=True))
    kind = array.dtype if np.issubdtype(array.dtype, np.floating) else np.dtype(np.float64)
    return np.asarray(powers / powers.sum(axis=axis, keepdims=True), kind)


def rank(scores: np.ndarray, step: ArgSort, folder: Path | None = None) -> list[Ranked]:
    """The classes of a one-axis output by falling score; equal scores keep their order."""
    flat = scores.reshape(-1)[step.ignore_first :]
    if flat.size != max(scores.shape, default=0) - step.ignore_first or not flat.size:
        raise SpecError(f"argsort needs the scores of one sample, this output is {list(scores.shape)}")
    if np.issubdtype(flat.dtype, np.floating) and np.isnan(flat).any():
        raise MeasurementError("the output contains NaN, which has no rank", hint="check the model and its inputs")
    order = flat.size - 1 - np.argsort(flat[::-1], kind="stable")[::-1]
    labels = None if step.labels is None else read_lines(step.labels, folder)
    if labels is not None and len(labels) < flat.size:
        raise SpecError(f"{step.labels} names {len(labels)} classes, the output has {flat.size}")
    best = order[: step.k].tolist()
    return [Ranked(index, float(flat[index]), None if labels is None else labels[index]) for index in best]
