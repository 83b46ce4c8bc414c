"""The models of model_sharing.py: 24 MatMul layers, 24 convolutions, GPT-2 without its head; whole, and as baselines.

A baseline has the same layers with next to no weights. For ONNX Runtime it is "thin": few channels. For PyTorch it is
"tied": all layers over the weights of one, because oneDNN and MKL reorder a layer's weights into scratch memory at
every call, in the default path too, and a thin layer would hide that.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

MODELS = ("mm", "conv", "gpt")
LAYERS, WIDTH, CHANNELS, SIDE, TOKENS = 24, 2048, 512, 7, 16
GPT_LAYERS = 12
Size = Literal["full", "thin", "tied"]


def make_onnx(name: str, path: Path, *, tiny: bool) -> None:
    """Writes the model, or one of the same structure with next to no weights."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    if name == "gpt":
        make_gpt(path, tiny=tiny)
        return
    stream, nodes, weights, source = np.random.default_rng(0), [], [], "x"
    width = 32 if tiny else WIDTH
    channels = 16 if tiny else CHANNELS
    for layer in range(LAYERS):
        shape = (width, width) if name == "mm" else (channels, channels, 3, 3)
        fan_in = width if name == "mm" else channels * 9
        values = stream.standard_normal(shape, dtype=np.float32) * np.float32((2 / fan_in) ** 0.5)
        weights.append(numpy_helper.from_array(values, f"w{layer}"))
        if name == "mm":
            nodes.append(helper.make_node("MatMul", [source, f"w{layer}"], [f"h{layer}"]))
        else:
            nodes.append(helper.make_node("Conv", [source, f"w{layer}"], [f"h{layer}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"h{layer}"], [f"r{layer}"]))
        source = f"r{layer}"
    shape = ["N", width] if name == "mm" else ["N", channels, SIDE, SIDE]
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(source, TensorProto.FLOAT, shape)],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def make_gpt(path: Path, *, tiny: bool) -> None:
    import torch

    class States(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = module_factory("gpt", "thin" if tiny else "full")()

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.body(input_ids=ids, use_cache=False).last_hidden_state

    shapes = {"ids": {0: torch.export.Dim("N")}}
    ids = torch.zeros(2, TOKENS, dtype=torch.int64)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        torch.onnx.export(
            States().eval(), (ids,), path, input_names=["ids"], dynamo=True, dynamic_shapes=shapes, external_data=True
        )


def module_factory(name: str, size: Size) -> Callable[[], Any]:
    """Builds the PyTorch module, seeded."""
    import torch

    if name == "gpt":
        from transformers import GPT2Config, GPT2Model

    def gpt() -> Any:
        small = {"full": {}, "thin": {"n_embd": 48, "vocab_size": 128}, "tied": {"n_layer": 1, "vocab_size": 128}}
        model = GPT2Model(GPT2Config(use_cache=False, attn_implementation="eager", **small[size]))
        if size == "tied":
            model.h = torch.nn.ModuleList([model.h[0]] * GPT_LAYERS)
            model.config.n_layer = GPT_LAYERS
        return model.eval()

    def layer() -> Any:
        if name == "mm":
            return torch.nn.Linear(WIDTH, WIDTH, bias=False)
        return torch.nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False)

    def build() -> Any:
        torch.manual_seed(0)
        if name == "gpt":
            return gpt()
        layers = [layer()] * LAYERS if size == "tied" else [layer() for _ in range(LAYERS)]
        return torch.nn.Sequential(*(part for one in layers for part in (one, torch.nn.ReLU()))).eval()

    return build


def torch_input(name: str) -> Any:
    """A batch of one."""
    import torch

    if name == "gpt":
        return torch.ones(1, TOKENS, dtype=torch.int64)
    return torch.ones(1, WIDTH) if name == "mm" else torch.ones(1, CHANNELS, SIDE, SIDE)
