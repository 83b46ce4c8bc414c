"""Facts about declared steps: each has its place, and one that cannot work is refused when it is read."""

from __future__ import annotations

from typing import Any

import pytest

from stratoscope.errors import SpecError
from stratoscope.spec.dataset import DatasetManifest
from stratoscope.spec.model import ModelManifest
from stratoscope.spec.yamlio import validate


def model_with(
    inputs: list[dict[str, Any]] | None = None, outputs: list[dict[str, Any]] | None = None
) -> ModelManifest:
    def tensor(steps: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
        return [] if steps is None else [{"name": "t", "element_type": "float32", "shape": [1], "steps": steps}]

    return validate(ModelManifest, {"id": "m", "inputs": tensor(inputs), "outputs": tensor(outputs)})


def test_steps_keep_their_order_and_defaults():
    model = model_with([{"op": "decode"}, {"op": "crop", "height": 2, "width": 2}], [{"op": "argsort", "k": 5}])
    assert [step.op for step in model.inputs[0].steps] == ["decode", "crop"]
    assert model.outputs[0].steps[0].op == "argsort"


@pytest.mark.parametrize(
    ("inputs", "outputs", "expected"),
    [
        ([{"op": "softmax"}], None, "'softmax' does not belong to pre-processing of input 't'"),
        (None, [{"op": "decode"}], "'decode' does not belong to post-processing of output 't'"),
        (
            [{"op": "cast", "to": "int8"}, {"op": "decode"}],
            None,
            "'decode' reads the stored sample and must come first",
        ),
        (None, [{"op": "argsort"}, {"op": "softmax"}], "'argsort' gives the answer and must come last"),
        ([{"op": "resize", "height": 0, "width": 2}], None, "greater than 0"),
        ([{"op": "normalize", "std": [1, 0, 1]}], None, "no std is 0"),
        ([{"op": "normalize", "mean": [1, 2], "std": [1, 2, 3]}], None, "mean has 2 channels and std has 3"),
        ([{"op": "tokenize", "vocabulary": "../../etc/passwd", "max_length": 8}], None, "inside the manifest's folder"),
        ([{"op": "eval", "code": "1"}], None, "'eval' found"),
        ([{"op": "cast", "to": "object"}], None, "Input should be 'float16'"),
    ],
)
def test_steps_that_cannot_work_are_refused(inputs: Any, outputs: Any, expected: str):
    with pytest.raises(SpecError) as caught:
        model_with(inputs, outputs)
    assert expected in caught.value.message


def test_a_dataset_is_stored_or_generated():
    assert validate(DatasetManifest, {"id": "d", "generated": {"seed": 3}}).generated is not None
    with pytest.raises(SpecError, match="either generated or stored"):
        validate(DatasetManifest, {"id": "d", "generated": {}, "path": "x.npz"})
    with pytest.raises(SpecError, match="sha256"):
        validate(DatasetManifest, {"id": "d", "sha256": "md5:abc"})
    with pytest.raises(SpecError, match="inside the manifest's folder"):
        validate(DatasetManifest, {"id": "d", "path": "/data/x.npz"})
