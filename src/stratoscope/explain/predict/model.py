"""A model's latency on a machine that is not here: its bricks' times here, moved by the roofs of both machines."""

from __future__ import annotations

from collections.abc import Mapping

from stratoscope.errors import MeasurementError
from stratoscope.explain.compose.estimate import Placed
from stratoscope.explain.predict.scaling import WHOLE, Exponents, Load, Resources, memory_share, scaled
from stratoscope.spec.base import Document
from stratoscope.spec.performance import PartMeasurement
from stratoscope.stats.quantity import Quantity


class Prediction(Document):
    """What a model takes there. `here` is the estimate on this machine, `speedup` here / there.

    The interval of `there` is that of `here`, widened by the relative `error` of moving a time; without one it is None
    and so is the interval.
    """

    model: str
    here: Quantity
    there: Quantity
    speedup: float
    memory_share: float
    coverage: float
    exponents: tuple[float, float]
    error: float | None
    source: str
    target: str


def predict_model(
    name: str,
    places: list[Placed],
    times: Mapping[str, PartMeasurement],
    latency: Quantity,
    coverage: float,
    here: Resources,
    there: Resources,
    *,
    exponents: Exponents = WHOLE,
    error: float | None = None,
) -> Prediction:
    """Moves each brick's time to the other machine and sums them over the places of the model.

    `latency` and `coverage` are the estimate's of this machine; what has no time is taken to move as the rest does.
    A brick whose work is not known is moved by its bandwidths. Raises MeasurementError where no brick has a time.
    """
    before = after = memory = 0.0
    for place in places:
        known = times.get(place.key)
        if known is None or known.status != "ok":
            continue
        seconds = known.seconds().require() * place.times
        part = known.part
        load = Load(float(part.flops_valid or 0), float(part.bytes or 1))
        before += seconds
        after += scaled(seconds, load, here, there, exponents)
        memory += seconds * memory_share(load, here)
    if before <= 0 or latency.value is None:
        raise MeasurementError(f"no brick of {name} has a time here", hint="--measure measures what is missing")
    ratio = after / before
    low = high = None
    if error is not None:
        low = (latency.ci_low if latency.ci_low is not None else latency.value) * ratio / (1 + error)
        high = (latency.ci_high if latency.ci_high is not None else latency.value) * ratio * (1 + error)
    there_s = Quantity(
        value=latency.value * ratio,
        unit="s",
        statistic="scaled sum of p25",
        n=latency.n,
        ci_low=low,
        ci_high=high,
    )
    return Prediction(
        model=name,
        here=latency,
        there=there_s,
        speedup=1 / ratio,
        memory_share=memory / before,
        coverage=coverage,
        exponents=(exponents.compute, exponents.memory),
        error=error,
        source=here.source,
        target=there.source,
    )
