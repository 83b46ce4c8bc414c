"""The graph rewrites there are, each with its tolerance, and their application to a model's file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from onnx import ModelProto

from stratoscope.errors import ModelError
from stratoscope.graph.onnx_file import load_onnx, model_digest
from stratoscope.graph.onnx_reader import read_graph
from stratoscope.improve.affine import find_affine_chains, fold_affine_chain
from stratoscope.improve.editing import GraphEditor
from stratoscope.improve.lrn import find_lrn, replace_lrn
from stratoscope.spec.model import LoadableModel

#: Largest difference to the original's output over its largest magnitude that a rewrite which computes the same in
#: another order may make. float32 has 6e-8; a deep network amplifies it by its layers; a wrong formula shows at 1e-2.
SAME_NUMBERS: Final = 1e-4
#: A protobuf message cannot be longer.
LARGEST_MESSAGE: Final = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class GraphRewrite:
    """A change of the graph that leaves what it computes.

    Attributes:
        key: its name in advice, on the command line and in the store.
        tolerance: see `SAME_NUMBERS`.
        apply: edits the graph, given the ranks of its float32 tensors; returns the names of the nodes that it changed.
    """

    key: str
    tolerance: float
    apply: Callable[[GraphEditor, Mapping[str, int]], tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A rewritten graph, and the names of the nodes of the old one that it changed (first outputs where unnamed)."""

    model: ModelProto
    changed: Mapping[str, tuple[str, ...]]


def _lrn(editor: GraphEditor, ranks: Mapping[str, int]) -> tuple[str, ...]:
    found = find_lrn(editor, ranks)
    for node in found:
        replace_lrn(editor, node, ranks[node.input[0]])
    return tuple(node.name or node.output[0] for node in found)


def _affine(editor: GraphEditor, ranks: Mapping[str, int]) -> tuple[str, ...]:
    found = find_affine_chains(editor, ranks)
    for chain in found:
        fold_affine_chain(editor, chain)
    return tuple(step.name or step.output[0] for chain in found for step in chain.steps)


GRAPH_REWRITES: Final = (
    GraphRewrite("lrn-as-pool", SAME_NUMBERS, _lrn),
    GraphRewrite("fold-affine", SAME_NUMBERS, _affine),
)


def rewrite_graph(model: ModelProto, rewrites: tuple[GraphRewrite, ...] = GRAPH_REWRITES) -> Rewritten:
    """Applies each rewrite everywhere that it fits, in order; `changed` has only those that found something.

    The model that is given stays as it is.
    """
    changed: dict[str, tuple[str, ...]] = {}
    for rewrite in rewrites:
        editor = GraphEditor(model)
        names = rewrite.apply(editor, float_ranks(model))
        if names:
            model = editor.finish()
            changed[rewrite.key] = names
    return Rewritten(model, changed)


def float_ranks(model: ModelProto) -> dict[str, int]:
    """Tensor name -> number of dimensions, of the float32 tensors whose shape is known."""
    graph = read_graph(model)
    tensors = [*graph.inputs, *(tensor for layer in graph.layers for tensor in layer.outputs)]
    return {one.name: len(one.shape) for one in tensors if one.shape is not None and one.element_type == "float32"}


def load_for_rewrite(model: LoadableModel) -> ModelProto:
    """The model's graph with its weights; raises ModelError where there is no file, or too much for one message."""
    if model.path is None:
        raise ModelError(f"model {model.name!r} has no ONNX file to rewrite", hint="export it to ONNX")
    folder = model.path.parent
    size = sum(one.stat().st_size for one in {model.path, *folder.glob(f"{model.path.name}*")} if one.is_file())
    if size > LARGEST_MESSAGE:
        raise ModelError(
            f"model {model.name!r} is larger than 2 GiB, more than a rewritten ONNX file can hold",
            hint="its options can still be tried",
        )
    return load_onnx(model.path, weights=True)


def save_onnx(model: ModelProto, path: Path) -> None:
    """Writes a model whole or not at all; raises ModelError where it cannot be written or is too large."""
    size = model.ByteSize()
    if size > LARGEST_MESSAGE:
        raise ModelError(f"the rewritten model takes {size} bytes, more than one ONNX file can hold")
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(model.SerializeToString())
                os.fchmod(file.fileno(), 0o644)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ModelError(f"cannot write {path}: {error.strerror}", hint="choose another place") from error


def as_loadable(model: LoadableModel, rewritten: ModelProto, path: Path) -> LoadableModel:
    """The rewritten model, written to `path`, with the original's inputs as they were bound."""
    save_onnx(rewritten, path)
    manifest = model.manifest.model_copy(update={"path": str(path), "sha256": model_digest(path)})
    return LoadableModel(manifest=manifest, path=path, batch_axis=model.batch_axis)
