"""Autoregressive generation with a key-value cache: prefill and decode of a transformers decoder, step by step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from stratoscope.backends.base import BackendOptions, Feeds
from stratoscope.backends.feeds import check_feeds
from stratoscope.backends.pytorch.modules import ERRORS
from stratoscope.backends.pytorch.session import TorchSession
from stratoscope.errors import BackendError
from stratoscope.spec.model import LoadableModel


@dataclass(frozen=True, slots=True)
class Generated:
    """One generation: ends of its steps on `perf_counter_ns`, the first of them the prefill, and its cache's size."""

    start_ns: int
    ends_ns: tuple[int, ...]
    cache_bytes: int
    tokens: tuple[tuple[int, ...], ...]


class GenerationSession(TorchSession):
    """A decoder that continues a prompt greedily; its steps are timed one by one.

    Raises:
        BackendError: the model is no decoder of transformers with a cache.
    """

    def __init__(self, model: LoadableModel, options: BackendOptions) -> None:
        super().__init__(model, options)
        inner = getattr(self.prepared.module, "model", None)
        decoder = next((m for m in (self.prepared.module, inner) if hasattr(m, "prepare_inputs_for_generation")), None)
        if decoder is None:
            raise BackendError(
                f"model {model.name!r} generates nothing: it is no decoder of transformers",
                hint="gpt2 and llama-160m of the zoo are, and modules with prepare_inputs_for_generation",
            )
        self._decoder: Any = decoder

    def generate(self, feeds: Feeds, new_tokens: int) -> Generated:
        """`new_tokens` tokens after the prompt `input_ids` [batch, length], the most probable one each time."""
        check_feeds(self.inputs, feeds)
        prompt = torch.from_numpy(feeds["input_ids"]).to(self.prepared.device)
        clock = time.perf_counter_ns
        ends: list[int] = []
        chosen: list[torch.Tensor] = []
        try:
            with torch.inference_mode():
                start = clock()
                token, cache = prompt, None
                for _ in range(new_tokens):
                    result = self._decoder(input_ids=token, past_key_values=cache, use_cache=True, return_dict=True)
                    token = result.logits[:, -1:].argmax(-1)
                    cache = result.past_key_values
                    if self.prepared.device.type == "cuda":
                        torch.cuda.synchronize()
                    ends.append(clock())
                    chosen.append(token)
        except ERRORS as error:
            raise self._refused(error) from error
        tokens = torch.cat(chosen, dim=1).cpu().tolist()
        return Generated(start, tuple(ends), cache_bytes(cache), tuple(tuple(row) for row in tokens))


def cache_bytes(cache: Any) -> int:
    """Bytes of the keys and values that a cache of transformers holds."""
    tensors: Sequence[Any] = [
        tensor
        for layer in getattr(cache, "layers", ())
        for tensor in (getattr(layer, "keys", None), getattr(layer, "values", None))
    ]
    return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, torch.Tensor))
