"""A model's latency on a machine that is not here: its bricks' times here, moved by the roofs of both machines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from stratoscope.errors import MeasurementError
from stratoscope.explain.compose.estimate import Placed
from stratoscope.explain.predict.scaling import WHOLE, Fit, Load, Pair, Resources, memory_share, scaled
from stratoscope.spec.base import Document
from stratoscope.spec.performance import Part, PartMeasurement
from stratoscope.stats.quantity import Quantity


class Prediction(Document):
    """What a model takes there. `here` is the estimate on this machine, `speedup` here / there.

    The interval of `there` is that of `here`, widened by the relative `error` of moving a time; without one it is None
    and so is the interval. `fitted_on` is the number of parts measured on both machines that the exponents were fitted
    to, 0 where they are 1 for want of such; `plain_error` is then what plain scaling errs on the same parts.
    """

    model: str
    here: Quantity
    there: Quantity
    speedup: float
    memory_share: float
    coverage: float
    exponents: tuple[float, float]
    error: float | None
    fitted_on: int = 0
    plain_error: float | None = None
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
    fit: Fit | None = None,
    error: float | None = None,
) -> Prediction:
    """Moves each brick's time to the other machine and sums them over the places of the model.

    With a `fit` its exponents and its error are taken, without one whole ratios and `error`.

    `latency` and `coverage` are the estimate's of this machine; what has no time is taken to move as the rest does.
    A brick whose work is not known is moved by its bandwidths. Raises MeasurementError where no brick has a time.
    """
    exponents = fit.exponents if fit is not None else WHOLE
    error = fit.error if fit is not None else error
    before = after = memory = 0.0
    for place in places:
        known = times.get(place.key)
        if known is None or known.status != "ok":
            continue
        seconds = known.seconds().require() * place.times
        part = known.part
        load = load_of(part)
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
        statistic="scaled p25 of sums",
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
        fitted_on=fit.pairs if fit is not None else 0,
        plain_error=fit.plain_error if fit is not None else None,
        source=here.source,
        target=there.source,
    )


def load_of(part: Part) -> Load:
    """What a part asks of a machine; where its work is not known it counts as data alone."""
    return Load(float(part.flops_valid or 0), float(part.bytes or 1))


def pairs_of(here: Iterable[PartMeasurement], there: Iterable[PartMeasurement]) -> list[Pair]:
    """The parts that have a time above zero on both machines, in the order of their digests."""
    known = {one.part.digest: one for one in there if one.status == "ok"}
    pairs = []
    for one in sorted(here, key=lambda found: found.part.digest):
        other = known.get(one.part.digest)
        if one.status != "ok" or other is None:
            continue
        seconds, elsewhere = one.seconds().require(), other.seconds().require()
        if seconds > 0 and elsewhere > 0:
            pairs.append((seconds, elsewhere, load_of(one.part)))
    return pairs
