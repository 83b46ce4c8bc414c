"""Reader of Step 3.5 and 3.7: local and global layers with their own query heads, a gate a head, one shared expert."""

from __future__ import annotations

from typing import Any

from stratoscope.llm.base import LlmError, UnsupportedError
from stratoscope.llm.config import Config
from stratoscope.llm.hf_decoder import assemble
from stratoscope.llm.spec import Attention, Block, FeedForward, Layer, MixtureOfExperts, ModelSpec

DENSE_FIRST = 3  # layers without routing where the configuration does not say; transformers, configuration_step3p7.py


def _padded(config: Config, key: str, layers: int) -> list[Any] | None:
    """A list with one entry a layer, without the entries of the multi-token heads that checkpoints add at its end."""
    values = config.items(key)
    heads = config.optional("num_nextn_predict_layers", "num_mtp_layers") or 0
    if values is not None and len(values) not in (layers, layers + heads):
        raise LlmError(f"{config.name}: {key} has {len(values)} entries for {layers} layers", hint="one entry a layer")
    return None if values is None else values[:layers]


def _routed(config: Config, layers: int) -> list[bool]:
    kinds = _padded(config, "mlp_layer_types", layers)
    if kinds is not None:
        return [kind == "sparse" for kind in kinds]
    named = config.data.get("moe_layers_enum")
    if named is not None:
        parts = named.split(",") if isinstance(named, str) else named
        if not isinstance(parts, list | tuple) or not all(str(part).strip().isdecimal() for part in parts):
            raise LlmError(f"{config.name}: moe_layers_enum is {str(named)[:40]!r}", hint="layers, as 3,4,5")
        chosen = {int(part) for part in parts}
        return [index in chosen for index in range(layers)]
    first = config.optional("first_k_dense_replace")
    return [index >= (DENSE_FIRST if first is None else first) for index in range(layers)]


def _local_heads(config: Config, heads: int) -> int:
    """Query heads of the sliding layers; raises UnsupportedError where they differ in more than their count."""
    other = config.data.get("attention_other_setting")
    given = config.optional("num_sliding_attention_heads", least=1)
    if given is not None or other is None:
        return given or heads
    if not isinstance(other, dict):
        raise LlmError(f"{config.name}: attention_other_setting is {str(other)[:40]!r}", hint="a mapping")
    nested = Config(other, f"{config.name}: attention_other_setting")
    groups = nested.optional("num_attention_groups", "num_key_value_heads")
    width = nested.optional("head_dim")
    if groups not in (None, config.integer("num_key_value_heads", "num_attention_groups")) or width not in (
        None, config.integer("head_dim"),
    ):  # fmt: skip
        raise UnsupportedError(f"{config.name}: attention_other_setting changes more than the number of query heads")
    return nested.optional("num_attention_heads", least=1) or heads


def read_step(config: Config) -> ModelSpec:
    """Step 3.5 Flash and 3.7 Flash as transformers builds them; multi-token heads are not counted."""
    hidden, count = config.integer("hidden_size"), config.integer("num_hidden_layers")
    heads, dim = config.integer("num_attention_heads"), config.integer("head_dim")
    kinds = _padded(config, "layer_types", count) or ["full_attention"] * count
    routed = _routed(config, count)
    bias, window = config.flag("attention_bias", False), config.optional("sliding_window")

    def mixer(local: bool) -> Attention:
        return Attention(
            heads=_local_heads(config, heads) if local else heads,
            kv_heads=config.integer("num_key_value_heads", "num_attention_groups"),
            head_dim=dim,
            v_head_dim=dim,
            window=window if local else None,
            qkv_bias=bias,
            out_bias=bias,
            head_gate=True,
            vector_params=2 * dim,
        )

    moe: Block = MixtureOfExperts(
        experts=config.integer("n_routed_experts", "moe_num_experts", "num_local_experts", "num_experts"),
        top_k=config.integer("num_experts_per_tok", "moe_top_k"),
        width=config.integer("moe_intermediate_size"),
        shared_width=config.integer("share_expert_dim", "share_expert_dims"),
    )
    dense: Block = FeedForward(
        width=config.integer("intermediate_size"), gated=True, bias=config.flag("mlp_bias", False)
    )
    layers = [
        Layer(mixer=mixer(kinds[i] == "sliding_attention"), ffn=moe if routed[i] else dense, norm_params=2 * hidden)
        for i in range(count)
    ]
    return assemble(config, layers)
