"""Whether two ways to run a model answer the same: the largest difference of their outputs over several inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stratoscope.backends.base import Feeds, Session

#: Different inputs that outputs are compared on.
INPUTS: Final = 3


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far the outputs differ.

    Attributes:
        error: largest absolute difference over the largest magnitude of the same output of the reference, over all
            outputs and inputs; infinite where shapes, types or the places of NaN differ.
        tolerance: what was allowed.
        why: what differs, where `error` is infinite.
    """

    error: float
    tolerance: float
    why: str = ""

    @property
    def holds(self) -> bool:
        """Whether the outputs are equal within the tolerance."""
        return self.error <= self.tolerance


def compare_outputs(reference: Session, other: Session, inputs: Sequence[Feeds], tolerance: float) -> Agreement:
    """Runs both on each of `inputs` and compares all outputs, by name where both sessions have the same names."""
    worst = 0.0
    order = _order(reference, other)
    if order is None:
        return Agreement(float("inf"), tolerance, "the number of outputs differs")
    for feeds in inputs:
        expected = [np.array(one) for one in reference.run(feeds)]
        found = other.run(feeds)
        for position, place in enumerate(order):
            error, why = difference(expected[position], np.asarray(found[place]))
            if why:
                return Agreement(float("inf"), tolerance, why)
            worst = max(worst, error)
    return Agreement(worst, tolerance)


def difference(expected: NDArray[np.generic], found: NDArray[np.generic]) -> tuple[float, str]:
    """(error, "") as in `Agreement`, or (infinity, why) where the two cannot be compared."""
    if expected.shape != found.shape:
        return float("inf"), f"an output has shape {list(found.shape)}, not {list(expected.shape)}"
    if expected.dtype.kind not in "fiub" or found.dtype.kind not in "fiub":
        same = bool(np.array_equal(expected, found))
        return (0.0, "") if same else (float("inf"), "an output that is not numeric differs")
    if expected.size == 0:
        return 0.0, ""
    a, b = expected.astype(np.float64), found.astype(np.float64)
    if not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return float("inf"), "an output is not finite where the other is"
    finite = np.isfinite(a)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return float("inf"), "outputs that are not finite differ"
    if not finite.any():
        return 0.0, ""
    scale = float(np.abs(a[finite]).max())
    largest = float(np.abs(a[finite] - b[finite]).max())
    return (largest / scale if scale > 0 else largest), ""


def _order(reference: Session, other: Session) -> list[int] | None:
    """For each output of the reference its place among those of the other."""
    wanted, there = [one.name for one in reference.outputs], [one.name for one in other.outputs]
    if len(wanted) != len(there):
        return None
    return [there.index(name) for name in wanted] if set(wanted) == set(there) else list(range(len(wanted)))
