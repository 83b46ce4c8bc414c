"""Decodes, resizes and crops images in NumPy; formats other than PPM, PGM and .npy need Pillow."""

from __future__ import annotations

import importlib
import io
import math
from typing import Any

import numpy as np

from stratoscope.errors import SpecError
from stratoscope.spec.steps import ColorMode, Crop, Resize

#: Largest image that is decoded, in pixels: a small file can claim a huge one. Pillow's own limit of old.
MAX_PIXELS = 178_956_970


def decode_image(sample: np.ndarray | bytes | str, color_mode: ColorMode = "RGB") -> np.ndarray:
    """uint8 [height, width, channels] (3, or 1 for gray) from PPM, PGM or .npy bytes, from an array, or by Pillow.

    Gray from colour is luma of ITU-R BT.601, 0.299 R + 0.587 G + 0.114 B, rounded.
    """
    if isinstance(sample, str):
        raise SpecError("step 'decode' needs an image's bytes, not a text")
    if isinstance(sample, np.ndarray):
        image = sample
    elif sample[:2] in (b"P5", b"P6"):
        image = _read_netpbm(sample)
    elif sample[:6] == b"\x93NUMPY":
        image = _read_npy(sample)
    else:
        image = _read_with_pillow(sample)
    if image.ndim == 2:
        image = image[:, :, None]
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3) or image.size == 0:
        raise SpecError(f"an image is uint8 [height, width, 1 or 3], this one is {image.dtype} {list(image.shape)}")
    if color_mode == "gray":
        if image.shape[2] == 1:
            return image
        luma: np.ndarray = image.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
        return _rounded(luma, np.dtype(np.uint8))[:, :, None]
    image = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image
    return image if color_mode == "RGB" else image[:, :, ::-1]


def _read_netpbm(data: bytes) -> np.ndarray:
    """Binary PGM (P5) and PPM (P6) with eight bits a value; Netpbm's own pages describe the format."""
    numbers: list[int] = []
    position = 2
    while len(numbers) < 3:
        while position < len(data) and (data[position : position + 1].isspace() or data[position] == ord("#")):
            if data[position] == ord("#"):
                position = len(data) if (end := data.find(b"\n", position)) < 0 else end
            else:
                position += 1
        start = position
        while position < len(data) and data[position : position + 1].isdigit() and position - start < 10:
            position += 1
        if start == position:
            raise SpecError("the image's PGM/PPM header is damaged")
        numbers.append(int(data[start:position]))
    width, height, largest = numbers
    channels = 3 if data[:2] == b"P6" else 1
    size = width * height * channels
    if largest != 255:
        raise SpecError(f"a PGM/PPM image with largest value {largest} is not supported", hint="write it with 255")
    if not size or len(data) - position - 1 < size:
        raise SpecError(f"the PGM/PPM image is cut off: {width} x {height} x {channels} values are announced")
    return np.frombuffer(data, np.uint8, size, position + 1).reshape(height, width, channels)


def _read_npy(data: bytes) -> np.ndarray:
    """A .npy array; pickled objects are refused, and so is a header that announces more than is there."""
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
    except ValueError as error:
        raise SpecError(f"the .npy header is damaged: {error}") from error
    count = math.prod(shape)
    if dtype.hasobject or count * dtype.itemsize > len(data) - stream.tell():
        raise SpecError("the .npy array is cut off or holds Python objects, which are not loaded")
    flat = np.frombuffer(data, dtype, count, stream.tell())
    return flat.reshape(shape, order="F" if fortran else "C")


def _read_with_pillow(data: bytes) -> np.ndarray:
    try:
        pillow: Any = importlib.import_module("PIL.Image")
    except ImportError as error:
        raise SpecError(
            f"this image is neither PPM, PGM nor .npy (it begins with {data[:4]!r})",
            hint="install Pillow (pip install pillow) to decode other formats",
        ) from error
    try:
        with pillow.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise SpecError(f"the image has {image.width} x {image.height} pixels, the limit is {MAX_PIXELS}")
            return np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
    except (OSError, ValueError, pillow.DecompressionBombError) as error:
        raise SpecError(f"the image cannot be decoded: {error}") from error


def resize_image(image: np.ndarray, step: Resize) -> np.ndarray:
    """[height, width, channels] to the step's size; the element type stays. Separable: first down, then across."""
    height, width = image.shape[:2]
    out_height, out_width = step.height, step.width
    if step.keep_aspect_ratio:
        # Cover the target: the tighter side fits, the other is cut to a whole number as torchvision does.
        if step.height * width >= step.width * height:
            out_width = max(step.width, int(width * step.height / height))
        else:
            out_height = max(step.height, int(height * step.width / width))
    if out_height * max(width, out_width) > MAX_PIXELS:
        raise SpecError(
            f"resizing {height} x {width} to {out_height} x {out_width} needs more than {MAX_PIXELS} pixels"
        )
    if step.method == "nearest":
        rows = np.minimum(((np.arange(out_height) + 0.5) * height / out_height).astype(np.int64), height - 1)
        columns = np.minimum(((np.arange(out_width) + 0.5) * width / out_width).astype(np.int64), width - 1)
        return np.asarray(image[rows][:, columns])
    rows, row_weights = _bilinear_taps(height, out_height, step.antialias)
    columns, column_weights = _bilinear_taps(width, out_width, step.antialias)
    down: np.ndarray = np.einsum("otjc,ot->ojc", image[rows].astype(np.float64), row_weights)
    resized: np.ndarray = np.einsum("iotc,ot->ioc", down[:, columns], column_weights)
    return _rounded(resized, image.dtype)


def _rounded(values: np.ndarray, element_type: np.dtype[Any]) -> np.ndarray:
    """The values in `element_type`; for integers rounded to the nearest, halves up."""
    whole = np.floor(values + 0.5) if np.issubdtype(element_type, np.integer) else values
    return np.asarray(whole, element_type)


def _bilinear_taps(size: int, out_size: int, antialias: bool) -> tuple[np.ndarray, np.ndarray]:
    """Inputs under a triangle around each output's centre, int64 [out_size, taps], and weights whose rows sum to 1.

    Without antialias the triangle is one input wide on each side and inputs beyond the edge repeat the edge; with it,
    shrinking widens the triangle by the scale and inputs beyond the edge have no weight (Pillow's ImagingResample).
    """
    scale = size / out_size
    centers = (np.arange(out_size) + 0.5) * scale - 0.5
    if not antialias or scale <= 1:
        low = np.floor(centers)
        inputs = np.clip(np.stack([low, low + 1], axis=1), 0, size - 1).astype(np.int64)
        return inputs, np.stack([1 - (centers - low), centers - low], axis=1)
    first = np.ceil(centers - scale).astype(np.int64)
    inputs = first[:, None] + np.arange(math.ceil(2 * scale) + 1)
    weights = np.maximum(0.0, 1.0 - np.abs(inputs - centers[:, None]) / scale)
    weights[(inputs < 0) | (inputs >= size)] = 0.0
    return np.clip(inputs, 0, size - 1), weights / weights.sum(axis=1, keepdims=True)


def crop_center(image: np.ndarray, step: Crop) -> np.ndarray:
    """The centre of [height, width, channels]."""
    height, width = image.shape[:2]
    if height < step.height or width < step.width:
        raise SpecError(f"cannot crop {step.height} x {step.width} from an image of {height} x {width}")
    top, left = (height - step.height) // 2, (width - step.width) // 2
    return image[top : top + step.height, left : left + step.width]
