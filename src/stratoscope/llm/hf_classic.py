"""Readers of families with LayerNorms and biases: GPT-2, GPT-NeoX, GPT-J, OPT, BLOOM, Falcon, Phi, T5, BERT, ViT."""

from __future__ import annotations

from stratoscope.llm.base import UnsupportedError
from stratoscope.llm.config import Config
from stratoscope.llm.spec import Attention, FeedForward, Layer, ModelSpec


def _plain(
    config: Config,
    heads: int,
    hidden: int,
    *,
    kv_heads: int | None = None,
    bias: bool = True,
    causal: bool = True,
    rotary: bool = False,
) -> Attention:
    dim = config.head_dim(hidden, heads)
    return Attention(
        heads=heads,
        kv_heads=kv_heads or heads,
        head_dim=dim,
        v_head_dim=dim,
        qkv_bias=bias,
        out_bias=bias,
        causal=causal,
        rotary=rotary,
    )


def _has(config: Config, ending: str) -> bool:
    return any(str(name).endswith(ending) for name in config.items("architectures") or [])


def read_gpt2(config: Config) -> ModelSpec:
    """GPT-2: learned positions, two LayerNorms a layer, tied head."""
    hidden, count = config.integer("n_embd", "hidden_size"), config.integer("n_layer", "num_hidden_layers")
    positions = config.optional("n_positions") or config.integer("n_ctx", "max_position_embeddings")
    layer = Layer(
        mixer=_plain(config, config.integer("n_head", "num_attention_heads"), hidden),
        ffn=FeedForward(width=config.optional("n_inner") or 4 * hidden, bias=True),
        norm_params=4 * hidden,
    )
    return ModelSpec(
        name=config.name,
        family="gpt2",
        hidden=hidden,
        vocab=config.integer("vocab_size"),
        layers=(layer,) * count,
        tied=config.flag("tie_word_embeddings", True),
        extra_params=(("positions", positions * hidden), ("final norm", 2 * hidden)),
        max_context=positions,
    )


def read_gpt_neox(config: Config) -> ModelSpec:
    """GPT-NeoX and Pythia: attention and feed-forward in parallel, untied head without bias."""
    hidden = config.integer("hidden_size")
    layer = Layer(
        mixer=_plain(
            config, config.integer("num_attention_heads"), hidden, bias=config.flag("attention_bias", True), rotary=True
        ),
        ffn=FeedForward(width=config.integer("intermediate_size"), bias=True),
        norm_params=4 * hidden,
        parallel=config.flag("use_parallel_residual", True),
    )
    return ModelSpec(
        name=config.name,
        family="gpt_neox",
        hidden=hidden,
        vocab=config.integer("vocab_size"),
        layers=(layer,) * config.integer("num_hidden_layers"),
        tied=config.flag("tie_word_embeddings", False),
        extra_params=(("final norm", 2 * hidden),),
        max_context=config.optional("max_position_embeddings"),
    )


def read_gptj(config: Config) -> ModelSpec:
    """GPT-J: one LayerNorm, no attention biases, untied head with bias."""
    hidden = config.integer("n_embd", "hidden_size")
    layer = Layer(
        mixer=_plain(config, config.integer("n_head", "num_attention_heads"), hidden, bias=False, rotary=True),
        ffn=FeedForward(width=config.optional("n_inner") or 4 * hidden, bias=True),
        norm_params=2 * hidden,
        parallel=True,
    )
    return ModelSpec(
        name=config.name,
        family="gptj",
        hidden=hidden,
        vocab=config.integer("vocab_size"),
        layers=(layer,) * config.integer("n_layer", "num_hidden_layers"),
        tied=config.flag("tie_word_embeddings", False),
        lm_head_bias=True,
        extra_params=(("final norm", 2 * hidden),),
        max_context=config.optional("n_positions", "max_position_embeddings"),
    )


def read_opt(config: Config) -> ModelSpec:
    """OPT: learned positions with an offset of two; the 350M model projects a narrower embedding and has no
    final norm.
    """
    hidden, positions = config.integer("hidden_size"), config.integer("max_position_embeddings")
    bias = config.flag("enable_bias", True)
    embedding = config.optional("word_embed_proj_dim") or hidden
    extra = [("positions", (positions + 2) * hidden)]
    if embedding != hidden:
        extra.append(("embedding projections", 2 * embedding * hidden))
    if config.flag("do_layer_norm_before", True) and not config.flag("_remove_final_layer_norm", False):
        extra.append(("final norm", 2 * hidden))
    affine = config.flag("layer_norm_elementwise_affine", True)
    layer = Layer(
        mixer=_plain(config, config.integer("num_attention_heads"), hidden, bias=bias),
        ffn=FeedForward(width=config.integer("ffn_dim"), bias=bias),
        norm_params=4 * hidden if affine else 0,
    )
    return ModelSpec(
        name=config.name,
        family="opt",
        hidden=hidden,
        vocab=config.integer("vocab_size"),
        layers=(layer,) * config.integer("num_hidden_layers"),
        tied=config.flag("tie_word_embeddings", True),
        embedding_dim=embedding if embedding != hidden else None,
        extra_params=tuple(extra),
        max_context=positions,
    )


def read_bloom(config: Config) -> ModelSpec:
    """BLOOM: ALiBi (no position parameters), a LayerNorm after the embedding, tied head."""
    hidden = config.integer("hidden_size", "n_embed")
    layer = Layer(
        mixer=_plain(config, config.integer("n_head", "num_attention_heads"), hidden),
        ffn=FeedForward(width=4 * hidden, bias=True),
        norm_params=4 * hidden,
    )
    return ModelSpec(
        name=config.name,
        family="bloom",
        hidden=hidden,
        vocab=config.integer("vocab_size"),
        layers=(layer,) * config.integer("n_layer", "num_hidden_layers"),
        tied=config.flag("tie_word_embeddings", True),
        extra_params=(("embedding norm", 2 * hidden), ("final norm", 2 * hidden)),
        max_context=config.optional("seq_length"),
    )


def read_falcon(config: Config) -> ModelSpec:
    """Falcon: multi-query (7B) or grouped (40B, 180B, with two norms for its parallel branches)."""
    hidden, heads = config.integer("hidden_size"), config.integer("num_attention_heads", "n_head")
    new = config.flag("new_decoder_architecture", False)
    parallel = config.flag("parallel_attn", True)
    kv_heads = heads
    if new:
        kv_heads = config.optional("num_kv_heads", "n_head_kv") or heads
    elif config.flag("multi_query", True):
        kv_heads = 1
    norms = (config.optional("num_ln_in_parallel_attn") or 2) if new else (1 if parallel else 2)
    bias = config.flag("bias", False)
    layer = Layer(
        mixer=_plain(config, heads, hidden, kv_heads=kv_heads, bias=bias, rotary=not config.flag("alibi", False)),
        ffn=FeedForward(width=config.optional("ffn_hidden_size") or 4 * hidden, bias=bias),
        norm_params=2 * hidden * norms,
        parallel=parallel or new,
    )
    return ModelSpec(
        name=config.name,
        family="falcon",
        hidden=hidden,
        vocab=config.integer("vocab_size"),
        layers=(layer,) * config.integer("num_hidden_layers", "n_layer"),
        tied=config.flag("tie_word_embeddings", True),
        extra_params=(("final norm", 2 * hidden),),
        max_context=config.optional("max_position_embeddings"),
    )


def read_phi(config: Config) -> ModelSpec:
    """Phi-1 to Phi-2: parallel branches, biases everywhere, untied head with bias."""
    hidden, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    if config.flag("qk_layernorm", False):
        raise UnsupportedError(f"{config.name}: qk_layernorm is not counted for Phi")
    layer = Layer(
        mixer=_plain(config, heads, hidden, kv_heads=config.optional("num_key_value_heads"), rotary=True),
        ffn=FeedForward(width=config.integer("intermediate_size"), bias=True),
        norm_params=2 * hidden,
        parallel=True,
    )
    return ModelSpec(
        name=config.name,
        family="phi",
        hidden=hidden,
        vocab=config.integer("vocab_size"),
        layers=(layer,) * config.integer("num_hidden_layers"),
        tied=config.flag("tie_word_embeddings", False),
        lm_head_bias=True,
        extra_params=(("final norm", 2 * hidden),),
        max_context=config.optional("max_position_embeddings"),
    )


def read_mpt(config: Config) -> ModelSpec:
    """MPT: ALiBi or learned positions, LayerNorms, tied head; without biases unless the configuration asks for them."""
    hidden, heads = config.integer("d_model"), config.integer("n_heads")
    kinds = config.data.get("attn_config")
    inner = Config(kinds if isinstance(kinds, dict) else {}, config.name)
    inner.refuse("qk_ln", "normalised queries and keys are not counted for MPT")
    alibi, positions = inner.flag("alibi", True), config.integer("max_seq_len")
    bias = not config.flag("no_bias", True)
    per_norm = hidden * (2 if bias else 1)
    layer = Layer(
        mixer=_plain(config, heads, hidden, kv_heads=inner.optional("kv_n_heads", least=1), bias=bias),
        ffn=FeedForward(width=(config.optional("expansion_ratio", least=1) or 4) * hidden, bias=bias),
        norm_params=2 * per_norm,
    )
    learned = () if alibi or not config.flag("learned_pos_emb", True) else (("positions", positions * hidden),)
    return ModelSpec(
        name=config.name,
        family="mpt",
        hidden=hidden,
        vocab=config.integer("vocab_size"),
        layers=(layer,) * config.integer("n_layers"),
        tied=config.flag("tie_word_embeddings", True),
        extra_params=(*learned, ("final norm", per_norm)),
        max_context=positions,
    )


def read_t5(config: Config) -> ModelSpec:
    """T5: encoder and decoder with cross-attention, no biases, relative positions in the first layer of each stack."""
    hidden, heads, dim = config.integer("d_model"), config.integer("num_heads"), config.integer("d_kv")
    encoder_layers = config.integer("num_layers")
    decoder_layers = config.optional("num_decoder_layers") or encoder_layers
    width, buckets = config.integer("d_ff"), config.optional("relative_attention_num_buckets") or 32
    gated = config.text("feed_forward_proj", "relu").startswith("gated") or config.flag("is_gated_act", False)

    def mixer(*, causal: bool, cross: bool = False) -> Attention:
        return Attention(
            heads=heads, kv_heads=heads, head_dim=dim, v_head_dim=dim, causal=causal, cross=cross, rotary=False
        )

    ffn = FeedForward(width=width, gated=gated)
    encoder = Layer(mixer=mixer(causal=False), ffn=ffn, norm_params=2 * hidden, stack="encoder")
    decoder = Layer(mixer=mixer(causal=True), cross=mixer(causal=False, cross=True), ffn=ffn, norm_params=3 * hidden)
    return ModelSpec(
        name=config.name,
        family="t5",
        hidden=hidden,
        vocab=config.integer("vocab_size"),
        layers=(encoder,) * encoder_layers + (decoder,) * decoder_layers,
        tied=config.flag("tie_word_embeddings", True),
        extra_params=(("relative positions", 2 * buckets * heads), ("final norms", 2 * hidden)),
        max_context=config.optional("n_positions"),
    )


def _encoder(config: Config) -> Layer:
    hidden = config.integer("hidden_size")
    return Layer(
        mixer=_plain(
            config, config.integer("num_attention_heads"), hidden, bias=config.flag("qkv_bias", True), causal=False
        ).model_copy(update={"out_bias": True}),
        ffn=FeedForward(width=config.integer("intermediate_size"), bias=True),
        norm_params=4 * hidden,
        stack="encoder",
    )


def read_bert(config: Config) -> ModelSpec:
    """BERT: with the masked-language head where the architecture names one, else with the pooler."""
    hidden = config.integer("hidden_size")
    positions, types = config.integer("max_position_embeddings"), config.optional("type_vocab_size") or 2
    head = _has(config, "ForMaskedLM") or _has(config, "ForPreTraining")
    extra = [("positions", positions * hidden), ("token types", types * hidden), ("embedding norm", 2 * hidden)]
    if head:
        extra.append(("head transform", hidden * hidden + 3 * hidden))
    if not _has(config, "ForMaskedLM"):
        extra.append(("pooler", hidden * hidden + hidden))
    if _has(config, "ForPreTraining"):
        extra.append(("next-sentence head", 2 * hidden + 2))
    return ModelSpec(
        name=config.name,
        family="bert",
        hidden=hidden,
        vocab=config.integer("vocab_size"),
        layers=(_encoder(config),) * config.integer("num_hidden_layers"),
        tied=True,
        lm_head=head,
        lm_head_bias=head,
        extra_params=tuple(extra),
        max_context=positions,
    )


def read_vit(config: Config) -> ModelSpec:
    """ViT: patch embedding, class token, learned positions; a classifier where the architecture names one, else
    a pooler.
    """
    hidden, patch, image = config.integer("hidden_size"), config.integer("patch_size"), config.integer("image_size")
    channels = config.optional("num_channels") or 3
    patches = (image // patch) ** 2
    extra = [
        ("patch embedding", patch * patch * channels * hidden + hidden),
        ("class token and positions", (patches + 2) * hidden),
        ("final norm", 2 * hidden),
    ]
    if _has(config, "ForImageClassification"):
        labels = config.data.get("id2label")
        classes = len(labels) if isinstance(labels, dict) else config.optional("num_labels") or 2
        extra.append(("classifier", hidden * classes + classes))
    else:
        extra.append(("pooler", hidden * hidden + hidden))
    return ModelSpec(
        name=config.name,
        family="vit",
        hidden=hidden,
        vocab=0,
        layers=(_encoder(config),) * config.integer("num_hidden_layers"),
        lm_head=False,
        token_embedding=False,
        extra_params=tuple(extra),
        max_context=patches + 1,
    )
