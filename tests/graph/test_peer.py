"""Multiply-adds and parameters against onnx-tool, an independent implementation, and against PyTorch's own count."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from stratoscope.graph.ir import Graph
from stratoscope.graph.onnx_file import load_onnx
from stratoscope.graph.onnx_reader import read_graph
from stratoscope.graph.summary import summarize


@pytest.fixture(scope="module")
def comparison() -> ModuleType:
    """The benchmark that prints the comparison: its counts are tested here."""
    path = Path(__file__).parents[2] / "benchmarks" / "work_model.py"
    spec = importlib.util.spec_from_file_location("stratoscope_work_model_benchmark", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def _agrees(comparison: ModuleType, path: Path, graph: Graph) -> None:
    mine, peer = comparison.ours(graph), comparison.theirs(load_onnx(path), graph)
    assert mine.macs == peer.macs
    assert mine.parameters == pytest.approx(peer.parameters, rel=0.01)
    # Where the conventions are the same, so are the other operations.
    for op in ("Add", "Mul", "Sum", "Relu", "AveragePool", "ReduceMean", "Clip"):
        assert mine.others.get(op, 0) == peer.others.get(op, 0)


@pytest.mark.parametrize(
    "name", ["squeezenet", "shufflenet", "resnet50", "densenet121", "inception_v1", "inception_v2"]
)
def test_light_models_agree_with_onnx_tool(
    comparison: ModuleType, light_file: Callable[[str], Path], light_graph: Callable[[str], Graph], name: str
) -> None:
    _agrees(comparison, light_file(name), light_graph(name))


def _export(model: Any, inputs: dict[str, Any], path: Path) -> int:
    """Writes a module with random parameters as ONNX; returns how many parameters it has."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():  # equal ones (zero biases) would be stored once
            parameter.normal_(generator=generator)

    class FirstOutput(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, **feeds: Any) -> Any:
            return self.model(**feeds)[0]

    program = torch.onnx.export(FirstOutput().eval(), (), kwargs=inputs, dynamo=True, opset_version=18, verbose=False)
    assert program is not None
    program.save(str(path))
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.slow
@pytest.mark.torch
def test_exported_transformer_has_the_parameters_that_pytorch_counts(comparison: ModuleType, tmp_path: Path) -> None:
    import torch
    import transformers

    config = transformers.DistilBertConfig(vocab_size=100, dim=32, n_layers=2, n_heads=4, hidden_dim=64)
    feeds = {"input_ids": torch.arange(16)[None], "attention_mask": torch.ones(1, 16, dtype=torch.long)}
    counted = _export(transformers.DistilBertModel(config), feeds, tmp_path / "model.onnx")
    graph = read_graph(tmp_path / "model.onnx")
    section = summarize(graph)
    # Also the 512 positions of which 16 are looked up.
    assert section.parameters.value == counted
    assert section.unknown_work == ()
    _agrees(comparison, tmp_path / "model.onnx", graph)
    # Per layer: four projections and two matrices of the feed-forward part, and scores and values of the attention.
    per_layer = 16 * (4 * 32 * 32 + 2 * 32 * 64) + 2 * 16 * 16 * 32
    assert comparison.ours(graph).macs == 2 * per_layer


@pytest.mark.torch
def test_exported_convolutional_network_agrees(comparison: ModuleType, tmp_path: Path) -> None:
    import torch
    import transformers

    config = transformers.ConvNextConfig(hidden_sizes=[8, 16, 32, 64], depths=[1, 1, 1, 1])
    feeds = {"pixel_values": torch.ones(1, 3, 64, 64)}
    counted = _export(transformers.ConvNextForImageClassification(config), feeds, tmp_path / "model.onnx")
    graph = read_graph(tmp_path / "model.onnx")
    section = summarize(graph)
    assert section.parameters.value == counted
    assert section.unknown_work == ()
    _agrees(comparison, tmp_path / "model.onnx", graph)
