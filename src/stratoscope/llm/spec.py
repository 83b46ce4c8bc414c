"""What a transformer is made of: a list of layers, and from it every parameter, FLOP and cache byte.

Each layer states its matrices once (`Linear`); parameter counts, FLOPs, per-rank shapes and memory all read that one
statement, so they cannot disagree.
"""

from __future__ import annotations

from collections import Counter
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from stratoscope.llm.base import Num, Value

# How tensor parallelism splits a matrix: by output columns, by input rows, by key-value heads (replicated when
# there are
# more ranks than heads), by experts, or not at all.
Shard = Literal["col", "row", "kv", "none"]


class Linear(Value):
    """One weight matrix applied to every token: `n_in` x `n_out`, with or without a bias."""

    name: str
    n_in: int = Field(ge=1)
    n_out: int = Field(ge=1)
    bias: bool = False
    shard: Shard = "none"
    heads: int = 1  # of a "kv" matrix: how many heads its columns hold

    @property
    def params(self) -> int:
        """Weights and bias."""
        return self.n_in * self.n_out + (self.n_out if self.bias else 0)


class Attention(Value):
    """Softmax attention: multi-head, grouped-query and multi-query by `kv_heads`; a sliding window by `window`."""

    kind: Literal["attention"] = "attention"
    heads: int = Field(ge=1)
    kv_heads: int = Field(ge=1)
    head_dim: int = Field(ge=1)
    v_head_dim: int = Field(ge=1)
    window: int | None = None
    causal: bool = True
    qkv_bias: bool = False
    out_bias: bool = False
    output_gate: bool = False  # a gate of the width of the queries beside them (Qwen 3.5)
    shared_kv_projection: bool = False  # values are the keys (Gemma 4 global layers)
    vector_params: int = 0  # q/k norms, sinks
    cross: bool = False  # keys and values come from the encoder
    rotary: bool = True  # positions by rotating queries and keys, else learned, ALiBi or relative

    @model_validator(mode="after")
    def _heads_divide(self) -> Attention:
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} query heads are not a multiple of {self.kv_heads} key-value heads")
        return self

    def linears(self, hidden: int) -> tuple[Linear, ...]:
        """Projections of queries, keys, values and output."""
        query = self.heads * self.head_dim * (2 if self.output_gate else 1)
        out = [Linear(name="q", n_in=hidden, n_out=query, bias=self.qkv_bias, shard="col")]
        shapes = [("k", self.head_dim)] if self.shared_kv_projection else [("k", self.head_dim), ("v", self.v_head_dim)]
        out += [
            Linear(
                name=name, n_in=hidden, n_out=self.kv_heads * dim, bias=self.qkv_bias, shard="kv", heads=self.kv_heads
            )
            for name, dim in shapes
        ]
        out.append(Linear(name="o", n_in=self.heads * self.v_head_dim, n_out=hidden, bias=self.out_bias, shard="row"))
        return tuple(out)

    @property
    def cache_elements_per_token(self) -> int:
        """Elements of the key-value cache that one token leaves in this layer."""
        return self.kv_heads * (self.head_dim + self.v_head_dim)

    @property
    def state_elements(self) -> int:
        """Elements of state per sequence that do not grow with it."""
        return 0


class LatentAttention(Value):
    """Multi-head latent attention (DeepSeek V2): keys and values from one compressed vector a token, arXiv
    2405.04434 s. 2.1.
    """

    kind: Literal["mla"] = "mla"
    heads: int = Field(ge=1)
    q_lora_rank: int | None = None
    kv_lora_rank: int = Field(ge=1)
    nope_dim: int = Field(ge=1)
    rope_dim: int = Field(ge=1)
    v_head_dim: int = Field(ge=1)
    bias: bool = False
    index_heads: int = 0  # DeepSeek V3.2 lightning indexer
    index_dim: int = 0
    index_top_k: int | None = None
    causal: bool = True

    @property
    def head_dim(self) -> int:
        """Width of a query: the part without position and the rotary part."""
        return self.nope_dim + self.rope_dim

    @property
    def window(self) -> int | None:
        """Tokens that one query attends to at most (the indexer's choice)."""
        return self.index_top_k

    def linears(self, hidden: int) -> tuple[Linear, ...]:
        """Down and up projections; the up projections are split by heads, the compressed ones replicated."""
        query = self.heads * self.head_dim
        out: list[Linear] = []
        if self.q_lora_rank:
            out.append(Linear(name="q_a", n_in=hidden, n_out=self.q_lora_rank, bias=self.bias))
            out.append(Linear(name="q_b", n_in=self.q_lora_rank, n_out=query, shard="col"))
        else:
            out.append(Linear(name="q", n_in=hidden, n_out=query, shard="col"))
        out.append(Linear(name="kv_a", n_in=hidden, n_out=self.kv_lora_rank + self.rope_dim, bias=self.bias))
        up = self.heads * (self.nope_dim + self.v_head_dim)
        out.append(Linear(name="kv_b", n_in=self.kv_lora_rank, n_out=up, shard="col"))
        out.append(Linear(name="o", n_in=self.heads * self.v_head_dim, n_out=hidden, bias=self.bias, shard="row"))
        if self.index_heads:
            rank = self.q_lora_rank or hidden
            out.append(Linear(name="index_q", n_in=rank, n_out=self.index_heads * self.index_dim))
            out.append(Linear(name="index_k", n_in=hidden, n_out=self.index_dim))
            out.append(Linear(name="index_w", n_in=hidden, n_out=self.index_heads))
        return tuple(out)

    @property
    def vector_params(self) -> int:
        """Norms of the compressed query and key-value, LayerNorm of the indexer's key."""
        return (self.q_lora_rank or 0) + self.kv_lora_rank + (2 * self.index_dim if self.index_heads else 0)

    @property
    def cache_elements_per_token(self) -> int:
        """The compressed vector and the rotary key, shared by all heads (and so by all tensor-parallel ranks)."""
        return self.kv_lora_rank + self.rope_dim + (self.index_dim if self.index_heads else 0)

    @property
    def state_elements(self) -> int:
        """None: everything is in the cache."""
        return 0


class StateSpace(Value):
    """A recurrent mixer with a state of fixed size: Mamba-2 (arXiv 2405.21060) or the gated delta rule (arXiv
    2412.06464).
    """

    kind: Literal["mamba2", "gated_delta"]
    key_heads: int = Field(ge=1)  # groups of B and C (Mamba-2), heads of keys (delta rule)
    value_heads: int = Field(ge=1)
    key_dim: int = Field(ge=1)  # state size N
    value_dim: int = Field(ge=1)  # head dimension P
    conv_kernel: int = Field(ge=1)
    conv_bias: bool = True
    proj_bias: bool = False
    causal: bool = True

    @property
    def inner(self) -> int:
        """Width of the values over all heads."""
        return self.value_heads * self.value_dim

    @property
    def conv_channels(self) -> int:
        """Channels of the short convolution: x, B, C (Mamba-2) or q, k, v (delta rule)."""
        return self.inner + 2 * self.key_heads * self.key_dim

    def linears(self, hidden: int) -> tuple[Linear, ...]:
        """Input and output projections; the input holds the gate, the convolved channels and the per-head decays."""
        steps = self.value_heads * (1 if self.kind == "mamba2" else 2)
        into = self.inner + self.conv_channels + steps
        return (
            Linear(name="in", n_in=hidden, n_out=into, bias=self.proj_bias, shard="col"),
            Linear(name="o", n_in=self.inner, n_out=hidden, bias=self.proj_bias, shard="row"),
        )

    @property
    def vector_params(self) -> int:
        """Convolution, decays, step bias, skip (Mamba-2), gated norm."""
        conv = self.conv_channels * (self.conv_kernel + (1 if self.conv_bias else 0))
        if self.kind == "mamba2":
            return conv + 3 * self.value_heads + self.inner
        return conv + 2 * self.value_heads + self.value_dim

    @property
    def cache_elements_per_token(self) -> int:
        """Nothing grows with the sequence."""
        return 0

    @property
    def state_elements(self) -> int:
        """The recurrent state and the tail of the convolution, per sequence."""
        return self.value_heads * self.value_dim * self.key_dim + self.conv_channels * self.conv_kernel

    def mixing_flops_per_token(self) -> float:
        """FLOPs of the recurrence per token: update and read of the state (2 x 2 N P per head; the delta rule
        reads twice).
        """
        reads = 2 if self.kind == "mamba2" else 3
        return 2.0 * reads * self.value_heads * self.value_dim * self.key_dim


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
            raise ValueError(f"top-{self.top_k} of {self.experts} experts")
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


Mixer = Attention | LatentAttention | StateSpace
Block = FeedForward | MixtureOfExperts


class Layer(Value):
    """One block of the stack: a token mixer, an optional cross-attention, an optional feed-forward, and their norms."""

    mixer: Mixer | None = Field(default=None, discriminator=None)
    cross: Attention | None = None
    ffn: Block | None = None
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
        return tuple(Counter(self.layers).items())

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


def visible_pairs(queries: Num, context: Num, *, causal: bool, window: int | None) -> Num:
    """How many (query, key) pairs attention visits when the last `queries` of `context` tokens ask.

    Causal: query i of the block sees `context - queries + i` keys, at most `window` of them.
    """
    if not causal:
        keys: Num = context if window is None else np.minimum(context, float(window))
        return queries * keys
    start = context - queries
    if window is None:
        return queries * start + queries * (queries + 1) / 2
    growing: Num = np.clip(window - start, 0.0, queries)
    return growing * start + growing * (growing + 1) / 2 + (queries - growing) * window


def mixing_flops(mixer: Mixer | None, queries: float, context: float, causal_skips: bool = True) -> float:
    """FLOPs of scores and weighted sums (or of the recurrence) for one sequence of one layer."""
    if mixer is None:
        return 0.0
    if isinstance(mixer, StateSpace):
        return queries * mixer.mixing_flops_per_token()
    pairs = visible_pairs(queries, context, causal=mixer.causal and causal_skips, window=mixer.window)
    flops = 2.0 * pairs * mixer.heads * (mixer.head_dim + mixer.v_head_dim)
    if isinstance(mixer, LatentAttention) and mixer.index_heads:
        every = visible_pairs(queries, context, causal=mixer.causal and causal_skips, window=None)
        flops += 2.0 * every * mixer.index_heads * mixer.index_dim
    return float(flops)
