"""What every value of the analytical model shares: frozen validated models, its errors, the type of vectorised
numbers.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator

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
    """A frozen value that refuses unknown fields; what is wrong with it is an LlmError that names the field.

    Checks over several fields (`model_validator(mode="after")`) raise LlmError themselves: they run outside this one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="wrap")
    @classmethod
    def _name_the_field(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(data)
        except ValidationError as error:
            raise LlmError(f"{cls.__name__}: {_first(error)}", hint=f"fields: {', '.join(cls.model_fields)}") from error


def _first(error: ValidationError) -> str:
    """The first thing that is wrong: field, value, reason."""
    first = error.errors()[0]
    reason = first["msg"].removeprefix("Value error, ")
    field = ".".join(str(part) for part in first["loc"])
    if not field:
        return reason
    if first["type"] in ("missing", "extra_forbidden"):
        return f"{field}: {reason}"
    return f"{field} is {repr(first['input'])[:60]}: {reason}"


def validated(kind: type[Value], data: dict[str, Any], where: str) -> Any:
    """`data` as a `kind`; raises LlmError naming the field and the place.

    The return type is that of `kind`; callers annotate it.
    """
    try:
        return kind.model_validate(data)
    except LlmError as error:
        raise LlmError(f"{where}: {error.message}", hint=error.hint) from error
