"""Writes and reads safetensors files whose tensors begin on pages, so that they can be used where they are mapped."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from stratoscope.share.artifact import PAGE_BYTES, PAGE_FROM_BYTES, StoredFile, Tensor, align
from stratoscope.share.errors import IntegrityError
from stratoscope.share.layers import link_layer

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
    folder: Path, blobs: Iterable[Blob], metadata: Mapping[str, str], layers: Path | None = None
) -> tuple[tuple[StoredFile, ...], tuple[Tensor, ...]]:
    """Writes weights.safetensors; returns all files, and where each tensor lies (from its file's beginning).

    With `layers` large tensors are links to files in this folder, one for all models that have them; the header lists
    them under the key "layers" of its metadata.
    """
    files: dict[str, StoredFile] = {}
    elsewhere: dict[str, Any] = {}
    apart: list[Tensor] = []
    kept: list[Blob] = []
    for blob in blobs:
        if layers is None or blob.data.nbytes < PAGE_FROM_BYTES:
            kept.append(blob)
            continue
        digest = hashlib.sha256(blob.data).hexdigest()
        if digest not in files:
            files[digest] = link_layer(layers, folder, digest, blob.data)
        apart.append(_entry(blob, files[digest].name, 0, digest))
        elsewhere[blob.name] = {"dtype": blob.dtype, "shape": list(blob.shape)}
    header, starts, end = _header(kept, {**metadata, "layers": json.dumps(elsewhere)})
    text = json.dumps(header).encode()
    base = -(-(_LENGTH.size + len(text)) // PAGE_BYTES) * PAGE_BYTES
    head = _LENGTH.pack(base - _LENGTH.size) + text.ljust(base - _LENGTH.size)
    tensors = [_entry(Blob("__header__", "U8", (base,), memoryview(head)), FILE, 0)]
    with open(folder / FILE, "wb") as file:
        file.write(head)
        for blob, start in zip(kept, starts, strict=True):
            file.seek(base + start)
            file.write(blob.data)
            tensors.append(_entry(blob, FILE, base + start))
    return (StoredFile(name=FILE, nbytes=base + end), *files.values()), (*tensors, *apart)


def _header(blobs: Sequence[Blob], metadata: dict[str, str]) -> tuple[dict[str, Any], list[int], int]:
    """The header of a file with these tensors, where each begins after it, and where the last ends."""
    header: dict[str, Any] = {"__metadata__": metadata}
    end, starts = 0, []
    for number, blob in enumerate(blobs):
        start = align(end, blob.data.nbytes)
        if start > end:
            header[f"{_PADDING}{number}"] = {"dtype": "U8", "shape": [start - end], "data_offsets": [end, start]}
        starts.append(start)
        end = start + blob.data.nbytes
        header[blob.name] = {"dtype": blob.dtype, "shape": list(blob.shape), "data_offsets": [start, end]}
    return header, starts, end


def read_header(head: bytes) -> dict[str, Any]:
    """Name -> type, shape, and "__metadata__", of a file that begins with `head` and of the layers beside it.

    Raises:
        IntegrityError: it is no safetensors file.
    """
    try:
        (length,) = _LENGTH.unpack(head[: _LENGTH.size])
        header = json.loads(head[_LENGTH.size : _LENGTH.size + length])
        header |= json.loads(header["__metadata__"].get("layers", "{}"))
        return {name: value for name, value in header.items() if not name.startswith(_PADDING)}
    except (struct.error, ValueError, AttributeError, KeyError, TypeError) as error:
        raise IntegrityError(f"{FILE} has no header: {error}", hint="evict the model and prepare it again") from error


def _entry(blob: Blob, file: str, offset: int, digest: str | None = None) -> Tensor:
    known = _NUMPY.get(blob.dtype)
    return Tensor(
        name=blob.name,
        dtype=known or "uint8",
        shape=blob.shape if known else (blob.data.nbytes,),
        file=file,
        offset=offset,
        nbytes=blob.data.nbytes,
        sha256=digest or hashlib.sha256(blob.data).hexdigest(),
        raw=known is None,
    )
