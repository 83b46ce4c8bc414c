"""The table of the zoo, and the data that comes with it."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import onnx
import onnxruntime
import pytest
from sklearn.datasets import load_digits

from stratoscope.errors import ModelError
from stratoscope.models import extras
from stratoscope.models.datasets import digits_test
from stratoscope.models.materialize import light_folder, materialize_light
from stratoscope.models.resolve import resolve
from stratoscope.models.signature import batch_symbols, read_signature
from stratoscope.models.zoo import DATA_FOLDER, ZooEntry, find_entry, list_zoo
from stratoscope.spec.steps import Normalize

ENTRIES = {entry.name: entry for entry in list_zoo()}


def test_the_zoo_has_nine_light_networks_ten_of_transformers_and_one_that_is_trained() -> None:
    sources = [entry.source for entry in list_zoo()]
    assert (len(ENTRIES), sources.count("onnx"), sources.count("transformers")) == (20, 9, 10)
    assert [entry.name for entry in list_zoo() if entry.source == "shipped"] == ["digits"]


@pytest.mark.parametrize("name", [name for name, entry in ENTRIES.items() if entry.source == "onnx"])
def test_the_table_declares_the_inputs_that_the_graph_has(name: str) -> None:
    if ENTRIES[name].size_mb > 200:
        model = onnx.load(str(light_folder() / ENTRIES[name].file))
    else:
        model = materialize_light(ENTRIES[name].file, 0)
        assert len(model.SerializeToString()) == pytest.approx(ENTRIES[name].size_mb * 1e6, rel=0.1)
    inputs, _ = read_signature(model)
    declared = ENTRIES[name].inputs
    assert [(s.name, s.element_type, s.shape[1:]) for s in inputs] == [
        (s.name, s.element_type, s.shape[1:]) for s in declared
    ]


@pytest.mark.parametrize("entry", list_zoo(), ids=lambda entry: entry.name)
def test_every_entry_has_a_free_batch_a_range_of_values_and_a_reference(entry: ZooEntry) -> None:
    assert batch_symbols(entry.inputs) == {"N"}
    assert all(spec.low is not None and spec.high is not None and spec.low < spec.high for spec in entry.inputs)
    assert entry.references
    assert entry.description


def test_without_the_torch_extra_a_model_of_transformers_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"'bert-base' needs the torch extra .*pip install 'stratoscope\[torch\]'"):
        resolve("bert-base")


def test_the_digits_network_classifies_its_held_out_split_as_its_record_says() -> None:
    split = digits_test()
    model = resolve("digits", batch_size=len(split.labels))
    session = onnxruntime.InferenceSession(str(model.path))
    (logits,) = session.run(None, {"image": split.inputs})
    accuracy = float((logits.argmax(axis=1) == split.labels).mean())
    recorded = json.loads((DATA_FOLDER / "digits.json").read_text())["training"]
    assert accuracy == pytest.approx(recorded["held_out_accuracy"], abs=1e-9)
    assert accuracy >= 0.98


def test_the_digits_network_is_small_and_its_digest_is_recorded() -> None:
    content = (DATA_FOLDER / "digits.onnx").read_bytes()
    assert len(content) < 300_000
    assert resolve("digits").manifest.sha256 == f"sha256:{hashlib.sha256(content).hexdigest()}"
    inputs, _ = read_signature(onnx.load_from_string(content))
    declared = find_entry("digits").inputs
    assert [(s.name, s.shape) for s in inputs] == [(s.name, s.shape) for s in declared]


def test_no_path_of_the_machine_that_trained_it_is_in_the_digits_network() -> None:
    model = onnx.load(str(DATA_FOLDER / "digits.onnx"))
    for item in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        assert not item.metadata_props
        assert not item.doc_string


def test_the_held_out_split_is_stratified_and_in_the_range_that_the_network_expects() -> None:
    split = digits_test()
    assert split.inputs.shape == (360, 1, 8, 8)
    assert (split.inputs.dtype, split.labels.dtype) == (np.float32, np.int64)
    assert (split.inputs.min(), split.inputs.max()) == (0.0, 1.0)
    counts = np.bincount(split.labels, minlength=10)
    # scikit-learn's set has 174 to 183 images a digit; a stratified fifth has 35 to 37.
    assert counts.min() >= 35
    assert counts.max() <= 37
    (step,) = find_entry("digits").inputs[0].steps
    assert isinstance(step, Normalize)
    with np.load(DATA_FOLDER / "digits_test.npz") as stored:
        np.testing.assert_array_equal(split.inputs, stored["images"] * np.float32(step.rescale))
    assert len(split.class_names) == 10
    assert split.digest.startswith("sha256:")


def test_the_held_out_images_are_those_of_scikit_learn() -> None:
    data = load_digits()
    known = {
        image.astype(np.uint8).tobytes(): int(label) for image, label in zip(data.images, data.target, strict=True)
    }
    split = digits_test()
    for image, label in zip(split.inputs, split.labels, strict=True):
        assert known[(image[0] * 16).astype(np.uint8).tobytes()] == label
