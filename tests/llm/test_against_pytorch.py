"""Counts against PyTorch on the meta device: parameters, FLOPs of a forward pass, bytes of the key-value cache."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from stratoscope.llm import from_hf
from stratoscope.llm.spec import ModelSpec

pytestmark = pytest.mark.torch

SMALL: dict[str, Any] = {
    "hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 2,
    "intermediate_size": 688, "vocab_size": 1000, "max_position_embeddings": 512, "pad_token_id": 0,
}  # fmt: skip
MOE: dict[str, Any] = {**SMALL, "moe_intermediate_size": 96, "num_experts_per_tok": 2, "head_dim": 32}
MLA: dict[str, Any] = {
    **SMALL, "num_key_value_heads": 8, "kv_lora_rank": 64, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16,
    "v_head_dim": 32, "moe_intermediate_size": 96, "n_routed_experts": 8, "n_shared_experts": 1,
    "num_experts_per_tok": 2, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
}  # fmt: skip
CLASSIC: dict[str, Any] = {"n_embd": 256, "n_layer": 2, "n_head": 8, "n_positions": 512, "vocab_size": 1000}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", SMALL),
    "llama with biases": ("llama", {**SMALL, "attention_bias": True, "mlp_bias": True}),
    "llama tied": ("llama", {**SMALL, "tie_word_embeddings": True}),
    "llama multi-query": ("llama", {**SMALL, "num_key_value_heads": 1}),
    "llama wide heads": ("llama", {**SMALL, "head_dim": 64}),
    "mistral": ("mistral", {**SMALL, "sliding_window": 128}),
    "mixtral": ("mixtral", {**SMALL, "num_local_experts": 8, "num_experts_per_tok": 2}),
    "qwen2": ("qwen2", SMALL),
    "qwen2_moe": ("qwen2_moe", {**MOE, "num_experts": 8, "shared_expert_intermediate_size": 160}),
    "qwen3": ("qwen3", {**SMALL, "head_dim": 64}),
    "qwen3_moe": ("qwen3_moe", {**MOE, "num_experts": 8}),
    "qwen3_moe every second": ("qwen3_moe", {**MOE, "num_experts": 8, "decoder_sparse_step": 2}),
    "gemma": ("gemma", {**SMALL, "head_dim": 64}),
    "gemma2": ("gemma2", {**SMALL, "head_dim": 64}),
    "gemma3": ("gemma3_text", {**SMALL, "head_dim": 64}),
    "phi": ("phi", SMALL),
    "phi3": ("phi3", SMALL),
    "gpt2": ("gpt2", CLASSIC),
    "gptj": ("gptj", {**CLASSIC, "rotary_dim": 16}),
    "gpt_neox": ("gpt_neox", {key: value for key, value in SMALL.items() if key != "num_key_value_heads"}),
    "opt": ("opt", {**SMALL, "ffn_dim": 1024, "word_embed_proj_dim": 256}),
    "opt projected": ("opt", {**SMALL, "ffn_dim": 1024, "word_embed_proj_dim": 128}),
    "opt post-norm": ("opt", {**SMALL, "ffn_dim": 1024, "word_embed_proj_dim": 256, "do_layer_norm_before": False}),
    "bloom": ("bloom", {"hidden_size": 256, "n_layer": 2, "n_head": 8, "vocab_size": 1000}),
    "falcon multi-query": ("falcon", {**SMALL, "alibi": False}),
    "falcon grouped": ("falcon", {**SMALL, "new_decoder_architecture": True, "num_kv_heads": 2}),
    "deepseek_v2": ("deepseek_v2", {**MLA, "q_lora_rank": 96}),
    "deepseek_v2 lite": ("deepseek_v2", {**MLA, "q_lora_rank": None}),
    "deepseek_v3": ("deepseek_v3", {**MLA, "q_lora_rank": 96}),
    "llama4": (
        "llama4_text",
        {**SMALL, "intermediate_size_mlp": 512, "num_local_experts": 4, "num_experts_per_tok": 1, "head_dim": 32},
    ),
    "gpt_oss": ("gpt_oss", {**SMALL, "num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 32}),
    "minimax_m2": ("minimax_m2", {**SMALL, "num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 32}),
    "mamba2": (
        "mamba2",
        {"hidden_size": 256, "num_hidden_layers": 4, "num_heads": 8, "head_dim": 64, "state_size": 32, "n_groups": 2,
         "vocab_size": 1000, "expand": 2},
    ),
    "mpt": ("mpt", {"d_model": 256, "n_heads": 8, "n_layers": 2, "vocab_size": 1000, "max_seq_len": 512}),
    "t5": ("t5", {"d_model": 256, "num_heads": 4, "d_kv": 64, "num_layers": 3, "d_ff": 512, "vocab_size": 1000}),
    "t5 gated untied": (
        "t5",
        {"d_model": 256, "num_heads": 4, "d_kv": 64, "num_layers": 3, "d_ff": 512, "vocab_size": 1000,
         "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
    "bert": ("bert", {**SMALL, "num_key_value_heads": None}),
    "vit": ("vit", {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 8, "intermediate_size": 512,
                    "image_size": 64, "patch_size": 16}),
}  # fmt: skip
# transformers runs every expert of Llama 4 on every token; Mamba and T5 take other inputs
FLOPS = [name for name in CONFIGS if name not in ("llama4", "mamba2", "t5", "t5 gated untied", "vit")]
# grouped Falcon is stored once per query head there, which is not the smallest cache; encoders have none
CACHED = [name for name in FLOPS if name not in ("falcon grouped", "bert")]


@cache
def build(name: str, device: str = "meta") -> tuple[Any, ModelSpec]:
    """The transformers model, built once for all tests of a device, and our spec of its own configuration."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    family, fields = CONFIGS[name]
    config = AutoConfig.for_model(family, **fields)
    config._attn_implementation = "eager"
    config._experts_implementation = "eager"  # one product per expert: grouped ones are not counted by PyTorch
    factory = {"t5": AutoModelForSeq2SeqLM, "bert": AutoModel, "vit": AutoModel}.get(family, AutoModelForCausalLM)
    with torch.device(device):
        model = factory.from_config(config).eval()
    return model, from_hf({**config.to_dict(), "model_type": family}, name)


@pytest.mark.parametrize("name", list(CONFIGS))
def test_parameters_equal_those_of_transformers(name: str) -> None:
    model, spec = build(name)
    unique = {id(parameter): parameter.numel() for parameter in model.parameters()}
    assert spec.params == sum(unique.values())


@pytest.mark.parametrize("name", FLOPS)
def test_flops_of_a_forward_pass_equal_those_that_pytorch_counts(name: str) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    model, spec = build(name, "cpu")
    tokens = 64
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.randint(0, 1000, (1, tokens)), use_cache=False)
    # eager attention computes the whole score matrix; rotary tables are counted by PyTorch, 2 x tokens x dim/2 a call
    assert spec.forward_flops(tokens, causal_skips=False) == pytest.approx(counter.get_total_flops(), rel=1e-3)


@pytest.mark.parametrize("name", CACHED)
def test_cache_bytes_equal_those_that_transformers_allocates(name: str) -> None:
    import torch

    model, spec = build(name, "cpu")
    tokens = 48
    with torch.no_grad():
        out = model(torch.zeros(2, tokens, dtype=torch.long), use_cache=True)
    held = sum(
        tensor.numel() * tensor.element_size()
        for layer in out.past_key_values.layers
        for tensor in (layer.keys, layer.values)
    )
    assert 2 * spec.kv_bytes(tokens, 4.0) == held
