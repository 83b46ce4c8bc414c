"""The shape of a published number: value, unit, statistic, n and interval; or a status that says why there is none."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

Status = Literal["ok", "unavailable", "unjustified"]


class Quantity(BaseModel):
    """A measured or computed number with what it means.

    `status` is "ok" with a value; "unavailable" when the machine, library or model does not tell; "unjustified" when
    there are too few
    samples for the statistic (an early-stopping percentile, an interval). Units are SI and bare: "s", "byte", "FLOP",
    "1/s", "1".
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    value: float | None = None
    unit: str
    statistic: str = "value"
    n: int = 1
    ci_low: float | None = None
    ci_high: float | None = None
    confidence: float | None = None
    status: Status = "ok"
    reason: str | None = None

    @model_validator(mode="after")
    def _value_or_reason(self) -> Self:
        if (self.status == "ok") != (self.value is not None):
            raise ValueError("a quantity has a value exactly when its status is 'ok'")
        if self.status != "ok" and not self.reason:
            raise ValueError(f"a quantity that is {self.status} says why")
        if (self.ci_low is None) != (self.ci_high is None):
            raise ValueError("an interval has two ends")
        return self

    @classmethod
    def exact(cls, value: float, unit: str, statistic: str = "count") -> Quantity:
        """A number that is known, not estimated (a count, a size, an analytic figure)."""
        return cls(value=value, unit=unit, statistic=statistic)

    @classmethod
    def unavailable(cls, unit: str, reason: str, statistic: str = "value") -> Quantity:
        """No value, because nothing here can tell it; never zero."""
        return cls(unit=unit, statistic=statistic, n=0, status="unavailable", reason=reason)

    @classmethod
    def unjustified(cls, unit: str, reason: str, statistic: str, n: int) -> Quantity:
        """No value, because `n` samples do not justify this statistic."""
        return cls(unit=unit, statistic=statistic, n=n, status="unjustified", reason=reason)

    def require(self) -> float:
        """The value; raises ValueError with the reason where there is none."""
        if self.value is None:
            raise ValueError(self.reason)
        return self.value
