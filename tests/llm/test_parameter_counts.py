"""Parameter counts against the counts that model cards and hubs publish, from configurations written out here."""

from __future__ import annotations

from typing import Any

import pytest

from stratoscope.errors import StratoscopeError
from stratoscope.llm import LlmError, UnknownArchitectureError, UnsupportedError, from_hf


def llama(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000, "tie_word_embeddings": False,
    }  # fmt: skip
    return {**base, **changes}


PUBLISHED: dict[str, tuple[dict[str, Any], int]] = {
    "Llama-2-7B": (llama(), 6_738_415_616),
    "Llama-2-13B": (
        llama(hidden_size=5120, intermediate_size=13824, num_hidden_layers=40, num_attention_heads=40,
              num_key_value_heads=40),
        13_015_864_320,
    ),
    "Llama-2-70B": (
        llama(hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64,
              num_key_value_heads=8),
        68_976_648_192,
    ),
    "Llama-3-8B": (llama(intermediate_size=14336, num_key_value_heads=8, vocab_size=128256), 8_030_261_248),
    "Mistral-7B": (
        llama(model_type="mistral", intermediate_size=14336, num_key_value_heads=8, sliding_window=4096),
        7_241_732_096,
    ),
    "Mixtral-8x7B": (
        llama(model_type="mixtral", intermediate_size=14336, num_key_value_heads=8, num_local_experts=8,
              num_experts_per_tok=2),
        46_702_792_704,
    ),
    "Qwen2-7B": (
        llama(model_type="qwen2", hidden_size=3584, intermediate_size=18944, num_hidden_layers=28,
              num_attention_heads=28, num_key_value_heads=4, vocab_size=152064),
        7_615_616_512,
    ),
    "Gemma-2B": (
        {"model_type": "gemma", "hidden_size": 2048, "intermediate_size": 16384, "num_hidden_layers": 18,
         "num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 256, "vocab_size": 256000},
        2_506_172_416,
    ),
    "Gemma-7B": (
        {"model_type": "gemma", "hidden_size": 3072, "intermediate_size": 24576, "num_hidden_layers": 28,
         "num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 256, "vocab_size": 256000},
        8_537_680_896,
    ),
    "GPT-2": (
        {"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, "vocab_size": 50257},
        124_439_808,
    ),
    "GPT-2 XL": (
        {"model_type": "gpt2", "n_embd": 1600, "n_layer": 48, "n_head": 25, "n_positions": 1024, "vocab_size": 50257},
        1_557_611_200,
    ),
    "GPT-J-6B": (
        {"model_type": "gptj", "n_embd": 4096, "n_layer": 28, "n_head": 16, "n_positions": 2048, "vocab_size": 50400},
        6_050_882_784,
    ),
    "Pythia-70M": (
        {"model_type": "gpt_neox", "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 6,
         "num_attention_heads": 8, "vocab_size": 50304},
        70_426_624,
    ),
    "OPT-125M": (
        {"model_type": "opt", "hidden_size": 768, "ffn_dim": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
         "max_position_embeddings": 2048, "vocab_size": 50272, "word_embed_proj_dim": 768},
        125_239_296,
    ),
    "BLOOM-560M": (
        {"model_type": "bloom", "hidden_size": 1024, "n_layer": 24, "n_head": 16, "vocab_size": 250880},
        559_214_592,
    ),
    "Falcon-7B": (
        {"model_type": "falcon", "hidden_size": 4544, "num_hidden_layers": 32, "num_attention_heads": 71,
         "multi_query": True, "parallel_attn": True, "bias": False, "vocab_size": 65024},
        6_921_720_704,
    ),
    "Phi-2": (
        {"model_type": "phi", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 32,
         "num_attention_heads": 32, "vocab_size": 51200},
        2_779_683_840,
    ),
    "T5-small": (
        {"model_type": "t5", "d_model": 512, "num_heads": 8, "d_kv": 64, "num_layers": 6, "d_ff": 2048,
         "vocab_size": 32128},
        60_506_624,
    ),
    "BERT-base": (
        {"model_type": "bert", "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
         "num_attention_heads": 12, "max_position_embeddings": 512, "type_vocab_size": 2, "vocab_size": 30522},
        109_482_240,
    ),
    "ViT-base": (
        {"model_type": "vit", "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
         "num_attention_heads": 12, "image_size": 224, "patch_size": 16},
        86_389_248,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_parameters_equal_the_published_count(name: str) -> None:
    config, published = PUBLISHED[name]
    assert from_hf(config, name).params == published


def test_deepseek_v3_has_671_billion_parameters_of_which_37_are_active() -> None:
    config = {
        "model_type": "deepseek_v3", "hidden_size": 7168, "intermediate_size": 18432, "moe_intermediate_size": 2048,
        "num_hidden_layers": 61, "first_k_dense_replace": 3, "n_routed_experts": 256, "n_shared_experts": 1,
        "num_experts_per_tok": 8, "num_attention_heads": 128, "q_lora_rank": 1536, "kv_lora_rank": 512,
        "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "vocab_size": 129280,
        "tie_word_embeddings": False,
    }  # fmt: skip
    model = from_hf(config, "DeepSeek-V3")
    # the card's 671.03 B counts the routing-bias buffers (58 x 256) that are not parameters
    assert model.params + 58 * 256 == 671_026_419_200
    assert model.active_params == pytest.approx(37.5e9, rel=0.01)
    assert model.kv_bytes_per_token(2.0) == 61 * (512 + 64) * 2  # 70 kB, arXiv 2412.19437


def test_head_dimension_is_read_apart_from_hidden_over_heads() -> None:
    qwen = llama(model_type="qwen3", num_attention_heads=32, num_key_value_heads=8, head_dim=128, hidden_size=2560)
    attention = from_hf(qwen).layers[0].mixer
    assert attention is not None
    assert attention.head_dim == 128 != 2560 // 32


def test_every_ratio_of_feed_forward_to_hidden_loads() -> None:
    for width in (8192, 11008, 14336, 25600):
        assert from_hf(llama(intermediate_size=width)).layers[0].ffn.width == width


def test_untied_embeddings_count_twice() -> None:
    tied, untied = from_hf(llama(tie_word_embeddings=True)), from_hf(llama())
    assert untied.params - tied.params == 32000 * 4096


def test_an_unknown_family_is_a_named_error() -> None:
    with pytest.raises(UnknownArchitectureError, match="rwkv"):
        from_hf({"model_type": "rwkv"}, "x")


def test_a_missing_field_is_named() -> None:
    config = llama()
    del config["hidden_size"]
    with pytest.raises(LlmError, match="hidden_size"):
        from_hf(config, "x")


def test_a_variant_without_exact_count_is_refused() -> None:
    config = {"model_type": "gemma4_text", "hidden_size_per_layer_input": 256}
    with pytest.raises(UnsupportedError, match="hidden_size_per_layer_input"):
        from_hf(config, "x")


def test_remote_code_entries_are_ignored() -> None:
    assert from_hf(llama(auto_map={"AutoModel": "evil.py"})).params == from_hf(llama()).params


def test_inconsistent_lists_raise_the_package_error() -> None:
    with pytest.raises(StratoscopeError, match="layer_types"):
        from_hf(llama(layer_types=["full_attention"]))
