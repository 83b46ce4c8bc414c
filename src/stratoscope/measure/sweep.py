"""Throughput by batch size, and XSP's optimal batch: the smallest after which doubling hardly pays."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Final

import psutil

from stratoscope.backends.base import Backend
from stratoscope.errors import MeasurementError, StratoscopeError
from stratoscope.measure.clock import Clock, RealClock
from stratoscope.measure.inputs import make_inputs
from stratoscope.measure.latency import measure_latency
from stratoscope.spec.model import LoadableModel
from stratoscope.spec.options import BackendOptions
from stratoscope.spec.record import SweepPoint, SweepSection
from stratoscope.stats.bootstrap import estimate
from stratoscope.stats.quantity import Quantity
from stratoscope.stats.stopping import StoppingRule

#: Doubling pays when it gains more than this part of the throughput (XSP, arXiv 1908.06869, section III-D1).
MIN_GAIN: Final = 0.05
#: The sweep ends after so many doublings in a row that did not pay: one could be noise.
PATIENCE: Final = 2
#: One batch size takes at most this long, so that the budget reaches the next ones.
MAX_POINT_S: Final = 3.0
#: Calls that a batch size needs at the least: a warm-up and five repeats.
LEAST_CALLS: Final = 6
#: A batch is not tried when it would need more than this part of the free memory, going by the last one.
MEMORY_SHARE: Final = 0.8


class SweepInterrupted(KeyboardInterrupt):
    """Ctrl-C during a sweep, with what was measured until then."""

    def __init__(self, section: SweepSection) -> None:
        super().__init__("Ctrl-C during the sweep")
        self.section = section


def batch_sweep(
    backend: Backend,
    model: LoadableModel,
    options: BackendOptions,
    *,
    sizes: Sequence[int] = (1, 2, 4, 8, 16, 32, 64),
    budget_s: float = 20.0,
    rebind: Callable[[LoadableModel, int], LoadableModel],
    seed: int = 0,
    on_progress: Callable[[str], None] | None = None,
    clock: Clock | None = None,
) -> SweepSection:
    """Measures `model` at each of `sizes` (each twice the last), with a session of its own a size.

    `rebind(model, n)` gives the model at batch size n. The sweep ends early when two doublings in a row gain at most
    5 %, when the budget or the memory would not do for the next size, or when that size fails; the reason says which.

    Raises:
        MeasurementError: the sizes are no doublings, or the budget is not positive.
        StratoscopeError: not even the first size can be measured.
        SweepInterrupted: Ctrl-C after at least one size; it carries the section.
    """
    if not sizes or sizes[0] < 1 or any(b != 2 * a for a, b in itertools.pairwise(sizes)):
        raise MeasurementError(f"batch sizes {list(sizes)} are not doublings", hint="use 1, 2, 4, 8, ...")
    if budget_s <= 0:
        raise MeasurementError(f"a sweep of {budget_s:g} s measures nothing", hint="give it some seconds")
    clock = clock or RealClock()
    deadline = clock.now_ns() + round(budget_s * 1e9)
    points: list[SweepPoint] = []
    reason, grown_bytes = "", 0
    for size in sizes:
        left_s = (deadline - clock.now_ns()) / 1e9
        reason = _forbidden(points, size, left_s, 2 * grown_bytes)
        if reason or _levelled_off(points):
            break
        if on_progress is not None:
            on_progress(f"batch size {size}")
        try:
            share_s = min(MAX_POINT_S, left_s if len(sizes) == 1 else left_s / 2)
            point, grown_bytes = _point(backend, rebind(model, size), options, size, share_s, seed, clock)
            points.append(point)
        except (StratoscopeError, MemoryError) as error:
            if not points:
                raise
            reason = f"batch size {size}: {error if isinstance(error, StratoscopeError) else 'not enough memory'}"
            break
        except KeyboardInterrupt:
            if not points:
                raise
            raise SweepInterrupted(_section(points, f"interrupted at batch size {size}")) from None
    return _section(points, reason)


def optimal_batch(points: Sequence[tuple[int, float]]) -> tuple[int | None, bool]:
    """(optimal batch, whether it is one) of (batch size, throughput), each size twice the last.

    The smallest batch after which doubling gains at most 5 %. Where doubling paid to the end, the last batch and
    False; None where nothing was measured.
    """
    for (size, rate), (_, doubled) in itertools.pairwise(points):
        if doubled <= rate * (1 + MIN_GAIN):
            return size, True
    return (points[-1][0], False) if points else (None, False)


def _section(points: Sequence[SweepPoint], reason: str) -> SweepSection:
    best, saturated = optimal_batch([(point.batch_size, point.throughput.require()) for point in points])
    if not reason and saturated:
        reason = f"doubling batch {best} gains at most {MIN_GAIN:.0%}"
    elif not reason:
        reason = f"doubling still paid at the largest size asked for ({best})"
    return SweepSection(points=tuple(points), optimal_batch=best, saturated=saturated, reason=reason)


def _levelled_off(points: Sequence[SweepPoint]) -> bool:
    """Whether the last doublings did not pay."""
    rates = [point.throughput.require() for point in points[-PATIENCE - 1 :]]
    return len(rates) == PATIENCE + 1 and all(b <= a * (1 + MIN_GAIN) for a, b in itertools.pairwise(rates))


def _forbidden(points: Sequence[SweepPoint], size: int, left_s: float, needed_bytes: int) -> str:
    """Why the next size is not tried, or nothing; going by the last one, as time and memory grow about twofold."""
    if not points:
        return ""
    expected_s = 2 * LEAST_CALLS * points[-1].latency.require()
    if expected_s > left_s:
        return f"batch size {size} would take {expected_s:.3g} s of the {max(0.0, left_s):.3g} s left of the budget"
    free = psutil.virtual_memory().available
    if needed_bytes > MEMORY_SHARE * free:
        return f"batch size {size} might need {needed_bytes / 2**20:.0f} MiB, and {free / 2**20:.0f} MiB are free"
    return ""


def _point(
    backend: Backend,
    model: LoadableModel,
    options: BackendOptions,
    size: int,
    share_s: float,
    seed: int,
    clock: Clock,
) -> tuple[SweepPoint, int]:
    """The figures of one size, and by how many bytes the process grew for it."""
    before = _resident()
    session = backend.load(model, options)
    try:
        call = session.bind(make_inputs(model, 1, seed)[0])
        rule = StoppingRule(min_repeats=5, max_time_s=share_s, min_time_s=min(0.1, share_s))
        run = measure_latency(call, warmup=2 if size > 1 else 3, rule=rule, clock=clock)
        grown_bytes = max(0, _resident() - before)
    finally:
        session.close()
    latency = estimate(run.kept_s(), "s")
    return SweepPoint(batch_size=size, latency=latency, throughput=_rate(latency, size)), grown_bytes


def _rate(latency: Quantity, size: int) -> Quantity:
    """Inputs a second from the latency of a batch; the interval turns round with it."""
    return Quantity(
        value=size / latency.require(),
        unit="1/s",
        statistic="batch size over median latency",
        n=latency.n,
        ci_low=None if latency.ci_high is None else size / latency.ci_high,
        ci_high=None if latency.ci_low is None else size / latency.ci_low,
        confidence=latency.confidence,
    )


def _resident() -> int:
    return int(psutil.Process().memory_info().rss)
