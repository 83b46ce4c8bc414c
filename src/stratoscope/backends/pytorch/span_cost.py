"""What a span costs: a chain of modules that compute next to nothing, called with tracing on and off in turn."""

from __future__ import annotations

import time
from typing import Any, Final

import torch
from torch import nn

from stratoscope.backends.pytorch.layer_trace import LayerTraceSession
from stratoscope.backends.pytorch.operator_trace import OperatorTraceSession
from stratoscope.backends.pytorch.session import TorchSession
from stratoscope.spec.model import LoadableModel, ModelManifest, TensorSpec
from stratoscope.spec.options import BackendOptions
from stratoscope.trace.levels import Level

_LENGTH: Final = 200
_REPEATS: Final = 25


class _Touch(nn.Module):  # type: ignore[misc]  # torch is optional, so untyped here
    """One module, one operator."""

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        return value.view(1)


def span_cost_samples(options: BackendOptions, level: Level) -> list[float]:
    """Seconds that one span adds to a call, one sample a repeat: traced minus untraced, over the number of spans.

    At the operator level half of the spans are modules and half operators.
    """
    model = LoadableModel(
        ModelManifest(id="touch", inputs=(TensorSpec(name="value", element_type="float32", shape=(1,)),)),
        module=nn.Sequential(*[_Touch() for _ in range(_LENGTH)]),
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
    spans = _LENGTH if level == Level.LAYER else 2 * _LENGTH
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
