"""Training steps and generation with PyTorch."""

from __future__ import annotations

import copy
import json

import numpy as np
import polars as pl
import pytest
import torch
import transformers

from stratoscope.backends.base import BackendOptions
from stratoscope.backends.pytorch.backend import PyTorchBackend
from stratoscope.backends.pytorch.training import ACCUMULATE
from stratoscope.errors import BackendError
from stratoscope.measure.generation import measure_generation
from stratoscope.measure.training import measure_training, phases_of
from stratoscope.models.torch_zoo import TensorsOnly
from stratoscope.spec.model import LoadableModel, ModelManifest, TensorSpec
from stratoscope.trace.check import check_conservation
from stratoscope.trace.levels import Level

pytestmark = pytest.mark.torch

ONE_THREAD = BackendOptions(threads=1)
Feeds = dict[str, np.ndarray]


def steps(model: LoadableModel, feeds: Feeds, level: Level, repeats: int = 2) -> pl.DataFrame:
    session = PyTorchBackend().training().open_trace(model, ONE_THREAD, level)
    call = session.bind(feeds)
    for _ in range(repeats):
        call()
    return session.finish()


def test_steps_lower_the_loss_and_leave_the_callers_weights_alone(small: LoadableModel, images: Feeds) -> None:
    before = {key: value.clone() for key, value in small.module.state_dict().items()}
    session = PyTorchBackend().training().load(small, ONE_THREAD)
    call = session.bind(images)
    losses = [float(call()[0]) for _ in range(20)]
    assert losses[-1] < losses[0]
    assert all(torch.equal(value, before[key]) for key, value in small.module.state_dict().items())


def test_step_is_that_of_a_plain_training_loop(small: LoadableModel, images: Feeds) -> None:
    session = PyTorchBackend().training().load(small, ONE_THREAD)
    call = session.bind(images)
    measured = [float(call()[0]) for _ in range(3)]
    module = copy.deepcopy(small.module).train()
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3, momentum=0.9)
    targets = torch.randint(10, (2,), generator=torch.Generator().manual_seed(0))
    expected = []
    for _ in range(3):
        loss = torch.nn.functional.cross_entropy(module(torch.from_numpy(images["image"])), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        expected.append(float(loss.detach()))
    assert measured == pytest.approx(expected, rel=1e-5)


def test_phases_follow_one_another_and_hold_the_modules_in_forward(small: LoadableModel, images: Feeds) -> None:
    spans = steps(small, images, Level.LAYER)
    above = dict(spans.join(spans.select(parent="span", above="name"), on="parent").select("name", "above").iter_rows())
    assert [above[name] for name in ("forward", "loss", "backward", "optimizer")] == ["small"] * 4
    assert above["4"] == "forward"
    assert above["1.first"] == "1"
    assert all(check_conservation(spans).holds.values())
    phases = phases_of(spans, ("forward", "loss", "backward", "optimizer"))
    assert 0.8 < sum(phase.share or 0 for phase in phases) <= 1


def test_backward_operators_are_attributed_to_the_modules_that_caused_them(small: LoadableModel, images: Feeds) -> None:
    spans = steps(small, images, Level.OPERATOR).filter(pl.col("run") == 1)
    told = spans.select("name", "start_ns", facts=pl.col("attributes")).sort("start_ns").iter_rows()
    backward = [
        (name.rpartition(" ")[2], json.loads(facts).get("module"))
        for name, _, facts in told
        if name.startswith("autograd::engine::evaluate_function: ") and json.loads(facts)["phase"] == "backward"
    ]
    convolutions = [module for name, module in backward if name.startswith("ConvolutionBackward")]
    assert convolutions == ["1.second", "1.first", "0"]
    assert dict(backward)["AddmmBackward0"] == "4"
    assert [module for name, module in backward if name.startswith("ReluBackward")] == ["1", "1"]


def test_gradients_are_added_up_for_the_module_that_owns_the_parameter(small: LoadableModel, images: Feeds) -> None:
    spans = steps(small, images, Level.OPERATOR).filter(pl.col("run") == 1).sort("start_ns")
    told = spans.filter(pl.col("name") == ACCUMULATE)["attributes"].to_list()
    found = [json.loads(facts)["module"] for facts in told]
    assert sorted(found) == sorted(["0", "1.first", "1.second", "4"] * 2)  # a weight and a bias each
    assert list(dict.fromkeys(found)) == ["4", "1.second", "1.first", "0"]  # backwards


def test_weight_that_two_modules_share_belongs_to_the_first(images: Feeds) -> None:
    first, second = torch.nn.Linear(6, 6), torch.nn.Linear(6, 6, bias=False)
    second.weight = first.weight
    module = torch.nn.Sequential(first, torch.nn.ReLU(), second)
    model = LoadableModel(
        ModelManifest(id="tied", inputs=(TensorSpec(name="x", element_type="float32", shape=(3, 6)),)), module=module
    )
    spans = steps(model, {"x": np.ones((3, 6), np.float32)}, Level.OPERATOR).filter(pl.col("run") == 1)
    told = spans.filter(pl.col("name") == ACCUMULATE)["attributes"].to_list()
    assert [json.loads(facts)["module"] for facts in told] == ["0", "0"]


def test_training_section_tells_rate_and_memory(small: LoadableModel, images: Feeds) -> None:
    section = measure_training(PyTorchBackend().training(), small, ONE_THREAD, images, budget_s=0.2)
    assert section.batch_size == 2
    assert section.loss == "cross entropy"
    rate, step = section.samples_per_s.require(), section.step_time.require()
    assert rate == pytest.approx(2 / step, rel=0.2)
    assert section.peak_memory.unit == "byte"


def test_model_without_weights_cannot_be_trained() -> None:
    inputs = (TensorSpec(name="x", element_type="float32", shape=(2, 3)),)
    model = LoadableModel(ModelManifest(id="bare", inputs=inputs), module=torch.nn.ReLU())
    with pytest.raises(BackendError, match="no weights to train"):
        PyTorchBackend().training().load(model, ONE_THREAD)


@pytest.fixture
def decoder() -> LoadableModel:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=97, n_positions=64, n_embd=32, n_layer=3, n_head=4, use_cache=False, attn_implementation="eager"
    )
    module = TensorsOnly(transformers.GPT2LMHeadModel(config).eval(), ["input_ids"], 1)
    inputs = (TensorSpec(name="input_ids", element_type="int64", shape=(2, 10)),)
    return LoadableModel(ModelManifest(id="tiny-gpt", inputs=inputs), module=module)


def test_generation_with_a_cache_gives_the_tokens_of_generation_without_one(decoder: LoadableModel) -> None:
    prompt = np.random.default_rng(0).integers(0, 97, (2, 10))
    generated = PyTorchBackend().generation(decoder, ONE_THREAD).generate({"input_ids": prompt}, 6)
    tokens = torch.from_numpy(prompt)
    with torch.inference_mode():
        for _ in range(6):
            tokens = torch.cat([tokens, decoder.module.eval()(tokens)[0][:, -1:].argmax(-1)], dim=1)
    assert [list(row) for row in generated.tokens] == tokens[:, 10:].tolist()
    assert len(generated.ends_ns) == 6


def test_cache_holds_keys_and_values_of_all_tokens_but_the_last(decoder: LoadableModel) -> None:
    session = PyTorchBackend().generation(decoder, ONE_THREAD)
    section, spans = measure_generation(
        session, {"input_ids": np.zeros((2, 10), np.int64)}, budget_s=0.05, new_tokens=6
    )
    per_token = 3 * 2 * 32 * 4  # layers x (key, value) x width x bytes
    assert section.cache_bytes_per_token.value == per_token
    assert section.cache_bytes.value == per_token * 2 * 15
    whole = spans.filter(pl.col("name") == "generate").height
    assert spans.filter(pl.col("name") == "prefill").height == whole >= 5
    assert spans.filter(pl.col("name") == "decode").height == 5 * whole
    assert all(check_conservation(spans).holds.values())


def test_model_that_is_no_decoder_generates_nothing(small: LoadableModel) -> None:
    with pytest.raises(BackendError, match="generates nothing"):
        PyTorchBackend().generation(small, ONE_THREAD)
