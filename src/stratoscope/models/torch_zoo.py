"""The zoo's modern architectures: built by transformers from a configuration, seeded, exported to ONNX; no network."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from stratoscope.models.export import export_module
from stratoscope.models.zoo import ZooEntry
from stratoscope.spec.model import TensorSpec

_SPREAD = 0.02  # the initial deviation of BERT's and GPT-2's weights
_ARGUMENTS = ("first", "second", "third")  # of TensorsOnly.forward
_EAGER = {"attn_implementation": "eager"}  # matmul, softmax, matmul as published, not the guards of the fused call
_TINY = float(torch.finfo(torch.float32).tiny)


def export_entry(entry: ZooEntry, path: Path, seed: int) -> Any:
    """Writes the model of `entry` to `path` (float32, batch free); returns the ONNX graph."""
    module = build_entry(entry, seed)
    names = [spec.name for spec in entry.inputs]
    return export_module(
        module, path, example_arguments(entry.inputs, seed), input_names=names, output_names=_MODELS[entry.name][1]
    )


def build_entry(entry: ZooEntry, seed: int) -> nn.Module:
    """The PyTorch module of `entry` in evaluation mode; its `forward` takes the entry's inputs in order.

    The weights come from transformers' own initialisation under `seed`; parameters that start as a constant (biases,
    the scales and offsets of normalisation) get seeded noise, for constant and denormal values distort latency.
    """
    state = torch.random.get_rng_state()
    try:
        torch.manual_seed(seed)
        module = _module(entry)
        perturb_constants(module, torch.Generator().manual_seed(seed))
    finally:
        torch.random.set_rng_state(state)
    return module.requires_grad_(False)


def build_structure(entry: ZooEntry) -> nn.Module:
    """The module of `entry` in evaluation mode with whatever weights it starts with, unseeded."""
    return _module(entry).requires_grad_(False)


def _module(entry: ZooEntry) -> nn.Module:
    build, outputs = _MODELS[entry.name]
    return TensorsOnly(build(), [spec.name for spec in entry.inputs], len(outputs)).eval()


def perturb_constants(module: nn.Module, generator: torch.Generator) -> None:
    """Adds normal noise to every parameter and statistic whose elements are all equal, and to elements that are 0."""
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if not tensor.is_floating_point() or tensor.ndim == 0:
                continue
            noise = torch.empty_like(tensor).normal_(0, _SPREAD, generator=generator)
            if bool((tensor == tensor.flatten()[0]).all()):
                tensor += noise
            else:
                tensor[tensor.abs() < _TINY] = noise[tensor.abs() < _TINY]  # a row zeroed for padding


def example_tensor(spec: TensorSpec, seed: int, batch: int = 2) -> torch.Tensor:
    """Seeded values [batch, ...] in the range of `spec`."""
    generator = torch.Generator().manual_seed(seed)
    shape = tuple(batch if isinstance(dim, str) else dim for dim in spec.shape)
    low, high = spec.low or 0.0, spec.high or 1.0
    if spec.element_type == "int64":
        return torch.randint(math.floor(low), math.ceil(high), shape, generator=generator)
    return torch.rand(shape, generator=generator) * (high - low) + low


def example_arguments(inputs: Sequence[TensorSpec], seed: int) -> dict[str, torch.Tensor]:
    """Example tensors for `inputs`, by the argument names of `TensorsOnly.forward`."""
    return {name: example_tensor(spec, seed) for name, spec in zip(_ARGUMENTS, inputs, strict=False)}


class TensorsOnly(nn.Module):  # type: ignore[misc]  # torch is optional, so untyped here
    """A transformers model with tensors as positional inputs (`names` of the model's arguments) and as outputs.

    The outputs are the first `count` fields of the model's result.
    """

    def __init__(self, model: nn.Module, names: Sequence[str], count: int) -> None:
        super().__init__()
        self.model = model
        self.names = tuple(names)
        self.count = count

    def forward(
        self, first: torch.Tensor, second: torch.Tensor | None = None, third: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, ...]:
        given = dict(zip(self.names, (first, second, third), strict=False))
        return tuple(self.model(**given, return_dict=True).to_tuple()[: self.count])


def _bert() -> nn.Module:
    return transformers.BertModel(transformers.BertConfig(**_EAGER))


def _distilbert() -> nn.Module:
    return transformers.DistilBertModel(transformers.DistilBertConfig(**_EAGER))


def _gpt2() -> nn.Module:
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(use_cache=False, **_EAGER))


def _llama() -> nn.Module:
    config = transformers.LlamaConfig(
        vocab_size=32000,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        use_cache=False,
        **_EAGER,
    )
    return transformers.LlamaForCausalLM(config)


def _t5() -> nn.Module:
    return transformers.T5EncoderModel(transformers.T5Config(use_cache=False, **_EAGER))  # defaults are T5-small


def _vit() -> nn.Module:
    return transformers.ViTForImageClassification(transformers.ViTConfig(num_labels=1000, **_EAGER))


def _swin() -> nn.Module:
    return transformers.SwinForImageClassification(transformers.SwinConfig(num_labels=1000, **_EAGER))


def _convnext() -> nn.Module:
    return transformers.ConvNextForImageClassification(transformers.ConvNextConfig(num_labels=1000))


def _mobilenet() -> nn.Module:
    config = transformers.MobileNetV2Config(num_labels=1000, tf_padding=False)
    model = transformers.MobileNetV2ForImageClassification(config)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):  # transformers' deviation of 0.02 lets the signal die out without training
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return model


def _whisper() -> nn.Module:
    config = transformers.WhisperConfig(
        d_model=384, encoder_layers=4, encoder_attention_heads=6, encoder_ffn_dim=1536, **_EAGER
    )
    return WhisperEncoder(config)


_MODELS: Mapping[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "bert-base": (_bert, ("last_hidden_state", "pooler_output")),
    "distilbert": (_distilbert, ("last_hidden_state",)),
    "gpt2": (_gpt2, ("logits",)),
    "llama-160m": (_llama, ("logits",)),
    "t5-small-encoder": (_t5, ("last_hidden_state",)),
    "vit-b16": (_vit, ("logits",)),
    "swin-t": (_swin, ("logits",)),
    "convnext-t": (_convnext, ("logits",)),
    "mobilenet-v2": (_mobilenet, ("logits",)),
    "whisper-tiny-encoder": (_whisper, ("last_hidden_state",)),
}
