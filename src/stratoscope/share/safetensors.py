"""Writes and reads safetensors files whose tensors begin on pages, so that they can be used where they are mapped."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from stratoscope.share.artifact import PAGE_BYTES, StoredFile, Tensor, align
from stratoscope.share.errors import IntegrityError

FILE: Final = "weights.safetensors"
#: The format allows no holes between tensors: the space up to the next page is a tensor of its own.
_PADDING: Final = "__padding__."
_LENGTH: Final = struct.Struct("<Q")
#: Safetensors' names of types that NumPy has too.
_NUMPY: Final = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
    "C64": "complex64",
}


@dataclass(frozen=True, slots=True)
class Blob:
    """A tensor to write: `dtype` is safetensors' name of its type."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: memoryview


def write_safetensors(
    folder: Path, blobs: Iterable[Blob], metadata: Mapping[str, str]
) -> tuple[tuple[StoredFile, ...], tuple[Tensor, ...]]:
    """Writes weights.safetensors; returns the file, and where each tensor lies in it (from the file's beginning)."""
    kept = list(blobs)
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end, starts = 0, []
    for number, blob in enumerate(kept):
        start = align(end, blob.data.nbytes)
        if start > end:
            header[f"{_PADDING}{number}"] = {"dtype": "U8", "shape": [start - end], "data_offsets": [end, start]}
        starts.append(start)
        end = start + blob.data.nbytes
        header[blob.name] = {"dtype": blob.dtype, "shape": list(blob.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    base = -(-(_LENGTH.size + len(text)) // PAGE_BYTES) * PAGE_BYTES
    text = text.ljust(base - _LENGTH.size)
    tensors = []
    with open(folder / FILE, "wb") as file:
        file.write(_LENGTH.pack(len(text)) + text)
        for blob, start in zip(kept, starts, strict=True):
            file.seek(base + start)
            file.write(blob.data)
            tensors.append(_entry(blob, base + start))
    head = Tensor(
        name="__header__",
        dtype="uint8",
        shape=(base,),
        file=FILE,
        offset=0,
        nbytes=base,
        sha256=hashlib.sha256(_LENGTH.pack(len(text)) + text).hexdigest(),
        raw=True,
    )
    return (StoredFile(name=FILE, nbytes=base + end),), (head, *tensors)


def read_header(head: bytes) -> dict[str, Any]:
    """Name -> type, shape, offsets, and "__metadata__", of a file that begins with `head`; without the padding.

    Raises:
        IntegrityError: it is no safetensors file.
    """
    try:
        (length,) = _LENGTH.unpack(head[: _LENGTH.size])
        header = json.loads(head[_LENGTH.size : _LENGTH.size + length])
        return {name: value for name, value in header.items() if not name.startswith(_PADDING)}
    except (struct.error, ValueError, AttributeError) as error:
        raise IntegrityError(f"{FILE} has no header: {error}", hint="evict the model and prepare it again") from error


def _entry(blob: Blob, offset: int) -> Tensor:
    known = _NUMPY.get(blob.dtype)
    return Tensor(
        name=blob.name,
        dtype=known or "uint8",
        shape=blob.shape if known else (blob.data.nbytes,),
        file=FILE,
        offset=offset,
        nbytes=blob.data.nbytes,
        sha256=hashlib.sha256(blob.data).hexdigest(),
        raw=known is None,
    )
