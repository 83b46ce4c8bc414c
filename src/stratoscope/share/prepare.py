"""Prepares an ONNX model so that all processes can run it from one copy of its weights, at the speed of the default."""

from __future__ import annotations

import errno
import platform
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from stratoscope.host.cpu import cpuinfo, isa_of
from stratoscope.host.files import KernelFiles
from stratoscope.share.artifact import (
    GRAPH,
    INLINE_BELOW_BYTES,
    Artifact,
    ArtifactKey,
    ArtifactManifest,
    Granularity,
    Kind,
    StoredFile,
    Tensor,
)
from stratoscope.share.client import ask_server
from stratoscope.share.errors import HINTS, ShareError
from stratoscope.share.library import Library, file_digest
from stratoscope.share.memory import give_back_free_memory
from stratoscope.share.probe import INPUTS, run_probe, session_options
from stratoscope.spec.base import digest_of
from stratoscope.spec.model import LoadableModel

if TYPE_CHECKING:
    import onnx

Progress = Callable[[str], None]
#: Largest difference of an output, relative to the largest magnitude in it: sums of float32 in another order.
TOLERANCE: Final = 1e-4
#: Memory that a load may take for itself: graph, arena and thread stacks, plus this part of the weights.
PRIVATE_BYTES: Final = 4 << 20
PRIVATE_SHARE: Final = 0.02
#: Times the size of the model that preparing needs on disk: the optimised graph, and the prepared one beside it.
COPIES: Final = 2
_DATA: Final = "optimised.data"


def silent(_text: str) -> None:
    """The progress callback of a caller that wants none."""


def model_sha256(model: LoadableModel, library: Library) -> str:
    """The digest of the model: the manifest's, else that of its files, hashed again only after they changed."""
    if model.manifest.sha256 is not None:
        return model.manifest.sha256
    if model.path is None:
        raise ShareError(f"model {model.name!r} has no file", hint="export it to ONNX, or use share.load_torch")

    def compute(path: Path) -> tuple[str, list[Path]]:
        from stratoscope.graph.onnx_file import model_digest, model_files

        return model_digest(path), model_files(path)

    return file_digest(model.path, library, compute)


def isa() -> str:
    """Architecture and digest of the extensions that kernels are chosen by."""
    extensions = isa_of(cpuinfo(KernelFiles())) or ()
    return f"{platform.machine()}-{digest_of(list(extensions)).removeprefix('sha256:')[:12]}"


def onnx_key(
    model: LoadableModel, library: Library, *, optimization: str = "all", granularity: Granularity = "model"
) -> ArtifactKey:
    """The key of the artefact that ONNX Runtime runs here."""
    import onnxruntime

    return ArtifactKey(
        kind="onnxruntime",
        model_sha256=model_sha256(model, library),
        runtime=f"onnxruntime {onnxruntime.__version__}",
        isa=isa(),
        optimization=optimization,
        granularity=granularity,
    )


def prepare(
    model: LoadableModel,
    *,
    kind: Kind = "onnxruntime",
    optimization: str = "all",
    granularity: Granularity = "model",
    library: Library | None = None,
    on_progress: Progress = silent,
) -> Artifact:
    """The prepared model, made where it is missing; several processes that ask at once make it once.

    Args:
        kind: "onnxruntime" and "pytorch" are what these back ends run; "weights" are the tensors as the model's file
            has them.
        optimization: how far ONNX Runtime may rewrite the graph (as the back-end option).
        granularity: "layer" shares equal weights of different models too.

    Raises:
        ShareError: the model cannot be prepared: no file, outputs that differ, a full disk.
        IntegrityError: it was prepared, and its bytes have changed since.
    """
    library = library or Library.open()
    if kind == "weights":
        from stratoscope.share.plain import build_plain, plain_key

        return library.obtain(
            plain_key(model, library, granularity), lambda folder: build_plain(model, library, folder, granularity)
        )
    if kind == "pytorch":
        from stratoscope.backends.pytorch.shared import prepare_shared

        return prepare_shared(model, granularity, library)
    if model.path is None:
        raise ShareError(f"model {model.name!r} has no ONNX file", hint="export it to ONNX, or use share.load_torch")
    path = model.path
    key = onnx_key(model, library, optimization=optimization, granularity=granularity)
    if library.read(key.digest()) is None:
        ask_server(library, {"op": "fetch", "key": key.digest()})
    return library.obtain(key, lambda folder: _Build(model, path, key, library, folder, on_progress).run())


@dataclass(slots=True)
class _Build:
    """One preparation, in an empty folder."""

    model: LoadableModel
    path: Path
    key: ArtifactKey
    library: Library
    folder: Path
    on_progress: Progress

    def run(self) -> ArtifactManifest:
        """Optimises, rewrites, writes; takes the runtime's packed blobs in where a load would pack; compares."""
        _require_space(self.path, self.library)
        with self.library.scratch() as scratch:
            files, tensors, rewritten = self._direct(scratch)
            self.on_progress(f"checking {self.model.name}")
            default = run_probe(self.model, self.path, self.key.optimization, scratch)
            shared = run_probe(self.model, self.folder / GRAPH, "off", scratch)
            facts = {"rewritten_layers": float(rewritten), "default_private_bytes": float(default.private_bytes)}
            allowed = private_allowance(sum(tensor.nbytes for tensor in tensors))
            packing: Literal["direct", "saved"] = "direct"
            if shared.private_bytes > allowed:
                packing = "saved"
                facts["unsaved_private_bytes"] = float(shared.private_bytes)
                self.on_progress(f"saving packed weights of {self.model.name}")
                files, tensors = self._saved(scratch)
                shared = run_probe(self.model, self.folder / GRAPH, "off", scratch)
        if shared.private_bytes > allowed:
            raise ShareError(
                f"model {self.model.name!r} cannot be shared: a load still copies "
                f"{shared.private_bytes / 2**20:.0f} MiB into private memory",
                hint="an operator packs its weights in a way that the runtime cannot save",
            )
        facts |= {
            "private_bytes": float(shared.private_bytes),
            "largest_error": largest_error(self.model.name, default.outputs, shared.outputs),
            "default_load_s": default.load_s,
            "default_first_s": default.first_s,
            "shared_load_s": shared.load_s,
            "shared_first_s": shared.first_s,
        }
        return ArtifactManifest(
            key=self.key,
            model=self.model.name,
            packing=packing,
            files=files,
            tensors=tensors,
            load_cost_s=default.load_s + default.first_s,
            facts=facts,
        )

    def _direct(self, scratch: Path) -> tuple[tuple[StoredFile, ...], tuple[Tensor, ...], int]:
        """Writes the optimised graph with dense layers rewritten; returns its files, weights, and how many layers."""
        from stratoscope.share.dense import block_size, rewrite_dense
        from stratoscope.share.graph_file import write_graph

        self.on_progress(f"optimising {self.model.name}")
        graph = _optimised(self.path, self.key.optimization, scratch, saving_packed=False)
        block = block_size(scratch) if self.key.optimization == "all" else None
        rewritten = rewrite_dense(graph, block) if block is not None else 0
        self.on_progress(f"writing {self.model.name}")
        blobs = self.library.layer_folder() if self.key.granularity == "layer" else None
        return (*write_graph(graph, self.folder, blobs), rewritten)

    def _saved(self, scratch: Path) -> tuple[tuple[StoredFile, ...], tuple[Tensor, ...]]:
        """Writes the graph again with the blobs that ONNX Runtime packs at load; returns its files and weights."""
        from stratoscope.share.graph_file import write_graph

        if self.key.granularity == "layer":
            raise ShareError(
                f"model {self.model.name!r} has operators that pack their weights: it cannot be shared by layer",
                hint="share it at granularity 'model'",
            )
        graph = _optimised(self.folder / GRAPH, "off", scratch, saving_packed=True)
        for file in self.folder.iterdir():
            file.unlink()
        return write_graph(graph, self.folder, source=scratch / _DATA)


def _require_space(path: Path, library: Library) -> None:
    """Raises ShareError where the disk cannot hold what preparing writes: ONNX Runtime does not say that it is full."""
    from stratoscope.graph.onnx_file import model_files

    needed = COPIES * sum(file.stat().st_size for file in model_files(path))
    free = shutil.disk_usage(library.root).free
    if free < needed:
        raise ShareError(
            f"cannot prepare the model in {library.root}: it takes about {needed / 1e6:.0f} MB for a while, "
            f"and {free / 1e6:.0f} MB are free",
            hint=HINTS[errno.ENOSPC],
        )


def private_allowance(weights_bytes: int) -> int:
    """Private memory that loading a prepared model of this size may take: graph, arena, stacks; more is a copy."""
    return PRIVATE_BYTES + int(PRIVATE_SHARE * weights_bytes)


def largest_error(name: str, default: Sequence[np.ndarray], shared: Sequence[np.ndarray]) -> float:
    """The largest difference relative to the largest magnitude of its output; integers and NaNs must be the same.

    Raises:
        ShareError: outputs differ by more than `TOLERANCE`.
    """
    worst = 0.0
    for number, (one, other) in enumerate(zip(default, shared, strict=True)):
        what = f"output {number % max(1, len(default) // INPUTS)} of the prepared model {name!r}"
        hint = "the prepared model is not used; run it without sharing"
        if one.shape != other.shape or one.dtype != other.dtype:
            raise ShareError(f"{what} has another shape or type", hint=hint)
        if one.dtype.kind != "f":
            if not np.array_equal(one, other):
                raise ShareError(f"{what} has other values", hint=hint)
            continue
        finite = np.isfinite(one)
        if not np.array_equal(finite, np.isfinite(other)):
            raise ShareError(f"{what} is not finite where the original is, or the reverse", hint=hint)
        if not finite.any():
            continue
        a, b = one[finite].astype(np.float64), other[finite].astype(np.float64)
        error = float(np.abs(a - b).max() / max(np.abs(a).max(), np.finfo(np.float32).tiny))
        if error > TOLERANCE:
            raise ShareError(f"{what} differs by {error:.2g} of its largest value", hint=hint)
        worst = max(worst, error)
    return worst


def _optimised(path: Path, optimization: str, scratch: Path, *, saving_packed: bool) -> onnx.ModelProto:
    """The graph as ONNX Runtime would execute it: with its weights, or with packed blobs that stay in `scratch`."""
    import onnx
    import onnxruntime

    target = scratch / "optimised.onnx"
    settings = session_options(optimization)
    settings.optimized_model_filepath = str(target)
    settings.add_session_config_entry("session.optimized_model_external_initializers_file_name", _DATA)
    settings.add_session_config_entry(
        "session.optimized_model_external_initializers_min_size_in_bytes", str(INLINE_BELOW_BYTES)
    )
    entry = "session.save_external_prepacked_constant_initializers" if saving_packed else "session.disable_prepacking"
    settings.add_session_config_entry(entry, "1")
    try:
        onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    except _runtime_errors() as error:
        raise ShareError(
            f"ONNX Runtime cannot load {path}: {' '.join(str(error).split())[:300]}",
            hint="run the model without sharing to see what is wrong with it",
        ) from error
    graph = onnx.load(str(target), load_external_data=not saving_packed)
    give_back_free_memory()
    return graph


def _runtime_errors() -> tuple[type[Exception], ...]:
    """All that the runtime's binding raises; its classes share no base but Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state as binding

    own = [kind for kind in vars(binding).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return (*own, RuntimeError, ValueError)
