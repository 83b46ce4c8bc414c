"""How many parameters and activation bytes one rank holds; for one plan or for an array of plans."""

from __future__ import annotations

import numpy as np

from stratoscope.llm.base import Num
from stratoscope.llm.ops import Formats, sharded_columns
from stratoscope.llm.plan import Engine, Lora, Recompute
from stratoscope.llm.spec import Attention, LatentAttention, Layer, MixtureOfExperts, ModelSpec, StateSpace


def layer_params(layer: Layer, hidden: int, tp: Num, ep: Num) -> tuple[Num, Num]:
    """Parameters of one layer on one rank: those that every data-parallel replica holds, and routed experts."""
    dense: Num = float(layer.norm_params)
    dense = dense + float(sum(part.vector_params for part in (layer.mixer, layer.cross) if part is not None))
    for linear in layer.linears(hidden):
        width_in, width_out = sharded_columns(linear, tp)
        dense = dense + width_in * width_out
        if linear.bias:
            dense = dense + (width_out if linear.shard in ("col", "kv") else float(linear.n_out))
    experts: Num = 0.0
    if isinstance(layer.ffn, MixtureOfExperts):
        one = float(sum(linear.params for linear in layer.ffn.expert(hidden)))
        split = np.where(np.asarray(ep) > 1, ep, tp)
        experts = layer.ffn.experts * one / split
        dense = dense + layer.ffn.vector_params
    return dense, experts


def rank_params(model: ModelSpec, tp: Num, ep: Num, pp: Num) -> tuple[Num, Num, Num]:
    """Parameters of the fullest pipeline stage: dense, experts, and embeddings (first or last stage, split by tp)."""
    layers = float(len(model.layers))
    share = np.ceil(layers / np.asarray(pp, dtype=float)) / layers
    dense: Num = 0.0
    experts: Num = 0.0
    for layer, count in model.groups:
        one, routed = layer_params(layer, model.hidden, tp, ep)
        dense, experts = dense + count * one, experts + count * routed
    ends = (model.embedding_params + float(sum(count for _, count in model.extra_params))) / tp
    head = model.head_params / tp
    both = np.where(np.asarray(pp) > 1, np.maximum(ends, np.maximum(head, model.embedding_params / tp)), ends + head)
    return dense * share, experts * share, both


def lora_params(model: ModelSpec, lora: Lora) -> int:
    """Trainable parameters of the adapters: rank x (in + out) for each targeted matrix."""
    count = 0
    for layer, times in model.groups:
        for linear in layer.linears(model.hidden):
            if linear.name in lora.targets:
                count += times * lora.rank * (linear.n_in + linear.n_out)
    return count


def saved_bytes_per_token(
    layer: Layer, hidden: int, context: Num, tp: Num, split: Num, formats: Formats, engine: Engine, recompute: Recompute
) -> Num:
    """Activation bytes that one token of one layer keeps for the backward pass.

    The count of Korthikanti et al. (arXiv 2205.05198 s. 4): what norms, matrices, activations, dropouts and
    softmax save.
    `split` divides what tensor parallelism replicates (tp with sequence parallelism). For a plain GPT layer without
    recomputation it gives sbh (10/split + 24/tp + 5 a s / (h tp)).
    """
    size = formats.activation
    if recompute == "full":
        return size * hidden / split
    masks = 2.0 * hidden if engine.dropout else 0.0
    blocks = (layer.mixer is not None) + (layer.ffn is not None)
    inputs = blocks if not layer.parallel else 1
    replicated = size * hidden * (inputs * 2.0) + masks * blocks / 2.0
    sharded: Num = 0.0
    mixer, ffn = layer.mixer, layer.ffn
    if isinstance(mixer, Attention | LatentAttention):
        sharded = sharded + _attention_saved(mixer, context, tp, formats, engine, recompute)
        if isinstance(mixer, LatentAttention):
            replicated += size * ((mixer.q_lora_rank or 0) + mixer.kv_lora_rank)
    elif isinstance(mixer, StateSpace):
        sharded = sharded + size * (2.0 * mixer.conv_channels + 3.0 * mixer.inner) / tp
    if ffn is not None:
        width = float(ffn.width if not isinstance(ffn, MixtureOfExperts) else ffn.shared_width + ffn.dense_width)
        per_width = 3.0 if ffn.gated else 2.0
        sharded = sharded + size * per_width * width / tp
        if isinstance(ffn, MixtureOfExperts):
            sharded = sharded + size * ffn.top_k * (2.0 * hidden + per_width * ffn.width) / tp
    return replicated / split + sharded


def _attention_saved(
    mixer: Attention | LatentAttention, context: Num, tp: Num, formats: Formats, engine: Engine, recompute: Recompute
) -> Num:
    size, heads = formats.activation, mixer.heads / tp
    kv_heads = mixer.heads if isinstance(mixer, LatentAttention) else mixer.kv_heads
    kv = kv_heads / np.minimum(tp, float(kv_heads)) * (mixer.head_dim + mixer.v_head_dim)
    kept: Num = size * (heads * (mixer.head_dim + mixer.v_head_dim) + kv)
    if engine.flash_attention:
        return kept + 4.0 * heads  # log-sum-exp
    if recompute == "selective":
        return kept
    dropped = (size + 1.0) if engine.dropout else 0.0
    return kept + (size + dropped) * heads * context
