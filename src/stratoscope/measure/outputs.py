"""The digest of what a model answers, by which a rerun tells whether it computes the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


def outputs_digest(outputs: Sequence[np.ndarray]) -> str:
    """sha256 over type, shape and bytes of each output, in order: equal digests mean equal bits, not close values."""
    content = hashlib.sha256()
    for array in outputs:
        content.update(f"{array.dtype.str}{array.shape}".encode())
        content.update(np.ascontiguousarray(array).tobytes())
    return f"sha256:{content.hexdigest()}"
