"""Readers of families with latent attention (DeepSeek V2 to V3.2, Kimi K2, GLM-5) and of Mamba-2."""

from __future__ import annotations

from stratoscope.llm.config import Config
from stratoscope.llm.hf_decoder import assemble
from stratoscope.llm.spec import Block, FeedForward, LatentAttention, Layer, MixtureOfExperts, ModelSpec, StateSpace


def _mixer(config: Config, indexed: bool) -> LatentAttention:
    return LatentAttention(
        heads=config.integer("num_attention_heads"),
        q_lora_rank=config.optional("q_lora_rank") or None,
        kv_lora_rank=config.integer("kv_lora_rank"),
        nope_dim=config.integer("qk_nope_head_dim"),
        rope_dim=config.integer("qk_rope_head_dim"),
        v_head_dim=config.integer("v_head_dim"),
        bias=config.flag("attention_bias", False),
        index_heads=config.integer("index_n_heads") if indexed else 0,
        index_dim=config.integer("index_head_dim") if indexed else 0,
        index_top_k=config.optional("index_topk"),
    )


def read_latent(config: Config) -> ModelSpec:
    """DeepSeek and its descendants: dense layers first, then routed ones with shared experts; the multi-token head is
    not part of the served model and is not counted."""
    hidden, count = config.integer("hidden_size"), config.integer("num_hidden_layers")
    kinds = config.per_layer("mlp_layer_types", count)
    first, every = config.optional("first_k_dense_replace") or 0, config.optional("moe_layer_freq") or 1
    experts = config.optional("n_routed_experts")
    sparse = [
        kinds[i] == "sparse" if kinds else experts is not None and i >= first and i % every == 0 for i in range(count)
    ]
    index_types = config.per_layer("indexer_types", count)
    has_index = config.optional("index_n_heads") is not None
    indexed = [has_index and (index_types is None or index_types[i] == "full") for i in range(count)]
    dense: Block = FeedForward(width=config.integer("intermediate_size"), gated=True)
    moe: Block = dense
    if experts is not None:
        width = config.integer("moe_intermediate_size")
        shared = config.optional("n_shared_experts") or 0
        moe = MixtureOfExperts(
            experts=experts,
            top_k=config.integer("num_experts_per_tok"),
            width=width,
            shared_width=shared * width,
        )
    layers = [
        Layer(mixer=_mixer(config, indexed[i]), ffn=moe if sparse[i] else dense, norm_params=2 * hidden)
        for i in range(count)
    ]
    return assemble(config, layers)


def read_mamba2(config: Config) -> ModelSpec:
    """Mamba-2: mixers alone, no feed-forward."""
    hidden, count = config.integer("hidden_size"), config.integer("num_hidden_layers")
    mixer = StateSpace(
        kind="mamba2",
        key_heads=config.integer("n_groups"),
        value_heads=config.integer("num_heads"),
        key_dim=config.integer("state_size"),
        value_dim=config.integer("head_dim"),
        conv_kernel=config.integer("conv_kernel"),
        conv_bias=config.flag("use_conv_bias", True),
        proj_bias=config.flag("use_bias", False),
    )
    return assemble(config, [Layer(mixer=mixer, norm_params=hidden)] * count)
