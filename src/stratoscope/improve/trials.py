"""Follows advice: each change is loaded beside the original, its outputs compared, and timed in one race."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from stratoscope.backends.base import Feeds, Session
from stratoscope.errors import StratoscopeError
from stratoscope.improve.check import INPUTS, Agreement, compare_outputs
from stratoscope.improve.race import Race, race
from stratoscope.improve.variants import Variant
from stratoscope.measure.accuracy import measure_accuracy
from stratoscope.measure.inputs import make_inputs
from stratoscope.models.datasets import dataset_for
from stratoscope.spec.advice import Trial, TrialStatus
from stratoscope.spec.record import NoiseRecord
from stratoscope.stats.quantity import Quantity

#: A change counts as faster where the whole interval of its speed-up is above this: less than 1 % is layout and luck.
LEAST_SPEEDUP: Final = 1.01
#: Sessions that are open at once; more would crowd each other out of memory and caches.
MOST_AT_ONCE: Final = 6
_ORIGINAL: Final = "the original"
_TOO_FEW: Final = "too few undisturbed rounds for an interval"


@dataclass(frozen=True, slots=True)
class Attempt:
    """A change to try: how to get the variant (which may fail), and what its outputs may differ by."""

    key: str
    make: Callable[[], Variant]
    tolerance: float


@dataclass(frozen=True, slots=True)
class Trials:
    """The trials by key, the time of the original, and the noise."""

    trials: Mapping[str, Trial]
    original: Quantity
    noise: NoiseRecord


def run_trials(
    original: Variant,
    attempts: Sequence[Attempt],
    *,
    budget_s: float,
    seed: int = 0,
    on_progress: Callable[[str], None] | None = None,
) -> list[Trials]:
    """Tries all `attempts`, at most `MOST_AT_ONCE` beside the original at a time, for `budget_s` seconds together.

    A change that cannot be loaded or run has failed, one whose outputs differ is wrong, and neither is timed; the
    others go on. The caller holds the measurement lock.

    Raises:
        StratoscopeError: the original cannot be loaded or run.
    """
    groups = [attempts[start : start + MOST_AT_ONCE] for start in range(0, len(attempts), MOST_AT_ONCE)]
    share = budget_s / max(1, len(groups))
    return [_group(original, group, share, seed, on_progress or _silent) for group in groups]


def _silent(text: str) -> None:
    """Progress that nobody watches."""


def _group(
    original: Variant, attempts: Sequence[Attempt], budget_s: float, seed: int, report: Callable[[str], None]
) -> Trials:
    inputs = make_inputs(original.model, INPUTS, seed)
    done: dict[str, Trial] = {}
    agreements: dict[str, Agreement] = {}
    accuracies: dict[str, Quantity | None] = {}
    with ExitStack() as stack:
        reference = original.open()
        stack.callback(reference.close)
        calls: dict[str, Callable[[], object]] = {_ORIGINAL: reference.bind(inputs[0])}
        calls[_ORIGINAL]()
        accuracies[_ORIGINAL] = _accuracy(original, reference)
        for attempt in attempts:
            report(f"advice: checking {attempt.key}")
            try:
                variant = attempt.make()
                session = variant.open()
                stack.callback(session.close)
                agreement = compare_outputs(reference, session, inputs, attempt.tolerance)
                call = session.bind(_same_order(session, inputs[0]))
                call()
                accuracies[attempt.key] = _accuracy(variant, session)
            except (StratoscopeError, MemoryError) as error:
                why = "not enough memory" if isinstance(error, MemoryError) else str(error)
                done[attempt.key] = _untimed("failed", why, attempt.tolerance)
                continue
            if agreement.holds:
                agreements[attempt.key], calls[attempt.key] = agreement, call
            else:
                why = agreement.why or f"outputs differ by {agreement.error:.2g} of their largest magnitude"
                error_or_none = agreement.error if agreement.error < float("inf") else None
                done[attempt.key] = _untimed("wrong", why, attempt.tolerance, error_or_none)
        report("advice: racing against the original")
        result = race(_ORIGINAL, calls, budget_s=budget_s, seed=seed)
    for key, agreement in agreements.items():
        done[key] = _timed(result, key, agreement, accuracies.get(key), accuracies[_ORIGINAL])
    return Trials(done, result.laps[_ORIGINAL].time, result.noise)


def _same_order(session: Session, feeds: Feeds) -> Feeds:
    """The feeds that a session takes: a rewritten graph may no longer read an input."""
    names = {spec.name for spec in session.inputs}
    return {name: value for name, value in feeds.items() if name in names}


def _accuracy(variant: Variant, session: Session) -> Quantity | None:
    """Top-1 on the labelled data set of the model; None where there is none."""
    dataset = dataset_for(variant.model)
    if dataset is None:
        return None
    return measure_accuracy(session, dataset).metrics.get("top1")


def _untimed(status: str, why: str, tolerance: float, error: float | None = None) -> Trial:
    nothing = "it was not timed"
    return Trial.model_validate(
        {
            "status": status,
            "reason": why,
            "time": Quantity.unavailable("s", nothing, "median"),
            "speedup": Quantity.unavailable("1", nothing, "median"),
            "max_error": error,
            "tolerance": tolerance,
            "inputs": INPUTS if status == "wrong" else 0,
        }
    )


def _timed(result: Race, key: str, agreement: Agreement, accuracy: Quantity | None, before: Quantity | None) -> Trial:
    lap = result.laps[key]
    status: TrialStatus = "unsure"
    if lap.speedup.ci_low is not None:
        status = "faster" if lap.speedup.ci_low > LEAST_SPEEDUP else "no gain"
    return Trial(
        status=status,
        reason=_TOO_FEW if status == "unsure" else None,
        time=lap.time,
        speedup=lap.speedup,
        max_error=agreement.error,
        tolerance=agreement.tolerance,
        inputs=INPUTS,
        accuracy=accuracy,
        accuracy_before=before,
    )
