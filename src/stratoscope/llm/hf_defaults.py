"""Fields that published configurations leave out, with the values that transformers gives them; and the families
whose features have no exact count here.

Source of the defaults: the configuration classes of transformers 5.23.0 (`configuration_<family>.py`), by model_type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Only fields that checkpoints are known to omit: depth and widths are always asked for.
DEFAULTS: dict[str, dict[str, Any]] = {
    "gemma": {"vocab_size": 256000, "num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 256},
    "gemma2": {
        "vocab_size": 256000, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
        "sliding_window": 4096, "max_position_embeddings": 8192,
    },
    "gemma3_text": {
        "vocab_size": 262208, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
        "sliding_window": 4096, "max_position_embeddings": 131072,
    },
    "mistral": {"num_key_value_heads": 8, "sliding_window": 4096},
    "mixtral": {"num_key_value_heads": 8},
}  # fmt: skip

_BLOCKS = "sparse attention that picks blocks of keys by an index branch (sparse_attention_config)"
_V4 = "hyper-connections (hc_mult), compressed attention (compress_ratios), low-rank output groups (o_lora_rank)"
_KIMI = (
    "Kimi delta attention with gates per channel (linear_attn_config), and in Kimi K3 experts in a latent width "
    "(routed_expert_hidden_size) and residuals over blocks of layers (attn_res_block_size)"
)
# Families that are known, and the feature without an exact count.
REFUSED: dict[str, str] = {
    "minimax_m3": _BLOCKS,
    "minimax_m3_vl_text": _BLOCKS,
    "deepseek_v4": _V4,
    "kimi_linear": _KIMI,
}


def with_defaults(family: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """`data` with the family's defaults where a field is absent; a field given as null stays null, as it does there."""
    return {**DEFAULTS.get(family, {}), **data}
