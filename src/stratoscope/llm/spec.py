"""What a transformer is made of: a list of layers, and from it every parameter, FLOP and cache byte.

Each layer states its matrices once (`Linear`); parameter counts, FLOPs, per-rank shapes and memory all read that one
statement, so they cannot disagree.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Literal

from pydantic import Field, model_validator

from stratoscope.llm.base import LlmError, Value
from stratoscope.llm.mixers import (
    Attention,
    LatentAttention,
    Linear,
    Mixer,
    StateSpace,
    mixing_flops,
    visible_pairs,
)

__all__ = [
    "Attention",
    "Block",
    "FeedForward",
    "LatentAttention",
    "Layer",
    "Linear",
    "Mixer",
    "MixtureOfExperts",
    "ModelSpec",
    "StateSpace",
    "mixing_flops",
    "visible_pairs",
]


class FeedForward(Value):
    """A dense feed-forward block, gated (three matrices) or not (two)."""

    kind: Literal["dense"] = "dense"
    width: int = Field(ge=1)
    gated: bool = False
    bias: bool = False
    out_bias: bool | None = None

    def linears(self, hidden: int) -> tuple[Linear, ...]:
        """Up (with the gate beside it) and down."""
        out_bias = self.bias if self.out_bias is None else self.out_bias
        up = self.width * (2 if self.gated else 1)
        return (
            Linear(name="up", n_in=hidden, n_out=up, bias=self.bias, shard="col"),
            Linear(name="down", n_in=self.width, n_out=hidden, bias=out_bias, shard="row"),
        )


class MixtureOfExperts(Value):
    """A routed feed-forward block: `top_k` of `experts`, beside experts that every token visits."""

    kind: Literal["moe"] = "moe"
    experts: int = Field(ge=1)
    top_k: int = Field(ge=1)
    width: int = Field(ge=1)
    gated: bool = True
    bias: bool = False
    shared_width: int = 0
    shared_gate: bool = False
    router_bias: bool = False
    dense_width: int = 0  # a dense block in parallel (Gemma 4)
    vector_params: int = 0

    @model_validator(mode="after")
    def _top_k_exists(self) -> MixtureOfExperts:
        if self.top_k > self.experts:
            raise LlmError(f"top-{self.top_k} of {self.experts} experts", hint="a token visits experts that exist")
        return self

    def expert(self, hidden: int) -> tuple[Linear, ...]:
        """The matrices of one routed expert."""
        return FeedForward(width=self.width, gated=self.gated, bias=self.bias).linears(hidden)

    def linears(self, hidden: int) -> tuple[Linear, ...]:
        """What every token visits: router, shared experts, their gate, the parallel dense block."""
        out = [Linear(name="router", n_in=hidden, n_out=self.experts, bias=self.router_bias)]
        if self.shared_width:
            out += FeedForward(width=self.shared_width, gated=self.gated).linears(hidden)
        if self.shared_gate:
            out.append(Linear(name="shared_gate", n_in=hidden, n_out=1))
        if self.dense_width:
            out += FeedForward(width=self.dense_width, gated=self.gated).linears(hidden)
        return tuple(out)


Block = FeedForward | MixtureOfExperts


class Layer(Value):
    """One block of the stack: a token mixer, an optional cross-attention, an optional feed-forward, and their norms."""

    mixer: Annotated[Mixer, Field(discriminator="kind")] | None = None
    cross: Attention | None = None
    ffn: Annotated[Block, Field(discriminator="kind")] | None = None
    norm_params: int = Field(ge=0)
    stack: Literal["decoder", "encoder"] = "decoder"
    parallel: bool = False  # attention and feed-forward read the same input: one all-reduce instead of two

    def linears(self, hidden: int) -> tuple[Linear, ...]:
        """Every matrix that each token visits (routed experts apart)."""
        parts = [part.linears(hidden) for part in (self.mixer, self.cross, self.ffn) if part is not None]
        return tuple(linear for part in parts for linear in part)

    def params(self, hidden: int) -> int:
        """All parameters of the layer, every expert counted."""
        own = sum(linear.params for linear in self.linears(hidden)) + self.norm_params
        own += sum(part.vector_params for part in (self.mixer, self.cross) if part is not None)
        if isinstance(self.ffn, MixtureOfExperts):
            own += self.ffn.experts * sum(linear.params for linear in self.ffn.expert(hidden)) + self.ffn.vector_params
        return own

    def active_params(self, hidden: int) -> int:
        """Parameters that one token meets: `top_k` experts instead of all."""
        if not isinstance(self.ffn, MixtureOfExperts):
            return self.params(hidden)
        idle = self.ffn.experts - self.ffn.top_k
        return self.params(hidden) - idle * sum(linear.params for linear in self.ffn.expert(hidden))


class ModelSpec(Value):
    """A transformer as a list of layers. Counts are exact; FLOPs count a multiply-add as two."""

    name: str
    family: str
    hidden: int = Field(ge=1)
    vocab: int = Field(ge=0)
    layers: tuple[Layer, ...] = Field(min_length=1)
    tied: bool = True
    lm_head: bool = True
    lm_head_bias: bool = False
    token_embedding: bool = True
    embedding_dim: int | None = None  # where it differs from `hidden` (OPT-350m)
    extra_params: tuple[tuple[str, int], ...] = ()  # positions, final norms, poolers, patch embeddings
    max_context: int | None = None

    @property
    def groups(self) -> tuple[tuple[Layer, int], ...]:
        """Distinct layers with how often each occurs, in order of first occurrence."""
        layers = {id(layer): layer for layer in self.layers}  # readers repeat one object: compare each only once
        groups: dict[Layer, int] = {}
        for key, count in Counter(map(id, self.layers)).items():
            groups[layers[key]] = groups.get(layers[key], 0) + count
        return tuple(groups.items())

    @property
    def generates(self) -> bool:
        """Whether it makes one token after another: no layer looks ahead."""
        return all(layer.mixer is None or layer.mixer.causal for layer in self.layers)

    @property
    def learned_positions(self) -> bool:
        """Whether positions are rows of a table, so that no sequence can be longer."""
        return any(name.endswith("positions") for name, _ in self.extra_params) and self.family != "t5"

    @property
    def embedding_params(self) -> int:
        """The token embedding."""
        return self.vocab * (self.embedding_dim or self.hidden) if self.token_embedding else 0

    @property
    def head_params(self) -> int:
        """Parameters of the language-model head beyond a tied embedding."""
        if not self.lm_head:
            return 0
        own = 0 if self.tied else self.vocab * (self.embedding_dim or self.hidden)
        return own + (self.vocab if self.lm_head_bias else 0)

    @property
    def params(self) -> int:
        """All parameters, tied ones once."""
        layers = sum(count * layer.params(self.hidden) for layer, count in self.groups)
        return layers + self.embedding_params + self.head_params + sum(count for _, count in self.extra_params)

    @property
    def active_params(self) -> int:
        """Parameters that one token meets (embedding included, as model cards count them)."""
        layers = sum(count * layer.active_params(self.hidden) for layer, count in self.groups)
        return layers + self.embedding_params + self.head_params + sum(count for _, count in self.extra_params)

    def kv_bytes_per_token(self, bytes_per_element: float = 2.0) -> float:
        """Cache bytes that one more token costs over all layers, before any window caps them."""
        per_token = sum(
            count * part.cache_elements_per_token
            for layer, count in self.groups
            for part in (layer.mixer, layer.cross)
            if part is not None
        )
        return per_token * bytes_per_element

    def kv_bytes(self, tokens: float, bytes_per_element: float = 2.0) -> float:
        """Cache bytes of one sequence of `tokens`, windows and fixed states counted."""
        total = 0.0
        for layer, count in self.groups:
            if layer.mixer is None:
                continue
            held = tokens
            if isinstance(layer.mixer, Attention) and layer.mixer.window is not None:
                held = min(tokens, layer.mixer.window)
            total += count * (layer.mixer.cache_elements_per_token * held + layer.mixer.state_elements)
        return total * bytes_per_element

    def forward_flops(self, tokens: int, *, causal_skips: bool = True) -> float:
        """FLOPs of one forward pass over one sequence of `tokens`: matrices, attention scores, head.

        `causal_skips` counts only the half of the score matrix that a causal kernel visits; model-FLOPs conventions
        (Megatron, PaLM) count it whole.
        """
        total = 0.0
        for layer, count in self.groups:
            per_token = 2.0 * sum(linear.n_in * linear.n_out for linear in layer.linears(self.hidden))
            if isinstance(layer.ffn, MixtureOfExperts):
                expert = sum(linear.n_in * linear.n_out for linear in layer.ffn.expert(self.hidden))
                per_token += 2.0 * layer.ffn.top_k * expert
            total += count * (per_token * tokens + mixing_flops(layer.mixer, tokens, tokens, causal_skips))
        if self.lm_head:
            total += 2.0 * tokens * self.vocab * (self.embedding_dim or self.hidden)
        if self.embedding_dim is not None:  # into the layers' width and back
            total += 4.0 * tokens * self.embedding_dim * self.hidden
        return total
