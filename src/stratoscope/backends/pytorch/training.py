"""Training steps with PyTorch: forward, loss, backward, optimizer, traced by phase, module and operator."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import polars as pl
import torch
from torch import nn
from torch.nn import functional as F

from stratoscope.backends.base import BackendOptions, TraceSession
from stratoscope.backends.pytorch.backend import PyTorchBackend
from stratoscope.backends.pytorch.layer_trace import LayerTraceSession
from stratoscope.backends.pytorch.modules import Layer
from stratoscope.backends.pytorch.operator_trace import LAYER_MARK, OperatorTraceSession
from stratoscope.backends.pytorch.session import TorchSession
from stratoscope.errors import BackendError
from stratoscope.spec.model import LoadableModel
from stratoscope.trace.levels import Level

PHASES: Final = ("forward", "loss", "backward", "optimizer")
OPTIMIZER: Final = "SGD, learning rate 0.001, momentum 0.9"
_LIBRARY: Final = "primitives are traced in inferences only"
_SEED: Final = 0
#: The engine's span around the addition of a parameter's gradient.
ACCUMULATE: Final = "autograd::engine::evaluate_function: torch::autograd::AccumulateGrad"


class TrainingSession(TorchSession):
    """As TorchSession in training mode; each call is one step on the same batch."""

    def __init__(self, model: LoadableModel, options: BackendOptions) -> None:
        if options.execution == "compile":
            raise BackendError("PyTorch back end: training steps are run in eager mode", hint="--execution eager")
        if options.shared:
            raise BackendError(
                "PyTorch back end: training writes to the weights, which nobody can share", hint="leave out --shared"
            )
        super().__init__(model, options)
        module = self.prepared.module.train().requires_grad_(True)
        parameters = [parameter for parameter in module.parameters() if parameter.is_floating_point()]
        if not parameters:
            raise BackendError(f"PyTorch back end: model {model.name!r} has no weights to train")
        self._optimizer = torch.optim.SGD(parameters, lr=1e-3, momentum=0.9)
        self._targets: torch.Tensor | None = None
        self.loss_name = ""

    def _forward(self, tensors: Sequence[torch.Tensor]) -> Any:
        with self._phase(0):
            result = self.prepared.call(self._callable, tensors)
        with self._phase(1):
            loss = self._loss(result)
        with self._phase(2):
            loss.backward()
        with self._phase(3):
            self._optimizer.step()
            self._optimizer.zero_grad()
        if self.prepared.device.type == "cuda":
            torch.cuda.synchronize()
        return loss.detach()

    def _loss(self, result: Any) -> torch.Tensor:
        """Cross entropy over the last axis of the first output where it has classes, else the mean square."""
        output = next(leaf for leaf in torch.utils._pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor))
        scores = output.flatten(1) if output.dim() == 4 and output.shape[2:] == (1, 1) else output
        if scores.dim() < 2 or scores.shape[-1] < 2:
            self.loss_name = "mean square"
            return scores.float().square().mean()
        rows = scores.reshape(-1, scores.shape[-1])
        if self._targets is None:
            generator = torch.Generator().manual_seed(_SEED)
            self._targets = torch.randint(rows.shape[-1], (rows.shape[0],), generator=generator).to(rows.device)
        self.loss_name = "cross entropy"
        return F.cross_entropy(rows.float(), self._targets)

    @contextmanager
    def _phase(self, place: int) -> Iterator[None]:
        """Around one phase; tracers put their marks here."""
        yield


class TrainingLayerTrace(TrainingSession, LayerTraceSession):
    """Phases as LAYER spans, and in the forward one the modules."""

    def _hook(self) -> None:
        super()._hook()
        self._first_phase = _add_phases(self._layers, self._told)

    @contextmanager
    def _phase(self, place: int) -> Iterator[None]:
        if not self._told:
            yield
            return
        start = time.perf_counter_ns()
        yield
        self._flat.extend((self._first_phase + place, start, time.perf_counter_ns()))


class TrainingOperatorTrace(TrainingSession, OperatorTraceSession):
    """As TrainingLayerTrace with operators; those of the backward phase know the module that caused them."""

    def __init__(self, model: LoadableModel, options: BackendOptions) -> None:
        super().__init__(model, options)
        self._accumulated: list[str] = []  # owners of the parameters in the order of their gradients, in one step
        owners = _owners(self._layers)
        self._watching = [
            parameter.register_post_accumulate_grad_hook(
                lambda _, owner=owners.get(id(parameter), self._name): self._accumulated.append(owner)
            )
            for parameter in self.prepared.module.parameters()
            if self._layers and parameter.requires_grad
        ]

    def _hook(self) -> None:
        """The step that described the layers is over: from now on nobody watches the gradients."""
        for watch in self._watching:
            watch.remove()
        super()._hook()
        self._first_phase = _add_phases(self._layers, self._told)

    @contextmanager
    def _phase(self, place: int) -> Iterator[None]:
        if not self._told:
            yield
            return
        with torch._C._profiler._RecordFunctionFast(f"{LAYER_MARK}{self._first_phase + place}"):
            yield

    def _frame(self, calls: Sequence[tuple[Any, int, int, int]]) -> pl.DataFrame:
        frame = super()._frame(calls)
        return attributed(frame, [sequence_numbers(profile) for profile, *_ in calls], self._accumulated)


def _owners(layers: Sequence[Layer]) -> dict[int, str]:
    """The name of the innermost layer that holds a parameter, by the parameter's id; of several the first."""
    held: dict[int, Layer] = {}
    for layer in layers:
        for parameter in layer.module.parameters():
            outer = held.get(id(parameter))
            if outer is None or any(layer.module is inside for inside in outer.module.modules()):
                held[id(parameter)] = layer
    return {key: layer.name for key, layer in held.items()}


def sequence_numbers(results: Any) -> dict[tuple[str, int], list[int]]:
    """(name, rank among its equals by start) -> sequence number of autograd, of the profiler's operator events.

    A forward operator and the node of its gradient carry the same number.
    """
    seen: dict[str, int] = {}
    found: dict[tuple[str, int], list[int]] = {}
    events = sorted(
        (event for event in results.events() if event.activity_type() == "cpu_op"),
        key=lambda event: (event.start_ns(), -event.end_ns()),
    )
    for event in events:
        name = event.name()
        rank = seen[name] = seen.get(name, -1) + 1
        found[name, rank] = [event.sequence_nr()]
    return found


def attributed(
    frame: pl.DataFrame, numbers: Sequence[Mapping[tuple[str, int], list[int]]], owners: Sequence[str] = ()
) -> pl.DataFrame:
    """`frame` with `phase` for each operator, and for those of the backward phase the `module` that caused them.

    The module is that of the forward operator with the same sequence number; operators below inherit it. A gradient is
    added up (AccumulateGrad) without such a number: the k-th time of a step it is that of the k-th of `owners`, since
    the engine takes the same order in every step.
    """
    rows = {row["span"]: row for row in frame.iter_rows(named=True)}
    facts: dict[int, dict[str, Any]] = {}
    for run, by_name in enumerate(numbers):
        spans = sorted(
            (row for row in rows.values() if row["run"] == run and row["level"] >= Level.LAYER),
            key=lambda row: (row["start_ns"], -row["end_ns"], row["level"], row["span"]),
        )
        causes: dict[int, str] = {}
        seen: dict[str, int] = {}
        complete = sum(row["name"] == ACCUMULATE for row in spans) == len(owners)
        phase_of: dict[int, str] = {}
        module_of: dict[int, str] = {}
        for row in spans:
            span, parent, name = row["span"], row["parent"], row["name"]
            if row["level"] == Level.LAYER:
                phase_of[span] = phase_of.get(parent, name)
                if name not in PHASES:
                    module_of[span] = name
                continue
            rank = seen[name] = seen.get(name, -1) + 1
            number = by_name.get((name, rank), [-1])[0]
            phase = phase_of[span] = phase_of.get(parent, "")
            module = module_of.get(parent)
            if phase == "forward" and number >= 0 and module is not None:
                causes[number] = module
            elif phase == "backward" and module is None:
                module = owners[rank] if name == ACCUMULATE and complete else causes.get(number)
            if module is not None:
                module_of[span] = module
            facts[span] = {"phase": phase} | ({"module": module} if phase == "backward" and module is not None else {})
    texts = [
        json.dumps({**json.loads(text or "{}"), **facts[span]}) if span in facts else text
        for span, text in frame.select("span", "attributes").iter_rows()
    ]
    return frame.with_columns(attributes=pl.Series(texts, dtype=pl.String))


def _add_phases(layers: list[Layer], told: list[dict[str, Any]]) -> int:
    """Appends the phases to the layers; returns the place of the first."""
    first = len(layers)
    for name in PHASES:
        layers.append(Layer(name, "phase", True, nn.Identity()))
        told.append({"op": "phase", "container": True})
    return first


class TrainingBackend(PyTorchBackend):
    """The PyTorch back end where one call is one training step."""

    def trace_levels(self, options: BackendOptions) -> Mapping[Level, str | None]:
        """As the back end's, without the libraries."""
        return {**super().trace_levels(options), Level.LIBRARY: _LIBRARY}

    def load(self, model: LoadableModel, options: BackendOptions) -> TrainingSession:
        """A session whose calls are training steps."""
        return TrainingSession(model, options)

    def open_trace(self, model: LoadableModel, options: BackendOptions, level: Level = Level.LAYER) -> TraceSession:
        """A session that traces training steps down to `level`."""
        reason = self.trace_levels(options).get(level)
        if reason is not None:
            raise BackendError(f"PyTorch back end cannot trace the {level.name.lower()} level: {reason}")
        return (TrainingLayerTrace if level <= Level.LAYER else TrainingOperatorTrace)(model, options)
