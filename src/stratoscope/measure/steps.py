"""Carries out declared pre- and post-processing in NumPy: one stored sample in, one tensor or answer out.

The steps and their conventions are declared in `spec/steps.py`. Images that NumPy cannot read by itself (anything but
PPM, PGM and .npy) need Pillow, which is used where it is installed.
"""

from __future__ import annotations

import importlib
import io
import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stratoscope.errors import MeasurementError, SpecError
from stratoscope.spec.steps import (
    ArgSort,
    Cast,
    ColorMode,
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

#: Largest image that is decoded, in pixels: a small file can claim a huge one. Pillow's own limit of old.
MAX_PIXELS = 178_956_970

#: Largest vocabulary or label file, in bytes.
MAX_LIST_BYTES = 16 << 20

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


def decode_image(sample: Sample, color_mode: ColorMode = "RGB") -> np.ndarray:
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


def read_lines(name: str, folder: Path | None) -> list[str]:
    """Lines of a file beside the manifest; raises SpecError where it is missing, too large, or outside the folder."""
    base = (folder or Path()).resolve()
    path = (base / name).resolve()
    if not path.is_relative_to(base):
        raise SpecError(f"{name} lies outside the manifest's folder {base}")
    try:
        if path.stat().st_size > MAX_LIST_BYTES:
            raise SpecError(f"{path} is larger than {MAX_LIST_BYTES} bytes")
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"cannot read {path}: {error}", hint="name a text file beside the manifest") from error


def tokenize(step: Tokenize, text: Sample, folder: Path | None = None) -> np.ndarray:
    """int64 [max_length]: ids, mask or segments of one text."""
    if not isinstance(text, str):
        raise SpecError(f"step 'tokenize' needs a text and has {type(text).__name__}")
    vocabulary = {token: index for index, token in enumerate(read_lines(step.vocabulary, folder))}
    special = (step.unknown_token, step.start_token, step.end_token, step.padding_token)
    missing = [token for token in special if token not in vocabulary]
    if missing:
        raise SpecError(f"{step.vocabulary} lacks the special tokens {', '.join(missing)}")
    pieces = [
        p for word in split_words(text, step.lowercase) for p in word_pieces(word, vocabulary, step.unknown_token)
    ]
    tokens = [step.start_token, *pieces[: step.max_length - 2], step.end_token]
    result = np.zeros(step.max_length, np.int64)
    if step.output == "ids":
        result[:] = vocabulary[step.padding_token]
        result[: len(tokens)] = [vocabulary[token] for token in tokens]
    elif step.output == "mask":
        result[: len(tokens)] = 1
    return result


def split_words(text: str, lowercase: bool) -> list[str]:
    """Words and single punctuation marks, as BERT's basic tokenizer cuts them: CJK characters stand alone."""
    if lowercase:
        decomposed = unicodedata.normalize("NFD", text.lower())
        text = "".join(char for char in decomposed if unicodedata.category(char) != "Mn")
    spaced: list[str] = []
    for char in text:
        category = unicodedata.category(char)
        if char in "\t\n\r" or category == "Zs":
            spaced.append(" ")
        elif char in "\0\ufffd" or category in {"Cc", "Cf", "Co", "Cs"}:
            continue
        elif (
            category.startswith("P") or (char.isascii() and char.isprintable() and not char.isalnum()) or _is_cjk(char)
        ):
            spaced.append(f" {char} ")
        else:
            spaced.append(char)
    return "".join(spaced).split()


def _is_cjk(char: str) -> bool:
    """Unified ideographs and their extensions and compatibility forms, as BERT counts them."""
    code = ord(char)
    ranges = ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2CEAF), (0xF900, 0xFAFF))
    return any(low <= code <= high for low, high in (*ranges, (0x2F800, 0x2FA1F)))


def word_pieces(word: str, vocabulary: Mapping[str, int], unknown: str) -> list[str]:
    """The longest known pieces from the left, later ones marked ##; a word with an unknown rest is unknown."""
    if len(word) > 100:  # BERT's limit
        return [unknown]
    pieces: list[str] = []
    start = 0
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = ("##" if start else "") + word[start:end]
            if piece in vocabulary:
                pieces.append(piece)
                start = end
                break
        else:
            return [unknown]
    return pieces
