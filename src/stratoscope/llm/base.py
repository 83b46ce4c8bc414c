"""What every value of the analytical model shares: frozen validated models, its errors, the type of vectorised
numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from stratoscope.errors import StratoscopeError

# A figure of one plan (float) or of many plans at once (array): the cost formulas take both.
Num = float | npt.NDArray[np.float64]


class LlmError(StratoscopeError):
    """A question to the analytical model that has no answer as asked."""


class UnknownArchitectureError(LlmError):
    """A configuration of a model family that has no reader here."""


class UnsupportedError(LlmError):
    """A feature of a plan, model or device that the model does not cover; never guessed."""


class Value(BaseModel):
    """A frozen value that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def validated(kind: type[Value], data: dict[str, Any], where: str) -> Any:
    """`data` as a `kind`; raises LlmError naming the field and the place.

    The return type is that of `kind`; callers annotate it.
    """
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise LlmError(f"{where}: {field}: {first['msg']}", hint=f"fields: {', '.join(kind.model_fields)}") from error
