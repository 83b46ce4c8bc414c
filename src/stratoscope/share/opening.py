"""Opens prepared models, as arrays or for ONNX Runtime: from the server where one runs, else from the file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stratoscope.share.arrays import SharedArrays
from stratoscope.share.artifact import Artifact, Granularity, Kind
from stratoscope.share.client import request_lease
from stratoscope.share.errors import ShareError
from stratoscope.share.library import Library
from stratoscope.share.memory import give_back_free_memory, private_bytes
from stratoscope.share.prepare import prepare, private_allowance
from stratoscope.spec.model import LoadableModel
from stratoscope.trace.steps import step


def attach(
    model: LoadableModel | str | Path,
    *,
    kind: Kind = "weights",
    granularity: Granularity = "model",
    library: Library | None = None,
) -> SharedArrays:
    """The weights of `model` as read-only arrays that all processes of this machine share.

    Args:
        model: a model, or whatever `stratoscope run` takes: a zoo name, a file, a manifest.
        kind: "weights" are the tensors as the model's file has them, by name; "onnxruntime" those that the runtime
            executes, in its own layout.
        granularity: "layer" shares equal weights of different models too.

    Raises:
        ShareError: the model cannot be prepared or mapped.
        ModelError: there is no such model.
    """
    if not isinstance(model, LoadableModel):
        from stratoscope.models.resolve import resolve

        model = resolve(model)
    library = library or Library.open()
    artifact = prepare(model, kind=kind, granularity=granularity, library=library)
    return open_arrays(artifact, library)


def open_arrays(artifact: Artifact, library: Library, *, private: bool = False) -> SharedArrays:
    """The arrays of an artefact: leased from the server where one runs for this store, else mapped from its files."""
    lease = request_lease(library, artifact.key)
    try:
        return SharedArrays(artifact, lease, private=private)
    except BaseException:
        if lease is not None:
            lease.close()
        raise


@dataclass(slots=True)
class SharedModel:
    """What ONNX Runtime needs to run a prepared model.

    Attributes:
        graph: the file to load, without any further optimisation.
        initializers: weights to hand to the session, which must outlive it; the runtime maps all others itself.
        arrays: what keeps them mapped and the lease alive.
    """

    artifact: Artifact
    graph: Path
    initializers: dict[str, np.ndarray]
    arrays: SharedArrays
    private_before: int

    def check(self) -> dict[str, int | str]:
        """Facts of the load that has just been done, after a test that it copied no weights.

        Raises:
            ShareError: private memory grew by more than graph and arena take; the runtime fell back to a copy.
        """
        return check_private(self.artifact, self.arrays.tier, self.private_before) | {
            "packing": self.artifact.manifest.packing
        }

    def close(self) -> None:
        """Ends the lease. Weights stay mapped for as long as a session holds them."""
        self.initializers = {}
        self.arrays.close()


def check_private(artifact: Artifact, tier: str, before: int) -> dict[str, int | str]:
    """Bytes of weights, and how much private memory grew since it was `before`: a load that is done copied nothing.

    Raises:
        ShareError: it grew by more than graph and arena take; the runtime fell back to a copy.
    """
    give_back_free_memory()
    grown, weights = private_bytes() - before, artifact.manifest.weights_bytes()
    if grown > private_allowance(weights):
        raise ShareError(
            f"loading {artifact.manifest.model!r} shared took {grown / 2**20:.0f} MiB of private memory: "
            "the runtime copied weights",
            hint="prepare it again: stratoscope share evict, then share prepare",
        )
    return {"weights_bytes": weights, "private_bytes": grown, "tier": tier}


def open_shared(model: LoadableModel, *, optimization: str, granularity: Granularity = "model") -> SharedModel:
    """A prepared model for ONNX Runtime; prepares it first where that was not done.

    Raises:
        ShareError: it cannot be prepared, or was changed since.
    """
    library = Library.open()
    with step("find"):
        artifact = prepare(model, optimization=optimization, granularity=granularity, library=library)
    before = private_bytes()
    direct = artifact.manifest.packing == "direct"
    with step("map"):
        arrays = open_arrays(artifact, library)
    if direct:
        with step("page faults"):
            arrays.populate()
    given = dict(arrays) if direct else {}
    plain = {name: array for name, array in given.items() if name in _native(artifact)}
    return SharedModel(artifact, artifact.graph, plain, arrays, before)


def _native(artifact: Artifact) -> set[str]:
    """Weights whose type NumPy has; the runtime maps others (bfloat16, int4) from the file itself."""
    return {tensor.name for tensor in artifact.manifest.tensors if not tensor.raw}
