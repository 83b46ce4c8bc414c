"""Advice with what the results database knows: the machine's roofs, measured library calls, executed layers."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Final

from stratoscope.errors import StoreError
from stratoscope.explain.advice.calibration import calibration, prediction_error
from stratoscope.explain.bounds.calls import best_calls
from stratoscope.host.capture import capture_hardware
from stratoscope.improve.advise import Request, advise
from stratoscope.improve.predict import PRIOR_ERROR, PRIOR_TRIALS
from stratoscope.improve.roofs import QUICK_S, machine_roofs
from stratoscope.improve.timing import CallTimer, ExecutedTimer, executed_protocol
from stratoscope.spec.advice import AdviceSection
from stratoscope.spec.performance import Environment, PartMeasurement
from stratoscope.stats.quantity import Quantity
from stratoscope.store.performance import PerformanceDatabase
from stratoscope.store.store import Store

#: Seconds for this machine's roofs in the quick version, where they are not known.
_QUICK_ROOFS_S: Final = 8.0
#: Runs whose predictions are compared with what was achieved.
_RUNS_ASKED: Final = 100


def advise_with_database(
    request: Request,
    database: str | os.PathLike[str] | None,
    *,
    predict_s: float,
    keep: bool,
    on_progress: Callable[[str], None] | None = None,
) -> AdviceSection:
    """`advise`, with roofs and measured parts from the results database, to which new ones are added if `keep`.

    Args:
        predict_s: seconds for benchmarking new executed layers; 0: what is known has to do.

    Raises:
        StratoscopeError: the original cannot be run, or the rewritten model cannot be written.
    """
    threads = request.options.threads or len(os.sched_getaffinity(0))
    environment = Environment.of(capture_hardware())
    with ExitStack() as stack:
        opened = _open(database, create=keep)
        if opened is not None:
            stack.callback(opened.close)
        measured = opened.find(environment=environment) if opened is not None else []

        def take(measurement: PartMeasurement) -> None:
            if keep and opened is not None:
                opened.record(measurement)

        timer = ExecutedTimer(predict_s, _executed(measured, threads), take, on_progress)
        pairs = CallTimer(predict_s, threads, measured, take, on_progress)
        complete = replace(
            request,
            prediction_error=_prediction_error(database),
            calls=best_calls(measured, threads),
            machine=lambda: machine_roofs(
                threads,
                database,
                keep=keep,
                budget_s=_QUICK_ROOFS_S if request.quick else QUICK_S,
                on_progress=on_progress,
            ),
        )
        return advise(complete, timer, pairs=pairs, on_progress=on_progress)


def _open(database: str | os.PathLike[str] | None, *, create: bool) -> PerformanceDatabase | None:
    """The database; None where there is none yet and none is to be made."""
    try:
        return PerformanceDatabase(database, create=create)
    except StoreError:
        if create:
            raise
        return None


def _prediction_error(database: str | os.PathLike[str] | None) -> float:
    """How far the predictions of the newest runs were off; the prior where there is no database yet."""
    try:
        with Store.open(database, create=False) as store:
            newest = (store.get(found.id) for found in store.list(limit=_RUNS_ASKED))
            ratios = [one.achieved / one.predicted for one in calibration(newest).tried]
    except StoreError:
        ratios = []
    return prediction_error(ratios, prior=PRIOR_ERROR, worth=PRIOR_TRIALS)


def _executed(measured: list[PartMeasurement], threads: int) -> dict[str, Quantity]:
    """Seconds of executed layers by digest."""
    return {
        one.part.digest: one.seconds()
        for one in measured
        if one.status == "ok" and one.protocol == executed_protocol(threads) and one.candidate.layout == "opaque"
    }
