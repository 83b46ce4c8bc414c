"""What a prepared model is on disk: a folder with a manifest, perhaps a graph, and files of page-aligned weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import numpy as np
from pydantic import Field, NonNegativeInt, StringConstraints

from stratoscope.spec.base import Document, digest_of

MANIFEST: Final = "manifest.json"
GRAPH: Final = "graph.onnx"
PAGE_BYTES: Final = 4096
#: Tensors from this size on begin on a page of their own; smaller ones on a cache line.
PAGE_FROM_BYTES: Final = 16 * 1024
LINE_BYTES: Final = 64
#: Smaller tensors stay inside the graph.
INLINE_BELOW_BYTES: Final = 1024

Kind = Literal["onnxruntime", "pytorch", "weights"]
Granularity = Literal["model", "layer"]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Tensor(Document):
    """Where one blob lies. `dtype` is NumPy's name; a type that NumPy has not is given as its bytes, uint8."""

    name: str
    dtype: str
    shape: tuple[NonNegativeInt, ...]
    file: FileName
    offset: NonNegativeInt
    nbytes: NonNegativeInt
    sha256: Sha256
    raw: bool = Field(
        default=False, description="its type is none of NumPy's: `dtype` and `shape` are those of its bytes"
    )


class StoredFile(Document):
    """A file of the folder; `sha256` is given where no tensor's digest covers its content."""

    name: FileName
    nbytes: NonNegativeInt
    sha256: Sha256 | None = None


class ArtifactKey(Document):
    """What the prepared bytes depend on; another value of any field is another artefact."""

    format: Literal[1] = 1
    kind: Kind
    model_sha256: str
    runtime: str = Field(description="name and version of the runtime that reads the artefact")
    isa: str = Field(description="architecture and digest of the CPU's extensions, where the layout depends on them")
    optimization: str
    granularity: Granularity = "model"

    def digest(self) -> str:
        """The folder's name: 32 hex digits."""
        return digest_of(self.model_dump(mode="json")).removeprefix("sha256:")[:32]


class ArtifactManifest(Document):
    """The content of a prepared model.

    `packing` says how its weights reach the kernel: "direct", as they lie in the file; "saved", through the runtime's
    saved pre-packed blobs, which it checks at every load.
    """

    schema_: Literal["stratoscope/shared-model/1"] = Field(default="stratoscope/shared-model/1", alias="schema")
    key: ArtifactKey
    model: str = Field(description="name of the model")
    packing: Literal["direct", "saved"] = "direct"
    files: tuple[StoredFile, ...]
    tensors: tuple[Tensor, ...]
    load_cost_s: float = Field(default=0.0, ge=0, description="load and first inference without sharing")
    facts: dict[str, float] = Field(default={}, description="what preparing found: errors, bytes, counts")

    def weights_bytes(self) -> int:
        """Bytes of all tensors, without the space between them."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def data_files(self) -> tuple[str, ...]:
        """Names of the files that hold tensors, in order."""
        return tuple(dict.fromkeys(tensor.file for tensor in self.tensors))


@dataclass(frozen=True, slots=True)
class Artifact:
    """A prepared model in its folder."""

    folder: Path
    manifest: ArtifactManifest

    @property
    def key(self) -> str:
        """Digest of what the bytes depend on."""
        return self.manifest.key.digest()

    @property
    def graph(self) -> Path:
        """The graph's file."""
        return self.folder / GRAPH


def align(offset: int, nbytes: int) -> int:
    """The next offset at which a tensor of `nbytes` may begin."""
    step = PAGE_BYTES if nbytes >= PAGE_FROM_BYTES else LINE_BYTES
    return -(-offset // step) * step


def view(tensor: Tensor, buffer: memoryview) -> np.ndarray:
    """The tensor as an array over `buffer`, the file that holds it, without a copy; read-only where the buffer is.

    Raises:
        ValueError: the entry does not fit the buffer or its own shape.
    """
    dtype = np.dtype(tensor.dtype)
    if math.prod(tensor.shape) * dtype.itemsize != tensor.nbytes or tensor.offset + tensor.nbytes > buffer.nbytes:
        raise ValueError(f"tensor {tensor.name!r} does not fit")
    part = buffer[tensor.offset : tensor.offset + tensor.nbytes]
    return np.frombuffer(part, dtype=dtype).reshape(tensor.shape)
