"""Turns a change into something that runs: a session of the changed model, beside one of the original."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stratoscope.backends.base import Session
from stratoscope.backends.registry import get_backend
from stratoscope.errors import ModelError
from stratoscope.explain.advice.changes import Change
from stratoscope.improve.catalogue import GRAPH_REWRITES, as_loadable, rewrite_graph
from stratoscope.spec.model import LoadableModel
from stratoscope.spec.options import BackendOptions

if TYPE_CHECKING:
    from onnx import ModelProto


@dataclass(frozen=True, slots=True)
class Variant:
    """A model, the back end that runs it, and its options."""

    model: LoadableModel
    backend: str
    options: BackendOptions

    def open(self) -> Session:
        """A session; raises StratoscopeError where it cannot be had."""
        return get_backend(self.backend).load(self.model, self.options)


def changed(original: Variant, change: Change, graph: ModelProto | None, folder: Path, name: str) -> Variant:
    """The variant that `change` makes of `original`.

    Args:
        graph: the original's graph with its weights, where the change rewrites it.
        folder: where a rewritten model is written, as `name`.onnx.

    Raises:
        StratoscopeError: the change does not fit, or the model cannot be written.
    """
    model = original.model
    if change.graph:
        if graph is None:
            raise ModelError(f"model {model.name!r} has no graph that could be rewritten")
        rewrites = tuple(one for one in GRAPH_REWRITES if one.key in change.graph)
        rewritten = rewrite_graph(graph, rewrites)
        missing = set(change.graph) - rewritten.changed.keys()
        if missing:
            raise ModelError(f"{', '.join(sorted(missing))} fits nowhere in model {model.name!r}")
        model = as_loadable(model, rewritten.model, folder / f"{name}.onnx")
    options = original.options.model_copy(update=dict(change.options))
    if change.modules is not None:
        from stratoscope.improve.torch_modules import with_modules

        model = with_modules(model, options, change.modules)
    return Variant(model, change.backend or original.backend, options)
