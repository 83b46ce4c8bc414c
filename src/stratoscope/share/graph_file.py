"""Writes an ONNX graph whose weights lie page-aligned in files beside it, once for the model or once a layer."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import onnx
from onnx import TensorProto, helper

from stratoscope.share.artifact import (
    GRAPH,
    INLINE_BELOW_BYTES,
    PAGE_FROM_BYTES,
    StoredFile,
    Tensor,
    align,
)
from stratoscope.share.errors import ShareError
from stratoscope.share.layers import LAYER, link_layer

WEIGHTS: Final = "weights.bin"
#: External-data key of a blob that ONNX Runtime packed: "prepacked_0" = "hash|offset;length;checksum|...".
_PACKED: Final = "prepacked_"


@dataclass(frozen=True, slots=True)
class _Blob:
    name: str
    dtype: str
    shape: tuple[int, ...]
    data: memoryview
    raw: bool = False


def write_graph(
    model: onnx.ModelProto, folder: Path, blobs: Path | None = None, source: Path | None = None
) -> tuple[tuple[StoredFile, ...], tuple[Tensor, ...]]:
    """Writes `model` as graph.onnx with its weights beside it; returns all files, and where each weight lies.

    Args:
        model: holds its weights, or refers to `source`.
        blobs: None puts all weights into one file; else each large weight is a link to the file in this folder that
            has its content, so that models share what they have in common.
        source: a file written by ONNX Runtime, with the weights and the blobs that it packed.
    """
    packed = None if source is None else np.memmap(source, np.uint8, "r").data
    writer = _Writer(folder, blobs)
    with open(folder / WEIGHTS, "wb") as file:
        for tensor in model.graph.initializer:
            _place(tensor, writer, file, packed)
    files = list(writer.files)
    if writer.end:
        files.append(StoredFile(name=WEIGHTS, nbytes=writer.end))
    else:
        (folder / WEIGHTS).unlink()
    content = model.SerializeToString()
    (folder / GRAPH).write_bytes(content)
    graph = StoredFile(name=GRAPH, nbytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    return (graph, *files), tuple(writer.tensors)


class _Writer:
    """Puts blobs into the common file, or into files of their own."""

    def __init__(self, folder: Path, blobs: Path | None) -> None:
        self.folder, self.blobs = folder, blobs
        self.files: list[StoredFile] = []
        self.tensors: list[Tensor] = []
        self.end = 0

    def put(self, blob: _Blob, file: BinaryIO) -> tuple[str, int]:
        """The file's name and the offset at which the blob now lies."""
        digest, nbytes = hashlib.sha256(blob.data).hexdigest(), blob.data.nbytes
        if self.blobs is not None and nbytes >= PAGE_FROM_BYTES:
            name, offset = f"{LAYER}{digest}", 0
            if all(stored.name != name for stored in self.files):
                self.files.append(link_layer(self.blobs, self.folder, digest, blob.data))
        else:
            name, offset = WEIGHTS, align(self.end, nbytes)
            file.seek(offset)
            file.write(blob.data)
            self.end = offset + nbytes
        self.tensors.append(
            Tensor(
                name=blob.name,
                dtype=blob.dtype,
                shape=blob.shape,
                file=name,
                offset=offset,
                nbytes=nbytes,
                sha256=digest,
                raw=blob.raw,
            )
        )
        return name, offset


def _place(tensor: TensorProto, writer: _Writer, file: BinaryIO, packed: memoryview | None) -> None:
    """Moves one initializer, and the blobs packed from it, out of the graph."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    if tensor.data_location == TensorProto.EXTERNAL:
        if packed is None:
            raise ShareError(f"weight {tensor.name!r} refers to a file that was not given")
        offset = int(entries.get("offset", "0"))
        data = packed[offset : offset + int(entries["length"])]
    else:
        data = memoryview(_raw(tensor))
        if data.nbytes < INLINE_BELOW_BYTES:
            return
    name, place = writer.put(_blob(tensor, data), file)
    extra = {}
    for key, value in entries.items():
        if key.startswith(_PACKED) and packed is not None:
            digest, *parts = value.split("|")
            moved = [
                _packed_part(f"{tensor.name}/{key}/{number}", part, packed, writer, file, name)
                for number, part in enumerate(filter(None, parts))
            ]
            extra[key] = "|".join((digest, *moved))
    for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data", "external_data"):
        tensor.ClearField(field)
    tensor.data_location = TensorProto.EXTERNAL
    wanted = {"location": name, "offset": str(place), "length": str(data.nbytes), **extra}
    for key, value in wanted.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value


def _packed_part(name: str, part: str, packed: memoryview, writer: _Writer, file: BinaryIO, beside: str) -> str:
    """One buffer of a packed blob, "offset;length;checksum", in its new place."""
    offset, length, *rest = part.split(";")
    data = packed[int(offset) : int(offset) + int(length)]
    where, place = writer.put(_Blob(name, "uint8", (data.nbytes,), data, raw=True), file)
    if where != beside:
        raise ShareError(
            f"packed weight {name!r} cannot lie in a file of its own", hint="prepare the model at granularity 'model'"
        )
    return ";".join((str(place), length, *rest))


def _raw(tensor: TensorProto) -> bytes:
    """The bytes of a tensor as external data has them; strings stay inside the graph."""
    if tensor.HasField("raw_data"):
        return bytes(tensor.raw_data)
    if tensor.data_type == TensorProto.STRING:
        return b""
    return bytes(onnx.numpy_helper.to_array(tensor).tobytes())


def _blob(tensor: TensorProto, data: memoryview) -> _Blob:
    """The tensor's bytes with NumPy's type and shape, or as bytes where NumPy has no such type."""
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    shape = tuple(int(size) for size in tensor.dims)
    plain = dtype.kind in "fiubc" and dtype.isbuiltin == 1
    if plain and math.prod(shape) * dtype.itemsize == data.nbytes:
        return _Blob(tensor.name, dtype.name, shape, data)
    return _Blob(tensor.name, "uint8", (data.nbytes,), data, raw=True)
