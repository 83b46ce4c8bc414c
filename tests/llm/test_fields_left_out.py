"""Configurations that leave fields to their defaults, families with features of their own, and named refusals."""

from __future__ import annotations

from typing import Any

import pytest

from stratoscope.llm import LlmError, UnsupportedError, from_hf
from stratoscope.llm.hf_defaults import DEFAULTS
from stratoscope.llm.spec import Attention

# Language models of Gemma 3 as their configurations give them: 4b leaves out the heads, all leave out the vocabulary.
GEMMA3: dict[str, tuple[dict[str, Any], int]] = {
    "4b": ({"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "sliding_window": 1024},
           3_880_263_168),
    "12b": ({"hidden_size": 3840, "intermediate_size": 15360, "num_hidden_layers": 48, "num_attention_heads": 16,
             "num_key_value_heads": 8, "sliding_window": 1024}, 11_766_034_176),
    "27b": ({"hidden_size": 5376, "intermediate_size": 21504, "num_hidden_layers": 62, "num_attention_heads": 32,
             "num_key_value_heads": 16, "head_dim": 128, "sliding_window": 1024}, 27_009_346_304),
}  # fmt: skip
STEP: dict[str, Any] = {
    "hidden_size": 256, "num_hidden_layers": 5, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 32,
    "intermediate_size": 688, "vocab_size": 1000, "moe_intermediate_size": 96, "n_routed_experts": 8,
    "num_experts_per_tok": 2, "share_expert_dim": 64, "sliding_window": 128,
    "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "sliding_attention", "full_attention"],
}  # fmt: skip


@pytest.mark.parametrize("size", list(GEMMA3))
def test_gemma_3_is_read_from_what_its_configuration_gives(size: str) -> None:
    fields, parameters = GEMMA3[size]
    config = {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", **fields}}
    assert from_hf(config, size).params == parameters


@pytest.mark.torch
@pytest.mark.parametrize("size", list(GEMMA3))
def test_gemma_3_counts_equal_pytorch_on_the_meta_device(size: str) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    fields, parameters = GEMMA3[size]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gemma3_text", **fields))
    assert sum({id(p): p.numel() for p in model.parameters()}.values()) == parameters


@pytest.mark.torch
@pytest.mark.parametrize("family", list(DEFAULTS))
def test_defaults_are_those_of_transformers(family: str) -> None:
    from transformers import AutoConfig

    theirs = AutoConfig.for_model(family)
    assert DEFAULTS[family] == {key: getattr(theirs, key) for key in DEFAULTS[family]}


@pytest.mark.parametrize("missing", ["hidden_size", "intermediate_size", "num_hidden_layers"])
def test_depth_and_widths_have_no_default(missing: str) -> None:
    fields = {key: value for key, value in GEMMA3["4b"][0].items() if key != missing}
    with pytest.raises(LlmError, match=missing):
        from_hf({"model_type": "gemma3_text", **fields})


def test_a_window_given_as_null_stays_without_window() -> None:
    mistral = {
        "model_type": "mistral", "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 2,
        "num_attention_heads": 16, "vocab_size": 100,
    }  # fmt: skip
    absent, null = from_hf(mistral).layers[0].mixer, from_hf({**mistral, "sliding_window": None}).layers[0].mixer
    assert isinstance(absent, Attention)
    assert isinstance(null, Attention)
    assert (absent.window, absent.kv_heads, null.window) == (4096, 8, None)


@pytest.mark.torch
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_sliding_attention_heads": 12},
        {"mlp_layer_types": ["dense", "sparse", "dense", "sparse", "sparse"], "mlp_bias": False},
        {"attention_bias": True},
    ],
    ids=["plain", "more heads where windows slide", "routing by layer", "biases"],
)
def test_step_counts_equal_pytorch_on_the_meta_device(changes: dict[str, Any]) -> None:
    import torch
    from transformers.models.step3p7.configuration_step3p7 import Step3p7TextConfig
    from transformers.models.step3p7.modeling_step3p7 import Step3p7TextModel

    fields = {**STEP, **changes}
    with torch.device("meta"):
        model = Step3p7TextModel(Step3p7TextConfig(**fields))
    head = STEP["vocab_size"] * STEP["hidden_size"]  # of the class around it, which also builds the vision tower
    assert from_hf({"model_type": "step3p5", **fields}).params == sum(p.numel() for p in model.parameters()) + head


def test_step_is_read_in_the_form_of_its_checkpoints() -> None:
    plain = from_hf({"model_type": "step3p5", **STEP, "num_sliding_attention_heads": 12})
    renamed = {
        "num_key_value_heads": "num_attention_groups", "n_routed_experts": "moe_num_experts",
        "num_experts_per_tok": "moe_top_k", "share_expert_dim": "share_expert_dims",
    }  # fmt: skip
    fields = {renamed.get(key, key): value for key, value in STEP.items()}
    fields.update(
        layer_types=[*STEP["layer_types"], "full_attention"], num_nextn_predict_layers=1, moe_layers_enum="3,4",
        attention_other_setting={"num_attention_heads": 12, "num_attention_groups": 2, "head_dim": 32},
    )  # fmt: skip
    hub = from_hf({"model_type": "step3p7", "text_config": {"model_type": "step3p5", **fields}})
    assert hub.layers == plain.layers
    fields["attention_other_setting"] = {"num_attention_heads": 12, "head_dim": 64}
    with pytest.raises(UnsupportedError, match="attention_other_setting"):
        from_hf({"model_type": "step3p5", **fields})


def test_step_gates_one_number_a_head() -> None:
    mixer = from_hf({"model_type": "step3p5", **STEP}).layers[0].mixer
    assert isinstance(mixer, Attention)
    assert [(part.n_in, part.n_out) for part in mixer.linears(256) if part.name == "head gate"] == [(256, 8)]


@pytest.mark.parametrize(
    ("config", "feature"),
    [
        ({"model_type": "minimax_m3"}, "sparse_attention_config"),
        ({"model_type": "minimax_m3_vl", "text_config": {"hidden_size": 1}}, "sparse_attention_config"),
        ({"model_type": "deepseek_v4"}, "hc_mult"),
        ({"model_type": "kimi_k3", "text_config": {"model_type": "kimi_linear"}}, "linear_attn_config"),
    ],
)
def test_features_without_an_exact_count_are_refused_by_name(config: dict[str, Any], feature: str) -> None:
    with pytest.raises(UnsupportedError, match=feature):
        from_hf(config, "x")
