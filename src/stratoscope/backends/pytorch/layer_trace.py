"""Traces modules with forward hooks: the layer level, at two clock readings a module."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import polars as pl
import torch

from stratoscope.backends.base import BackendOptions, Feeds
from stratoscope.backends.feeds import check_feeds
from stratoscope.backends.pytorch.modules import ERRORS, Layer, layers_of
from stratoscope.backends.pytorch.session import TorchSession
from stratoscope.backends.pytorch.spans import SpanRows
from stratoscope.errors import BackendError
from stratoscope.spec.model import LoadableModel
from stratoscope.trace.levels import Level


class LayerTraceSession(TorchSession):
    """As TorchSession; each bound call leaves a MODEL span and a LAYER span a module, nested as the modules call."""

    def __init__(self, model: LoadableModel, options: BackendOptions) -> None:
        super().__init__(model, options)
        self._layers = layers_of(self.prepared.module)
        self._open: list[int] = []
        self._flat: list[int] = []  # place of the layer, start, end, one after another
        self._calls: list[tuple[int, int, int, list[int]]] = []
        self._told: list[dict[str, Any]] = []
        self._finished = False

    def bind(self, feeds: Feeds) -> Callable[[], list[np.ndarray]]:
        """`TorchSession.bind` with the hooks on; runs the module once to learn the shapes of the layers' outputs."""
        check_feeds(self.inputs, feeds)
        tensors = self.prepared.tensors(feeds)
        if not self._told:
            try:
                self._told = describe(self, self._layers, tensors)
            except ERRORS as error:
                raise self._refused(error) from error
            self._hook()
        clock, thread, arrays = time.perf_counter_ns, threading.get_native_id, self.prepared.arrays

        def traced() -> list[np.ndarray]:
            self._flat = []
            try:
                start = clock()
                result = self._forward(tensors)
                end = clock()
            except ERRORS as error:
                self._open.clear()
                raise self._refused(error) from error
            self._calls.append((start, end, thread(), self._flat))
            return arrays(result)

        return traced

    def finish(self) -> pl.DataFrame:
        """Spans of all bound calls so far; the session ends."""
        if self._finished:
            raise BackendError(f"the trace of {self._name!r} has ended already", hint="open another trace session")
        self._finished = True
        rows = SpanRows.empty()
        texts = [json.dumps(told) for told in self._told]
        for run, (start, end, track, flat) in enumerate(self._calls):
            rows.add(Level.MODEL, self._name, start, end, run, track=track)
            order = sorted(range(0, len(flat), 3), key=lambda at: (flat[at + 1], -flat[at + 2]))
            for at in order:
                place, begin, finish = flat[at : at + 3]
                layer = self._layers[place]
                rows.add(Level.LAYER, layer.name, begin, finish, run, track=track, attributes=texts[place])
        self.close()
        return rows.frame()

    def _hook(self) -> None:
        clock, stack = time.perf_counter_ns, self._open
        for place, layer in enumerate(self._layers):

            def before(module: Any, arguments: Any) -> None:
                stack.append(clock())

            def after(module: Any, arguments: Any, result: Any, place: int = place) -> None:
                end = clock()
                self._flat.extend((place, stack.pop(), end))

            layer.module.register_forward_pre_hook(before)
            layer.module.register_forward_hook(after)


def describe(session: TorchSession, layers: Sequence[Layer], tensors: Sequence[torch.Tensor]) -> list[dict[str, Any]]:
    """What one run tells of each layer: operator, type and shape of its first output, the weights it holds itself."""
    told: list[dict[str, Any]] = []
    handles = []
    for layer in layers:
        facts: dict[str, Any] = {"op": layer.op, "container": layer.container}
        parameters = list(layer.module.parameters(recurse=not layer.container))
        facts["parameters"] = sum(p.numel() for p in parameters)
        facts["parameter_bytes"] = sum(p.numel() * p.element_size() for p in parameters)
        told.append(facts)

        def note(module: Any, arguments: Any, result: Any, facts: dict[str, Any] = facts) -> None:
            leaves = [leaf for leaf in torch.utils._pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]
            if leaves:
                facts["outputs"] = [
                    {"type": str(leaf.dtype).removeprefix("torch."), "shape": list(leaf.shape)} for leaf in leaves[:1]
                ]
                facts["output_bytes"] = sum(leaf.numel() * leaf.element_size() for leaf in leaves)

        handles.append(layer.module.register_forward_hook(note))
    try:
        session._forward(tensors)
    finally:
        for handle in handles:
            handle.remove()
    return told
