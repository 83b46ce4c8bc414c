"""What a span costs: a chain of modules that compute nothing, called with tracing on and off in turn.

A span is cheap where everything that it touches is in the cache, and costs several times as much behind a layer that
swept its weights and activations through it. So each module of the chain first reads as much memory as a layer of the
model moves, and then calls as many operators.
"""

from __future__ import annotations

import time
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from stratoscope.backends.base import SpanMix
from stratoscope.backends.pytorch.layer_trace import LayerTraceSession
from stratoscope.backends.pytorch.operator_trace import OperatorTraceSession
from stratoscope.backends.pytorch.session import TorchSession
from stratoscope.spec.model import LoadableModel, ModelManifest, TensorSpec
from stratoscope.spec.options import BackendOptions
from stratoscope.trace.levels import Level

_REPEATS: Final = 25
_MOST_MODULES: Final = 200
_FEWEST_MODULES: Final = 30
#: What a call of the chain sweeps at most, beyond the fewest modules: some milliseconds.
_CALL_BYTES: Final = 100 << 20
#: Beyond this a layer has swept the caches of a core, and the rest makes the measurement long only.
_LAYER_BYTES: Final = 16 << 20


class _Touch(nn.Module):  # type: ignore[misc]  # torch is optional, so untyped here
    """One module that reads `memory` and calls `operators` operators."""

    def __init__(self, memory: np.ndarray, operators: int) -> None:
        super().__init__()
        self._memory = [memory]  # in a list, so that copies of the module share it
        self._operators = operators

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        self._memory[0].sum()  # by NumPy: no operator of torch, no span
        for _ in range(self._operators):
            value = value.view(1)
        return value


def span_cost_samples(options: BackendOptions, level: Level, mix: SpanMix) -> list[float]:
    """Seconds that one span adds to a call, one sample a repeat: traced minus untraced, over the number of spans.

    Modules and operators are in the proportion of `mix`, and each module moves as much memory.
    """
    swept = min(max(mix.bytes_a_layer, 0), _LAYER_BYTES)
    modules = max(_FEWEST_MODULES, min(_MOST_MODULES, _CALL_BYTES // max(swept, 1)))
    operators = max(1, round(mix.operators / max(mix.layers, 1)))
    memory = np.ones(swept // 4, np.float32)
    model = LoadableModel(
        ModelManifest(id="touch", inputs=(TensorSpec(name="value", element_type="float32", shape=(1,)),)),
        module=nn.Sequential(*[_Touch(memory, operators) for _ in range(modules)]),
    )
    plain_options = options.model_copy(update={"precision": None, "channels_last": False, "execution": "eager"})
    kind = LayerTraceSession if level == Level.LAYER else OperatorTraceSession
    plain, traced = TorchSession(model, plain_options), kind(model, plain_options)
    tensors = (torch.zeros(1, device=plain.prepared.device),)
    call = traced.bind({"value": tensors[0].cpu().numpy()})
    differences = []
    for repeat in range(_REPEATS + 1):
        before = _timed(plain, tensors)
        call()
        start, end = _last(traced)
        after = _timed(plain, tensors)
        if repeat:  # the first call of each allocates
            differences.append((end - start) - (before + after) / 2)
    spans = modules if level == Level.LAYER else modules * (1 + operators)
    return [difference * 1e-9 / spans for difference in differences]


def _timed(session: TorchSession, tensors: Any) -> int:
    start = time.perf_counter_ns()
    session._forward(tensors)
    return time.perf_counter_ns() - start


def _last(session: LayerTraceSession | OperatorTraceSession) -> tuple[int, int]:
    """Start and end of the last traced call."""
    if isinstance(session, OperatorTraceSession):
        return session._calls[-1][1:3]
    return session._calls[-1][:2]
