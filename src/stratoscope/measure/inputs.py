"""Generated inputs: seeded, in the shapes, types and ranges that the model declares, within the memory there is."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from stratoscope.errors import MeasurementError
from stratoscope.spec.model import LoadableModel, TensorSpec

#: Inputs may take up to this part of the memory that is available when they are made.
MEMORY_SHARE: Final = 0.25
#: An integer input without a declared range is drawn from [0, 2): valid as mask, token id and index alike.
DEFAULT_HIGH: Final = 2


def make_inputs(
    model: LoadableModel, count: int, seed: int, *, memory_bytes: int | None = None
) -> list[dict[str, np.ndarray]]:
    """`count` different feeds, each with the model's bound shapes; the same seed gives the same values.

    Floats are normal(0, 1), or uniform in [low, high) where the manifest gives a range; integers are uniform in
    [low, high); booleans are fair coins. `memory_bytes` bounds their total, default a quarter of what is available.

    Raises:
        MeasurementError: a free dimension, an unknown element type, an empty range, or too little memory.
    """
    if count < 1:
        raise MeasurementError(f"cannot make {count} inputs", hint="ask for at least one")
    specs = model.manifest.inputs
    total = count * sum(_bytes(model, spec) for spec in specs)
    allowed = memory_bytes if memory_bytes is not None else _allowed_bytes()
    if total > allowed:
        raise MeasurementError(
            f"{count} inputs of model {model.name!r} take {total / 2**20:.0f} MiB, more than the {allowed / 2**20:.0f} "
            "MiB that inputs may take here",
            hint="lower --batch-size or the scenario's performance_samples",
        )
    streams = np.random.SeedSequence(seed).spawn(count)
    return [_feeds(model, np.random.default_rng(stream)) for stream in streams]


def input_bytes(model: LoadableModel) -> int:
    """Bytes of one feed of the model; raises MeasurementError for a free dimension or an unknown type."""
    return sum(_bytes(model, spec) for spec in model.manifest.inputs)


def _feeds(model: LoadableModel, rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {spec.name: _values(model, spec, rng) for spec in model.manifest.inputs}


def _values(model: LoadableModel, spec: TensorSpec, rng: np.random.Generator) -> np.ndarray:
    shape, kind = _shape(model, spec), _dtype(model, spec)
    if spec.low is not None and spec.high is not None and not spec.low < spec.high:
        raise MeasurementError(
            f"input {spec.name!r} of model {model.name!r} has the empty range [{spec.low}, {spec.high})",
            hint="low must be below high, which is exclusive",
        )
    if kind.kind == "O":
        return np.full(shape, "", dtype=object)
    if kind.kind == "b":
        return rng.integers(0, 2, shape).astype(kind)
    if kind.kind in "iu":
        limits = np.iinfo(kind)
        low = int(spec.low) if spec.low is not None else 0
        high = math.ceil(spec.high) if spec.high is not None else max(low + 1, DEFAULT_HIGH)
        if low < limits.min or high - 1 > limits.max:
            raise MeasurementError(
                f"input {spec.name!r} of model {model.name!r} has the range [{low}, {high}), beyond {kind}"
            )
        return rng.integers(low, high, shape, dtype=kind)
    if spec.low is not None or spec.high is not None:
        low_f = spec.low if spec.low is not None else min(0.0, float(spec.high or 0.0) - 1)
        high_f = spec.high if spec.high is not None else low_f + 1
        return rng.uniform(low_f, high_f, shape).astype(kind)
    return rng.standard_normal(shape, dtype=np.float32).astype(kind)


def _shape(model: LoadableModel, spec: TensorSpec) -> tuple[int, ...]:
    sizes = []
    for size in spec.shape:
        if not isinstance(size, int):
            raise MeasurementError(
                f"input {spec.name!r} of model {model.name!r} has the free dimension {size!r}",
                hint=f"set it with --shape {spec.name}=...",
            )
        sizes.append(size)
    return tuple(sizes)


def _dtype(model: LoadableModel, spec: TensorSpec) -> np.dtype:
    """The NumPy type; types that NumPy lacks (bfloat16, float8) come from ml_dtypes, which onnx brings along."""
    name = "object" if spec.element_type == "str" else spec.element_type
    try:
        kind = np.dtype(name)
    except TypeError:
        import ml_dtypes

        found = getattr(ml_dtypes, spec.element_type, None)
        if found is None:
            raise MeasurementError(
                f"input {spec.name!r} of model {model.name!r} has element type {spec.element_type!r}, unknown to NumPy"
            ) from None
        kind = np.dtype(found)
    if kind.kind not in "biufOV":
        raise MeasurementError(
            f"inputs of element type {spec.element_type!r} are not generated ({spec.name!r} of model {model.name!r})"
        )
    return kind


def _bytes(model: LoadableModel, spec: TensorSpec) -> int:
    return math.prod(_shape(model, spec)) * _dtype(model, spec).itemsize


def _allowed_bytes() -> int:
    import psutil

    return int(psutil.virtual_memory().available * MEMORY_SHARE)
