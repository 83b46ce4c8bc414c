"""Token mixers: softmax attention in its kinds, latent attention, recurrent state spaces; and their matrices."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from stratoscope.llm.base import LlmError, Num, Value

# How tensor parallelism splits a matrix: by output columns, by input rows, by key-value heads (replicated when there
# are more ranks than heads), or not at all.
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
    head_gate: bool = False  # one gate a head, from the layer's input (Step 3.5)
    shared_kv_projection: bool = False  # values are the keys (Gemma 4 global layers)
    vector_params: int = 0  # q/k norms, sinks
    cross: bool = False  # keys and values come from the encoder
    rotary: bool = True  # positions by rotating queries and keys, else learned, ALiBi or relative

    @model_validator(mode="after")
    def _heads_divide(self) -> Attention:
        if self.heads % self.kv_heads:
            raise LlmError(
                f"{self.heads} query heads are not a multiple of {self.kv_heads} key-value heads",
                hint="key-value heads divide the query heads",
            )
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
        if self.head_gate:
            out.append(Linear(name="head gate", n_in=hidden, n_out=self.heads, shard="col"))
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


Mixer = Attention | LatentAttention | StateSpace


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
