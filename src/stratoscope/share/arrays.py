"""The weights of a prepared model as read-only arrays over memory that all processes share."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from types import TracebackType

import numpy as np

from stratoscope.share.artifact import Artifact, view
from stratoscope.share.errors import IntegrityError
from stratoscope.share.lease import Lease
from stratoscope.share.mapping import map_descriptor, open_inside, populate


class SharedArrays(Mapping[str, np.ndarray]):
    """Weight name to read-only array; the memory behind them is one copy a machine.

    Arrays stay valid after `close`, which ends the lease and lets go of the mapping: memory goes when the last array
    does. With `private` they can be written, and what is written stays in this process. `tier` says where the memory
    is: "file" (page cache) or "memory" (sealed, held by the server).
    """

    def __init__(self, artifact: Artifact, lease: Lease | None, *, private: bool = False) -> None:
        self.artifact = artifact
        self.tier = "file" if lease is None else lease.tier
        self._lease = lease
        self._buffers, self._arrays = _map(artifact, lease, private)

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __enter__(self) -> SharedArrays:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def populate(self) -> None:
        """Takes all page faults now."""
        for buffer in self._buffers:
            populate(buffer)

    def close(self) -> None:
        """Ends the lease and drops the mapping; harmless when repeated."""
        self._buffers = []
        self._arrays = {}
        if self._lease is not None:
            self._lease.close()
            self._lease = None


def _map(artifact: Artifact, lease: Lease | None, private: bool) -> tuple[list[memoryview], dict[str, np.ndarray]]:
    """Mappings of the lease's descriptors, or of the artefact's own files where there is no lease, and the arrays."""
    sizes = {stored.name: stored.nbytes for stored in artifact.manifest.files}
    buffers: dict[str, memoryview] = {}
    for name in artifact.manifest.data_files():
        given = None if lease is None else lease.descriptors.get(name)
        descriptor = open_inside(artifact.folder, name) if given is None else given
        try:
            buffers[name] = map_descriptor(descriptor, sizes[name], str(artifact.folder / name), private=private)
        finally:
            if given is None:
                os.close(descriptor)
    if lease is not None:
        lease.close_descriptors()
    try:
        arrays = {tensor.name: view(tensor, buffers[tensor.file]) for tensor in artifact.manifest.tensors}
    except ValueError as error:
        raise IntegrityError(
            f"{artifact.folder}: {error} its manifest", hint="evict the model and prepare it again"
        ) from error
    return list(buffers.values()), arrays
