"""Generated inputs: types, ranges, seeds and the bound on memory."""

from __future__ import annotations

import numpy as np
import pytest

from stratoscope.errors import MeasurementError
from stratoscope.measure.inputs import input_bytes, make_inputs
from stratoscope.spec.model import LoadableModel, ModelManifest, TensorSpec


def model(*specs: TensorSpec) -> LoadableModel:
    return LoadableModel(ModelManifest(id="m", inputs=specs))


def spec(element_type: str, *shape: int | str, low: float | None = None, high: float | None = None) -> TensorSpec:
    return TensorSpec(name="x", element_type=element_type, shape=shape, low=low, high=high)


def test_floats_are_standard_normal_and_differ_between_inputs() -> None:
    first, second = (feed["x"] for feed in make_inputs(model(spec("float32", 100, 100)), 2, seed=0))
    assert first.dtype == np.float32
    assert first.mean() == pytest.approx(0, abs=0.05)
    assert first.std() == pytest.approx(1, abs=0.05)
    assert not np.array_equal(first, second)


def test_the_seed_decides_each_input_whatever_their_number() -> None:
    m = model(spec("float32", 3), TensorSpec(name="ids", element_type="int64", shape=(5,), low=0, high=1000))
    few, many = make_inputs(m, 1, seed=7), make_inputs(m, 4, seed=7)
    assert all(np.array_equal(few[0][name], many[0][name]) for name in ("x", "ids"))
    assert not np.array_equal(make_inputs(m, 1, seed=8)[0]["ids"], few[0]["ids"])


@pytest.mark.parametrize(("low", "high"), [(0, 30522), (-5, 5), (3, 4)])
def test_integers_fill_their_range_and_leave_out_its_end(low: int, high: int) -> None:
    values = make_inputs(model(spec("int64", 200_000, low=low, high=high)), 1, 0)[0]["x"]
    assert values.min() >= low
    assert values.max() < high
    assert np.unique(values).size > 0.9 * min(high - low, 30_000)


def test_integers_without_a_range_are_zero_or_one_and_booleans_fair() -> None:
    assert set(np.unique(make_inputs(model(spec("int32", 100)), 1, 0)[0]["x"])) == {0, 1}
    coins = make_inputs(model(spec("bool", 10_000)), 1, 0)[0]["x"]
    assert coins.dtype == np.bool_
    assert coins.mean() == pytest.approx(0.5, abs=0.03)


def test_floats_in_a_range_are_uniform_in_it() -> None:
    values = make_inputs(model(spec("float64", 10_000, low=2.0, high=4.0)), 1, 0)[0]["x"]
    assert 2 <= values.min() < 2.01
    assert 3.99 < values.max() < 4


@pytest.mark.parametrize("name", ["float16", "bfloat16", "uint8", "int8"])
def test_other_types_are_made_in_their_own_type(name: str) -> None:
    values = make_inputs(model(spec(name, 4)), 1, 0)[0]["x"]
    assert values.dtype.name == name
    assert values.shape == (4,)


def test_memory_is_counted_before_anything_is_made() -> None:
    huge = model(spec("float32", 10**6, 10**6))
    assert input_bytes(huge) == 4 * 10**12
    with pytest.raises(MeasurementError, match=r"take .* MiB.*batch-size"):
        make_inputs(huge, 16, 0)
    make_inputs(model(spec("float32", 1000)), 2, 0, memory_bytes=8000)
    with pytest.raises(MeasurementError, match="MiB"):
        make_inputs(model(spec("float32", 1000)), 2, 0, memory_bytes=7999)


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        (spec("float32", "batch", 3), "free dimension 'batch'"),
        (spec("floaty", 3), "unknown to NumPy"),
        (spec("int64", 3, low=5, high=5), "empty range"),
        (spec("uint8", 3, low=-1, high=5), "beyond uint8"),
        (spec("complex64", 3), "not generated"),
    ],
)
def test_inputs_that_cannot_be_made_name_the_tensor(bad: TensorSpec, match: str) -> None:
    with pytest.raises(MeasurementError, match=match):
        make_inputs(model(bad), 1, 0)
    with pytest.raises(MeasurementError, match="at least one"):
        make_inputs(model(), 0, 0)
