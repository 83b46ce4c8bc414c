"""PyTorch modules as ONNX: the same numbers, a free batch, nothing constant."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from stratoscope.errors import ModelError
from stratoscope.models.export import export_module, from_module
from stratoscope.models.resolve import resolve, with_batch
from stratoscope.models.torch_zoo import build_entry, example_tensor, perturb_constants
from stratoscope.models.zoo import find_entry
from stratoscope.spec.model import LoadableModel, TensorSpec

pytestmark = pytest.mark.torch


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.dropout = nn.Dropout(0.5)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.layer(left)) * right


class NeedsItsBatch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(3, 4) if x.shape[0] == 3 else x.sum()


def run(model: LoadableModel, *tensors: torch.Tensor) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(model.path))
    names = [spec.name for spec in model.manifest.inputs]
    outputs: list[np.ndarray] = session.run(None, {n: t.numpy() for n, t in zip(names, tensors, strict=True)})
    return outputs


@pytest.mark.parametrize("batch", [1, 3])
def test_a_module_becomes_a_model_with_a_free_batch_that_computes_the_same(tmp_path: Path, batch: int) -> None:
    torch.manual_seed(0)
    module = Scale()  # in training mode, as a user may have left it
    example = (torch.rand(batch, 4), torch.rand(batch, 2))
    model = resolve(module, example_inputs=example, cache=tmp_path)
    assert [(s.name, s.shape) for s in model.manifest.inputs] == [("left", (batch, 4)), ("right", (batch, 2))]
    assert (model.name, model.batch_axis, model.module) == ("Scale", 0, module)
    assert module.training
    five = with_batch(model, 5)
    assert [s.shape for s in five.manifest.inputs] == [(5, 4), (5, 2)]
    inputs = (torch.rand(5, 4), torch.rand(5, 2))
    (expected,) = (copy.deepcopy(module).eval()(*inputs).detach().numpy(),)
    np.testing.assert_allclose(run(five, *inputs)[0], expected, rtol=1e-5, atol=1e-6)


def test_the_same_module_is_the_same_entry_and_new_weights_are_another(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, example = Scale(), {"left": torch.rand(2, 4), "right": torch.rand(2, 2)}
    one = from_module(module, example, "scale", cache=tmp_path)
    assert from_module(module, example, "scale", cache=tmp_path).path == one.path
    with torch.no_grad():
        module.layer.bias += 1
    other = from_module(module, example, "scale", cache=tmp_path)
    assert other.path != one.path
    assert other.manifest.sha256 != one.manifest.sha256


def test_a_module_that_fixes_its_batch_is_exported_so_and_says_why(tmp_path: Path) -> None:
    said: list[str] = []
    model = from_module(NeedsItsBatch(), torch.rand(3, 4), cache=tmp_path, on_progress=said.append)
    assert model.batch_axis is None
    assert [s.shape for s in model.manifest.inputs] == [(3, 4)]
    assert any("which is then fixed" in line for line in said)
    with pytest.raises(ModelError, match="no free batch dimension"):
        with_batch(model, 2)


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (None, "needs example inputs"),
        (torch.rand(2, 4), "does not take the example inputs: missing a required argument: 'right'"),
        ((torch.rand(2, 4), 3), "must be tensors: right"),
    ],
)
def test_example_inputs_that_do_not_fit_are_explained(tmp_path: Path, example: object, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        resolve(Scale(), example_inputs=example, cache=tmp_path)


def test_a_shape_that_contradicts_the_example_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="takes its shapes from example_inputs"):
        resolve(nn.Linear(4, 2), example_inputs=torch.rand(2, 4), shapes={"input": (2, 5)}, cache=tmp_path)


def test_a_module_that_cannot_be_exported_names_the_cause_and_leaves_nothing(tmp_path: Path) -> None:
    class Branches(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(ModelError, match=r"PyTorch cannot export Branches to ONNX: .*data-dependent") as caught:
        from_module(Branches(), torch.rand(2, 4), cache=tmp_path)
    assert "\n" not in caught.value.message
    assert list(tmp_path.iterdir()) == []


def test_large_weights_go_beside_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stratoscope.models.export.EXTERNAL_DATA_BYTES", 1000)
    model = from_module(nn.Linear(400, 20), torch.rand(2, 400), cache=tmp_path)
    assert model.path is not None
    assert model.path.stat().st_size < 10_000
    assert (model.path.parent / "Linear.onnx.data").stat().st_size >= 400 * 20 * 4
    assert resolve(model.path).manifest.sha256 == model.manifest.sha256


def test_no_path_of_the_machine_is_in_an_exported_graph(tmp_path: Path) -> None:
    export_module(Scale(), tmp_path / "m.onnx", {"left": torch.rand(2, 4), "right": torch.rand(2, 2)})
    assert Path(torch.__file__).parent.as_posix().encode() not in (tmp_path / "m.onnx").read_bytes()


def test_constant_parameters_get_noise_and_others_stay() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Embedding(5, 8, padding_idx=0))
    weight, table = module[0].weight.clone(), module[2].weight.clone()
    perturb_constants(module, torch.Generator().manual_seed(0))
    assert torch.equal(module[0].weight, weight)
    assert torch.equal(module[2].weight[1:], table[1:])
    assert module[2].weight[0].abs().min() > 0
    assert module[1].weight.std() > 0
    assert (module[1].weight - 1).abs().max() < 0.2
    assert module[1].bias.std() > 0


def test_examples_are_within_the_range_of_their_input() -> None:
    ids = example_tensor(TensorSpec(name="i", element_type="int64", shape=("N", 1000), low=0, high=3), 0)
    assert (ids.dtype, set(ids.flatten().tolist())) == (torch.int64, {0, 1, 2})
    pixels = example_tensor(TensorSpec(name="x", element_type="float32", shape=("N", 1000), low=-2, high=2), 0, 4)
    assert pixels.shape == (4, 1000)
    assert -2 <= pixels.min() < -1.9
    assert 1.9 < pixels.max() <= 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet-v2", "whisper-tiny-encoder", "t5-small-encoder"])
def test_an_exported_zoo_model_computes_what_pytorch_computes(name: str) -> None:
    entry = find_entry(name)
    model = resolve(name, batch_size=3)
    inputs = [example_tensor(spec, seed=7, batch=3) for spec in entry.inputs]
    expected = build_entry(entry, 0)(*inputs)[0].numpy()
    (got,) = run(model, *inputs)
    assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max()
    singles = [run(model, *(tensor[row : row + 1] for tensor in inputs))[0][0] for row in range(3)]
    np.testing.assert_allclose(singles, got, rtol=1e-4, atol=1e-5)
    assert np.abs(got[0] - got[1]).max() > 1e-3
    graph = onnx.load(str(model.path)).graph
    weights = [numpy_helper.to_array(t) for t in graph.initializer if t.data_type == 1 and np.prod(t.dims) > 1]
    assert all(weight.std() > 0 for weight in weights)
    assert all(np.abs(weight[weight != 0]).min() >= 2.0**-126 for weight in weights)
