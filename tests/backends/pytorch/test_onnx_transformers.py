"""Small networks of transformers' architectures, exported to ONNX as the zoo's are, from PyTorch back to PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from stratoscope.backends.pytorch.from_onnx import from_onnx
from stratoscope.models.export import export_module

pytestmark = pytest.mark.torch

WORDS, LENGTH = 50, 8
Made = tuple[nn.Module, list[str]]


def words(kind: str, config: str, **sizes: Any) -> Callable[[], Made]:
    """A network of tokens and their mask, of a class and a configuration of transformers."""

    def make() -> Made:
        import transformers

        settings = getattr(transformers, config)(
            vocab_size=WORDS, bos_token_id=1, eos_token_id=2, pad_token_id=0, attn_implementation="eager", **sizes
        )
        return getattr(transformers, kind)(settings), ["input_ids", "attention_mask"]

    return make


def images(kind: str, config: str, **sizes: Any) -> Callable[[], Made]:
    """A classifier of images of 32 pixels a side."""

    def make() -> Made:
        import transformers

        return getattr(transformers, kind)(getattr(transformers, config)(**sizes)), ["pixel_values"]

    return make


def whisper() -> Made:
    import transformers
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = transformers.WhisperConfig(
        d_model=16,
        encoder_layers=1,
        encoder_attention_heads=2,
        encoder_ffn_dim=32,
        num_mel_bins=4,
        max_source_positions=10,
        attn_implementation="eager",
    )
    return WhisperEncoder(config), ["input_features"]


BERT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
EAGER = {"attn_implementation": "eager"}
NETWORKS: dict[str, Callable[[], Made]] = {
    "gpt2": words("GPT2LMHeadModel", "GPT2Config", n_layer=2, n_embd=16, n_head=2, n_positions=16, use_cache=False),
    "bert": words("BertModel", "BertConfig", **BERT),
    "distilbert": words("DistilBertModel", "DistilBertConfig", n_layers=1, dim=16, n_heads=2, hidden_dim=32),
    "llama": words("LlamaForCausalLM", "LlamaConfig", **BERT, num_key_value_heads=1, use_cache=False),
    "t5": words("T5EncoderModel", "T5Config", d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, use_cache=False),
    "vit": images("ViTForImageClassification", "ViTConfig", **BERT, **EAGER, image_size=32, patch_size=8),
    "swin": images(
        "SwinForImageClassification",
        "SwinConfig",
        **EAGER,
        image_size=32,
        patch_size=2,
        embed_dim=8,
        depths=[2, 2],
        num_heads=[2, 2],
        window_size=4,
    ),
    "convnext": images("ConvNextForImageClassification", "ConvNextConfig", hidden_sizes=[8] * 4, depths=[1] * 4),
    "whisper": whisper,
}
SHAPES = {"pixel_values": (3, 32, 32), "input_features": (4, 20)}


def feeds_for(names: list[str], batch: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(batch)
    feeds: dict[str, np.ndarray] = {}
    for name in names:
        if name == "input_ids":
            feeds[name] = generator.integers(0, WORDS, (batch, LENGTH))
        elif name == "attention_mask":
            feeds[name] = np.ones((batch, LENGTH), np.int64)
            feeds[name][-1, LENGTH // 2 :] = 0  # the last row is padded
        else:
            feeds[name] = generator.normal(size=(batch, *SHAPES[name])).astype(np.float32)
    return feeds


class Decoder(nn.Module):  # type: ignore[misc]
    """One block of a decoder: a causal attention whose three projections are one, then a feed-forward layer."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, 16)
        self.before, self.after = nn.LayerNorm(16), nn.LayerNorm(16, eps=1e-2)
        self.mixed, self.wide, self.narrow = nn.Linear(16, 48), nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        value = self.words(first)
        query, key, answer = self.mixed(self.before(value)).chunk(3, dim=-1)
        seen = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril() & (second[:, None, :] > 0)
        scores = torch.where(seen, query @ key.transpose(1, 2) / 4, torch.finfo(torch.float32).min)
        value = value + scores.softmax(-1) @ answer
        return value + self.narrow(nn.functional.gelu(self.wide(self.after(value))))


def agree_in_all_three(module: nn.Module, inputs: list[str], path: Path) -> None:
    """The module, ONNX Runtime and the module made from the file compute the same at any batch size."""
    example = [torch.from_numpy(value) for value in feeds_for(inputs, 2).values()]
    export_module(module, path, dict(zip(("first", "second"), example, strict=False)), input_names=inputs)
    session, back = onnxruntime.InferenceSession(str(path)), from_onnx(path)
    for batch in (1, 3):
        feeds = feeds_for(inputs, batch)
        tensors = [torch.from_numpy(value) for value in feeds.values()]
        with torch.inference_mode():
            (got,), origin = back(*tensors), module(*tensors)
        (runtime,) = session.run(None, feeds)
        scale = float(np.abs(runtime).max())
        expected = origin[0] if isinstance(origin, tuple) else origin
        np.testing.assert_allclose(got.numpy(), runtime, rtol=1e-4, atol=1e-5 * scale)
        np.testing.assert_allclose(got.numpy(), expected.numpy(), rtol=1e-4, atol=1e-5 * scale)


def test_block_of_a_decoder_exported_and_converted_back_computes_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    agree_in_all_three(Decoder().eval(), ["input_ids", "attention_mask"], tmp_path / "decoder.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_network_of_transformers_exported_and_converted_back_computes_the_same(name: str, tmp_path: Path) -> None:
    from stratoscope.models.torch_zoo import TensorsOnly, perturb_constants

    torch.manual_seed(0)
    network, inputs = NETWORKS[name]()
    module = TensorsOnly(network, inputs, 1).eval()
    perturb_constants(module, torch.Generator().manual_seed(0))
    agree_in_all_three(module, inputs, tmp_path / f"{name}.onnx")
