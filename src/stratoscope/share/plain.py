"""The weights of an ONNX model as its file has them, page-aligned: for any framework, or for none."""

from __future__ import annotations

from pathlib import Path

from stratoscope.share.artifact import ArtifactKey, ArtifactManifest, Granularity
from stratoscope.share.errors import ShareError
from stratoscope.share.library import Library
from stratoscope.share.prepare import model_sha256
from stratoscope.spec.model import LoadableModel


def plain_key(model: LoadableModel, library: Library, granularity: Granularity) -> ArtifactKey:
    """The key of the model's tensors, which depend on nothing but the model."""
    return ArtifactKey(
        kind="weights",
        model_sha256=model_sha256(model, library),
        runtime="none",
        isa="any",
        optimization="off",
        granularity=granularity,
    )


def build_plain(model: LoadableModel, library: Library, folder: Path, granularity: Granularity) -> ArtifactManifest:
    """Writes the tensors of the model's main graph into `folder`."""
    from stratoscope.graph.onnx_file import load_onnx
    from stratoscope.share.graph_file import write_graph

    if model.path is None:
        raise ShareError(f"model {model.name!r} has no ONNX file", hint="export it to ONNX, or use share.load_torch")
    blobs = library.layer_folder() if granularity == "layer" else None
    files, tensors = write_graph(load_onnx(model.path, weights=True), folder, blobs)
    return ArtifactManifest(key=plain_key(model, library, granularity), model=model.name, files=files, tensors=tensors)
