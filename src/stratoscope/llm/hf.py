"""Reads a Hugging Face `config.json` into a ModelSpec: no network, no remote code, one reader per family."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from stratoscope.llm import hf_classic, hf_decoder, hf_latent, hf_step
from stratoscope.llm.base import LlmError, UnknownArchitectureError, UnsupportedError, validated
from stratoscope.llm.config import Config
from stratoscope.llm.hf_defaults import REFUSED, with_defaults
from stratoscope.llm.spec import ModelSpec

GATED = (
    *("llama", "mistral", "mixtral", "phi3", "gemma", "gemma2", "gemma3_text", "minimax_m2", "gpt_oss", "mimo"),
    *("qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "qwen3_vl_text", "qwen3_vl_moe_text"),
)
HYBRID = ("qwen3_5_text", "qwen3_5_moe_text", "qwen3_next")
LATENT = ("deepseek_v2", "deepseek_v3", "deepseek_v32", "kimi_k2", "glm_moe_dsa")

READERS: dict[str, Callable[[Config], ModelSpec]] = {
    **dict.fromkeys(GATED, hf_decoder.read_gated),
    **dict.fromkeys(HYBRID, hf_decoder.read_qwen_hybrid),
    **dict.fromkeys(LATENT, hf_latent.read_latent),
    "llama4_text": hf_decoder.read_llama4,
    "gemma4_text": hf_decoder.read_gemma4,
    "mimo_v2_flash": hf_decoder.read_mimo_v2,
    "step3p5": hf_step.read_step,
    "step3p7": hf_step.read_step,
    "mamba2": hf_latent.read_mamba2,
    "gpt2": hf_classic.read_gpt2,
    "gpt_neox": hf_classic.read_gpt_neox,
    "gptj": hf_classic.read_gptj,
    "opt": hf_classic.read_opt,
    "bloom": hf_classic.read_bloom,
    "falcon": hf_classic.read_falcon,
    "phi": hf_classic.read_phi,
    "mpt": hf_classic.read_mpt,
    "t5": hf_classic.read_t5,
    "bert": hf_classic.read_bert,
    "vit": hf_classic.read_vit,
}

# Multimodal models: the key of their language model, where `model_type` says only that there is one.
TEXT_TYPES = {
    "llama4": "llama4_text", "gemma3": "gemma3_text", "gemma4": "gemma4_text", "kimi_k25": "kimi_k2",
    "minimax_m3_vl": "minimax_m3_vl_text", "step3p7": "step3p7",
}  # fmt: skip


def from_hf(config: Mapping[str, Any], name: str = "model") -> ModelSpec:
    """The ModelSpec of a configuration; of a multimodal one, its language model.

    Raises:
        UnknownArchitectureError: there is no reader for its `model_type`.
        LlmError: a field is missing or inconsistent.
        UnsupportedError: a feature of this configuration has no exact count here.
    """
    data = dict(config)
    text = data.get("text_config")
    if isinstance(text, Mapping):
        inherited: dict[str, Any] = {key: data[key] for key in ("tie_word_embeddings", "architectures") if key in data}
        data = {"model_type": TEXT_TYPES.get(str(data.get("model_type")), ""), **inherited, **text}
    family = str(data.get("model_type", ""))
    if family in REFUSED:
        raise UnsupportedError(
            f"{name}: model_type {family!r} has {REFUSED[family]}", hint="no exact count of these is modelled"
        )
    reader = READERS.get(family)
    if reader is None:
        raise UnknownArchitectureError(
            f"{name}: no reader for model_type {family!r}", hint="known: " + ", ".join(sorted(READERS))
        )
    return reader(Config(with_defaults(family, data), name))


@cache
def shipped_configs() -> dict[str, dict[str, Any]]:
    """Dimensions of well-known models, by name, as the fields of their `config.json` that decide size and time."""
    text = resources.files("stratoscope.llm").joinpath("data/models.json").read_text(encoding="utf-8")
    configs: dict[str, dict[str, Any]] = json.loads(text)
    return configs


def load_model(path: str | Path) -> ModelSpec:
    """A ModelSpec by shipped name, or from a file: a Hugging Face `config.json`, or a spec saved as JSON.

    Raises LlmError when the file cannot be read.
    """
    known = shipped_configs().get(str(path).lower())
    if known is not None:
        return from_hf(known, str(path).lower())
    file = Path(path)
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise LlmError(
            f"{file}: {error.strerror}", hint="give a config.json or one of " + ", ".join(shipped_configs())
        ) from error
    except (ValueError, RecursionError) as error:
        raise LlmError(f"{file}: not JSON: {error}", hint="give the model's config.json") from error
    if not isinstance(data, dict):
        raise LlmError(
            f"{file}: not a configuration: the top level is a {type(data).__name__}",
            hint="give the model's config.json",
        )
    if "layers" in data and "family" in data:
        spec: ModelSpec = validated(ModelSpec, data, str(file))
        return spec
    return from_hf(data, file.parent.name if file.name == "config.json" else file.stem)
