"""Labelled data that comes with the package, so that accuracy can be measured without a download."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from stratoscope.errors import ModelError
from stratoscope.models.zoo import DATA_FOLDER, DIGIT_LEVELS
from stratoscope.spec.model import LoadableModel


@dataclass(frozen=True, slots=True)
class LabelledDataset:
    """Inputs with their true classes.

    Attributes:
        inputs: float32 [n, channels, height, width], preprocessed as the model wants them.
        labels: int64 [n], indices into `class_names`.
        preprocessing: what was done to the stored values.
        digest: sha256 of the stored images and labels.
    """

    name: str
    version: str
    inputs: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    preprocessing: str
    digest: str


def digits_test() -> LabelledDataset:
    """The held-out split of the digits (360 images, ten classes), which the zoo's `digits` has not seen."""
    path = DATA_FOLDER / "digits_test.npz"
    try:
        with np.load(path, allow_pickle=False) as stored:
            images, labels = stored["images"], stored["labels"]
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"cannot read the digits in {path}: {error}", hint="reinstall stratoscope") from error
    content = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    return LabelledDataset(
        name="digits",
        version="1.0.0",
        inputs=images.astype(np.float32) / np.float32(DIGIT_LEVELS),
        labels=labels.astype(np.int64),
        class_names=tuple(str(digit) for digit in range(10)),
        preprocessing=f"divide by {DIGIT_LEVELS}",
        digest=f"sha256:{content}",
    )


def dataset_for(model: LoadableModel) -> LabelledDataset | None:
    """The labelled data set that `model`, by its id, was trained for and can be judged on; None where there is none."""
    return digits_test() if model.name == "digits" and model.manifest.weights == "trained" else None
