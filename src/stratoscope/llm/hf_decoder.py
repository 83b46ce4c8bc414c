"""Readers of decoder families with RMS norms and gated feed-forwards: Llama, Mistral, Qwen, Gemma, Phi-3,
MiniMax, gpt-oss.
"""

from __future__ import annotations

from stratoscope.llm.config import Config
from stratoscope.llm.spec import Attention, Block, FeedForward, Layer, MixtureOfExperts, ModelSpec, StateSpace

TIED_BY_DEFAULT = {"gemma", "gemma2", "gemma3_text", "gemma4_text"}
QKV_BIAS = {"qwen2", "qwen2_moe", "mimo"}
QK_NORM = {"qwen3", "qwen3_moe", "qwen3_vl_text", "qwen3_vl_moe_text", "gemma3_text"}
FOUR_NORMS = {"gemma2", "gemma3_text"}


def _family(config: Config) -> str:
    return config.text("model_type")


def _tied(config: Config) -> bool:
    return config.flag("tie_word_embeddings", _family(config) in TIED_BY_DEFAULT)


def assemble(config: Config, layers: list[Layer], *, final_norm: int | None = None) -> ModelSpec:
    """The model around its layers: embedding, final norm, head."""
    hidden = config.integer("hidden_size")
    equal: dict[Layer, Layer] = {}  # equal layers are one object, so that grouping them compares each only once
    return ModelSpec(
        name=config.name,
        family=_family(config),
        hidden=hidden,
        vocab=config.integer("vocab_size"),
        layers=tuple(equal.setdefault(layer, layer) for layer in layers),
        tied=_tied(config),
        extra_params=(("final norm", hidden if final_norm is None else final_norm),),
        max_context=config.optional("max_position_embeddings"),
    )


def windows(config: Config, layers: int) -> list[int | None]:
    """The sliding window of each layer, None for full attention."""
    window = config.optional("sliding_window")
    family = _family(config)
    kinds = config.per_layer("layer_types", layers)
    if kinds is not None:
        chunk = window or config.optional("attention_chunk_size")
        return [chunk if kind in ("sliding_attention", "chunked_attention") else None for kind in kinds]
    if window is None:
        return [None] * layers
    if family in ("qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "mimo"):
        first = config.optional("max_window_layers") or 0
        on = config.flag("use_sliding_window", False)
        return [window if on and i >= first else None for i in range(layers)]
    if family == "gemma2":
        return [window if i % 2 == 0 else None for i in range(layers)]
    if family == "gemma3_text":
        pattern = config.optional("sliding_window_pattern") or 6
        return [None if (i + 1) % pattern == 0 else window for i in range(layers)]
    return [window] * layers


def attention(
    config: Config, window: int | None = None, *, gate: bool = False, vectors: int | None = None
) -> Attention:
    """Grouped-query attention as Llama's descendants configure it."""
    family = _family(config)
    heads = config.integer("num_attention_heads")
    kv_heads = config.optional("num_key_value_heads", least=1) or heads
    default_dim = {"gemma": 256, "gemma2": 256, "gemma3_text": 256, "qwen3": 128, "qwen3_moe": None}.get(family)
    dim = config.optional("head_dim", least=1) or default_dim or config.head_dim(config.integer("hidden_size"), heads)
    bias = config.flag("attention_bias", family == "gpt_oss")
    norms = 2 * dim if family in QK_NORM else 0
    if family == "minimax_m2" and config.flag("use_qk_norm", True):
        norms = (heads + kv_heads) * dim
    if family == "gpt_oss":
        norms = heads
    return Attention(
        heads=heads,
        kv_heads=kv_heads,
        head_dim=dim,
        v_head_dim=dim,
        window=window,
        qkv_bias=bias or family in QKV_BIAS,
        out_bias=bias and family not in QKV_BIAS,
        output_gate=gate,
        vector_params=norms if vectors is None else vectors,
    )


def _sparse_layers(config: Config, layers: int) -> list[bool]:
    """Which layers route their feed-forward."""
    family = _family(config)
    if family in ("mixtral", "minimax_m2", "gpt_oss", "qwen3_5_moe_text"):
        return [True] * layers
    if family not in ("qwen2_moe", "qwen3_moe", "qwen3_vl_moe_text", "qwen3_next"):
        return [False] * layers
    step = config.optional("decoder_sparse_step") or 1
    dense = set(config.items("mlp_only_layers") or [])
    return [i not in dense and (i + 1) % step == 0 for i in range(layers)]


def block(config: Config, sparse: bool) -> Block:
    """The feed-forward of a layer."""
    family = _family(config)
    if not sparse:
        return FeedForward(width=config.integer("intermediate_size"), gated=True, bias=config.flag("mlp_bias", False))
    own_width = config.optional("moe_intermediate_size")
    shared = config.optional("shared_expert_intermediate_size") or 0
    biased = family == "gpt_oss"
    return MixtureOfExperts(
        experts=config.integer("num_experts", "num_local_experts"),
        top_k=config.integer("num_experts_per_tok"),
        width=own_width or config.integer("intermediate_size"),
        bias=biased,
        router_bias=biased,
        shared_width=shared,
        shared_gate=shared > 0,
    )


def read_gated(config: Config) -> ModelSpec:
    """Llama and the families that differ from it by biases, norms, windows and routing."""
    hidden, count = config.integer("hidden_size"), config.integer("num_hidden_layers")
    norms = hidden * (4 if _family(config) in FOUR_NORMS else 2)
    sparse = _sparse_layers(config, count)
    layers = [
        Layer(mixer=attention(config, window), ffn=block(config, sparse[i]), norm_params=norms)
        for i, window in enumerate(windows(config, count))
    ]
    return assemble(config, layers)


def read_qwen_hybrid(config: Config) -> ModelSpec:
    """Qwen3-Next and Qwen 3.5: gated delta-rule layers with a gated softmax layer in every fourth."""
    hidden, count = config.integer("hidden_size"), config.integer("num_hidden_layers")
    interval = config.optional("full_attention_interval") or 4
    kinds = config.per_layer("layer_types", count) or [
        "full_attention" if (i + 1) % interval == 0 else "linear_attention" for i in range(count)
    ]
    dim = config.optional("head_dim") or 256
    delta = StateSpace(
        kind="gated_delta",
        key_heads=config.integer("linear_num_key_heads"),
        value_heads=config.integer("linear_num_value_heads"),
        key_dim=config.integer("linear_key_head_dim"),
        value_dim=config.integer("linear_value_head_dim"),
        conv_kernel=config.optional("linear_conv_kernel_dim") or 4,
        conv_bias=False,
    )
    full = attention(config, gate=config.flag("attn_output_gate", True), vectors=2 * dim)
    sparse = _sparse_layers(config, count)
    layers = [
        Layer(mixer=full if kind == "full_attention" else delta, ffn=block(config, sparse[i]), norm_params=2 * hidden)
        for i, kind in enumerate(kinds)
    ]
    return assemble(config, layers)


def read_llama4(config: Config) -> ModelSpec:
    """Llama 4: every n-th layer routed with one shared expert; chunked attention except where positions are
    left out.
    """
    hidden, count = config.integer("hidden_size"), config.integer("num_hidden_layers")
    step = config.optional("interleave_moe_layer_step") or 1
    routed = config.items("moe_layers")
    sparse = [i in routed if routed else (i + 1) % step == 0 for i in range(count)]
    chunk = config.optional("attention_chunk_size")
    no_rope = config.per_layer("no_rope_layers", count) or [int((i + 1) % 4 != 0) for i in range(count)]
    width = config.integer("intermediate_size")
    moe = MixtureOfExperts(
        experts=config.integer("num_local_experts"),
        top_k=config.integer("num_experts_per_tok"),
        width=width,
        shared_width=width,
    )
    dense = FeedForward(width=config.integer("intermediate_size_mlp"), gated=True)
    layers = [
        Layer(
            mixer=attention(config, chunk if no_rope[i] else None),
            ffn=moe if sparse[i] else dense,
            norm_params=2 * hidden,
        )
        for i in range(count)
    ]
    return assemble(config, layers)


def read_gemma4(config: Config) -> ModelSpec:
    """Gemma 4: local layers, wider global layers whose values are their keys, experts beside a dense block."""
    for key in ("hidden_size_per_layer_input", "num_kv_shared_layers", "use_double_wide_mlp"):
        config.refuse(key, "this variant of Gemma 4 is not counted exactly here")
    hidden, count = config.integer("hidden_size"), config.integer("num_hidden_layers")
    kinds = config.per_layer("layer_types", count) or ["full_attention"] * count
    window, heads = config.integer("sliding_window"), config.integer("num_attention_heads")
    wide, narrow = config.integer("global_head_dim", "head_dim"), config.integer("head_dim")
    shared = config.flag("attention_k_eq_v", False)
    wide_kv = config.integer("num_global_key_value_heads", "num_key_value_heads") if shared else None
    local_kv = config.integer("num_key_value_heads")
    full = Attention(
        heads=heads,
        kv_heads=wide_kv or local_kv,
        head_dim=wide,
        v_head_dim=wide,
        shared_kv_projection=shared,
        vector_params=2 * wide,
    )
    local = Attention(
        heads=heads, kv_heads=local_kv, head_dim=narrow, v_head_dim=narrow, window=window, vector_params=2 * narrow
    )
    width = config.integer("intermediate_size")
    ffn: Block = FeedForward(width=width, gated=True)
    norms = 4 * hidden
    if config.flag("enable_moe_block", False):
        experts = config.integer("num_experts")
        ffn = MixtureOfExperts(
            experts=experts,
            top_k=config.integer("top_k_experts"),
            width=config.integer("moe_intermediate_size"),
            dense_width=width,
            vector_params=hidden + experts,
        )
        norms = 7 * hidden
    layers = [Layer(mixer=full if kind == "full_attention" else local, ffn=ffn, norm_params=norms) for kind in kinds]
    return assemble(config, layers)


def read_mimo_v2(config: Config) -> ModelSpec:
    """MiMo-V2-Flash: local and global layers with their own key-value heads, sinks on the local ones."""
    hidden, count = config.integer("hidden_size"), config.integer("num_hidden_layers")
    local = config.per_layer("hybrid_layer_pattern", count) or [0] * count
    routed = config.per_layer("moe_layer_freq", count) or [1] * count
    config.refuse("n_shared_experts", "shared experts are not read for this family")

    def mixer(is_local: bool) -> Attention:
        prefix = "swa_" if is_local else ""
        heads = config.integer(prefix + "num_attention_heads")
        sinks = config.flag("add_swa_attention_sink_bias" if is_local else "add_full_attention_sink_bias", False)
        return Attention(
            heads=heads,
            kv_heads=config.integer(prefix + "num_key_value_heads"),
            head_dim=config.integer(prefix + "head_dim"),
            v_head_dim=config.integer(prefix + "v_head_dim"),
            window=config.integer("sliding_window") if is_local else None,
            vector_params=heads if sinks else 0,
        )

    moe = MixtureOfExperts(
        experts=config.integer("n_routed_experts"),
        top_k=config.integer("num_experts_per_tok"),
        width=config.integer("moe_intermediate_size"),
    )
    dense = FeedForward(width=config.integer("intermediate_size"), gated=True)
    layers = [
        Layer(mixer=mixer(bool(local[i])), ffn=moe if routed[i] else dense, norm_params=2 * hidden)
        for i in range(count)
    ]
    return assemble(config, layers)
