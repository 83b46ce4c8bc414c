"""Facts about digests: they depend on content alone, not on how it was written down."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratoscope.spec.base import canonical_json, digest_of
from stratoscope.spec.dataset import DatasetManifest
from stratoscope.spec.hardware import HardwareManifest
from stratoscope.spec.model import ModelManifest, TensorSpec
from stratoscope.spec.scenario import ScenarioManifest
from stratoscope.spec.software import SoftwareManifest
from stratoscope.spec.yamlio import dump_yaml, load_document

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


def reversed_keys(value: Any) -> Any:
    """The same value with the keys of every mapping in reverse order."""
    if isinstance(value, dict):
        return {key: reversed_keys(value[key]) for key in reversed(value)}
    return [reversed_keys(part) for part in value] if isinstance(value, list) else value


@given(JSON)
def test_digests_do_not_depend_on_the_order_of_keys(value: Any):
    assert digest_of(value) == digest_of(reversed_keys(value))
    assert json.loads(canonical_json(value)) == value


def test_a_digest_is_that_of_the_canonical_text():
    assert digest_of({"b": 1, "a": [None, 1.5]}) == "sha256:" + hashlib.sha256(b'{"a":[null,1.5],"b":1}').hexdigest()
    with pytest.raises(ValueError, match="JSON"):
        digest_of(float("nan"))


MANIFESTS = [
    ModelManifest(
        id="m",
        inputs=(
            TensorSpec(
                name="x", element_type="float32", shape=("n", 3), steps=({"op": "resize", "height": 2, "width": 3},)
            ),
        ),  # type: ignore[arg-type]
        weights="seeded",
    ),
    DatasetManifest(id="d", samples=3, split="test"),
    ScenarioManifest(batch_size=2),
    SoftwareManifest(packages={"numpy": "2.0", "onnx": "1.0"}, env={"B": "1", "A": "2"}),
    HardwareManifest(cpu={"model": "A", "isa": ["avx2"]}, gpus=()),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda manifest: type(manifest).__name__)
def test_defaults_written_out_or_left_out_give_one_digest(manifest: Any):
    cls = type(manifest)
    explicit = cls.model_validate(reversed_keys(manifest.model_dump(mode="json", by_alias=True)))
    terse = cls.model_validate(manifest.model_dump(mode="json", by_alias=True, exclude_unset=True))
    assert manifest.digest() == explicit.digest() == terse.digest() == load_document(dump_yaml(manifest)).digest()  # type: ignore[attr-defined]


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "batch_size": st.integers(1, 64),
            "min_duration_s": st.floats(0.001, 100),
            "target_qps": st.floats(0.1, 1e4),
            "kind": st.sampled_from(["server", "offline", "single-stream"]),
            "seeds": st.fixed_dictionaries({}, optional={"qsl": st.integers(0, 2**64 - 1)}),
        },
    ),
    st.randoms(use_true_random=False),
)
def test_scenarios_that_say_the_same_have_one_digest_and_others_have_another(values: dict[str, Any], random: Any):
    shuffled = list(values.items())
    random.shuffle(shuffled)
    scenario = ScenarioManifest.model_validate(dict(shuffled))
    full = ScenarioManifest().model_dump(mode="json", by_alias=True)
    full |= {key: value for key, value in values.items() if key != "seeds"}
    full["seeds"] |= values.get("seeds", {})
    assert ScenarioManifest.model_validate(full).digest() == scenario.digest()
    assert scenario.model_copy(update={"description": "words"}).digest() == scenario.digest()
    assert scenario.model_copy(update={"batch_size": scenario.batch_size + 1}).digest() != scenario.digest()


def test_whole_numbers_and_their_float_forms_are_one_content():
    assert (
        ScenarioManifest.model_validate({"min_duration_s": 3}).digest() == ScenarioManifest(min_duration_s=3.0).digest()
    )


def test_what_only_describes_is_left_out_and_what_decides_is_not():
    model = ModelManifest(id="m", sha256="0" * 64)
    for field, value in (("description", "x"), ("license", "MIT"), ("path", "a.onnx"), ("attributes", {"kind": "CNN"})):
        assert model.model_copy(update={field: value}).digest() == model.digest(), field
    for field, value in (("id", "n"), ("version", "2.0.0"), ("sha256", "1" * 64), ("weights_seed", 1)):
        assert model.model_copy(update={field: value}).digest() != model.digest(), field
    hardware = HardwareManifest()
    assert hardware.model_copy(update={"hostname": "here", "unavailable": {"gpus": "no"}}).digest() == hardware.digest()


def test_no_gpu_and_not_knowing_are_different():
    assert HardwareManifest(gpus=()).digest() != HardwareManifest(gpus=None).digest()
