"""What part the events of a Chrome trace play, as one software's dialect has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Roles:
    """Per event: level, kind (codes of `build.KINDS`), correlation id, run; per place: whether it is a device's."""

    level: NDArray[np.uint8]
    kind: NDArray[Any]
    correlation: NDArray[np.int64]
    device: NDArray[np.bool_]
    run: NDArray[Any] | int = 0
    name: pl.Series | None = None
