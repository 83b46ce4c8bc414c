"""The batch sweep against models of known scaling, on a virtual clock, and XSP's rule by hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratoscope.errors import BackendError, MeasurementError
from stratoscope.measure import sweep
from stratoscope.measure.sweep import SweepInterrupted, batch_sweep, optimal_batch
from stratoscope.spec.model import LoadableModel
from stratoscope.spec.options import BackendOptions
from stratoscope.spec.record import SweepSection

MS = 1_000_000
SIZES = (1, 2, 4, 8, 16, 32, 64)


def rebind(model: LoadableModel, size: int) -> LoadableModel:
    inputs = tuple(spec.model_copy(update={"shape": (size, *spec.shape[1:])}) for spec in model.manifest.inputs)
    return replace(model, manifest=model.manifest.model_copy(update={"inputs": inputs}))


class Scaling:
    """A back end whose inference of n inputs takes `cost_ns(n)` of virtual time."""

    name = "scaling"

    def __init__(self, clock: Any, cost_ns: Callable[[int], float]) -> None:
        self.clock, self.cost_ns = clock, cost_ns
        self.loaded: list[int] = []
        self.closed = 0

    def load(self, model: LoadableModel, options: BackendOptions) -> Any:
        size = int(model.manifest.inputs[0].shape[0])
        self.loaded.append(size)
        return SimpleNamespace(
            bind=lambda feeds: lambda: self.clock.work(round(self.cost_ns(len(feeds["x"])))), close=self._close
        )

    def _close(self) -> None:
        self.closed += 1


def run(backend: Scaling, model: LoadableModel, **changes: Any) -> SweepSection:
    arguments = {"sizes": SIZES, "budget_s": 60.0, "rebind": rebind, "clock": backend.clock} | changes
    return batch_sweep(backend, model, BackendOptions(), **arguments)  # type: ignore[arg-type]


def test_fixed_cost_plus_linear_work_levels_off_where_the_arithmetic_says(
    virtual_clock: Any, tiny_model: LoadableModel
) -> None:
    # t(n) = 4 + n ms: throughput n / (4 + n); doubling gains (8 + 2n) / (4 + 2n) - 1 = 4 / (4 + 2n) <= 5 % from n = 38.
    backend = Scaling(virtual_clock, lambda n: (4 + n) * MS)
    section = run(backend, tiny_model, sizes=(*SIZES, 128, 256, 512))
    assert section.optimal_batch == 64
    assert section.saturated
    assert [point.batch_size for point in section.points] == [1, 2, 4, 8, 16, 32, 64, 128, 256]  # two did not pay
    assert backend.closed == len(backend.loaded)
    eighth = section.points[3]
    assert eighth.latency.value == pytest.approx(0.012)
    assert eighth.throughput.value == pytest.approx(8 / 0.012)


def test_a_sweep_that_ends_while_doubling_pays_is_not_saturated(virtual_clock: Any, tiny_model: LoadableModel) -> None:
    section = run(Scaling(virtual_clock, lambda n: 5 * MS), tiny_model, sizes=(1, 2, 4))
    assert section.optimal_batch == 4
    assert not section.saturated
    assert "still paid" in section.reason


def test_linear_cost_has_optimal_batch_one_and_stops_after_two_doublings(
    virtual_clock: Any, tiny_model: LoadableModel
) -> None:
    backend = Scaling(virtual_clock, lambda n: n * MS)
    section = run(backend, tiny_model)
    assert (section.optimal_batch, section.saturated) == (1, True)
    assert backend.loaded == [1, 2, 4]


def test_the_budget_ends_the_sweep_before_it_is_overrun(virtual_clock: Any, tiny_model: LoadableModel) -> None:
    # Sublinear for ever, so only the budget can end it.
    section = run(Scaling(virtual_clock, lambda n: 200 * MS * n**0.8), tiny_model, budget_s=10.0)
    assert not section.saturated
    assert "left of the budget" in section.reason
    assert 1 < len(section.points) < len(SIZES)
    assert virtual_clock.now_ns() < 20e9


def test_a_size_that_fails_ends_the_sweep_and_the_first_one_fails_it(
    virtual_clock: Any, tiny_model: LoadableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(model: LoadableModel, size: int) -> LoadableModel:
        if size >= 4:
            raise BackendError("out of device memory")
        return rebind(model, size)

    section = run(Scaling(virtual_clock, lambda n: 5 * MS), tiny_model, rebind=refuse)
    assert len(section.points) == 2
    assert "batch size 4: out of device memory" in section.reason
    with pytest.raises(BackendError):
        run(Scaling(virtual_clock, lambda n: 5 * MS), tiny_model, rebind=refuse, sizes=(4, 8))
    resident = iter(range(0, 10**15, 10**13))
    monkeypatch.setattr(sweep, "_resident", lambda: next(resident))
    greedy = run(Scaling(virtual_clock, lambda n: 5 * MS), tiny_model)
    assert len(greedy.points) == 1
    assert "MiB are free" in greedy.reason


def test_ctrl_c_carries_what_was_measured(virtual_clock: Any, tiny_model: LoadableModel) -> None:
    def cost(n: int) -> float:
        if n == 8:
            raise KeyboardInterrupt
        return 5 * MS

    with pytest.raises(SweepInterrupted) as caught:
        run(Scaling(virtual_clock, cost), tiny_model)
    assert [point.batch_size for point in caught.value.section.points] == [1, 2, 4]
    assert isinstance(caught.value, KeyboardInterrupt)


@pytest.mark.parametrize("sizes", [(), (1, 3), (2, 1), (0, 0)])
def test_sizes_that_are_no_doublings_are_refused(
    sizes: tuple[int, ...], virtual_clock: Any, tiny_model: LoadableModel
) -> None:
    with pytest.raises(MeasurementError, match="not doublings"):
        run(Scaling(virtual_clock, lambda n: MS), tiny_model, sizes=sizes)
    with pytest.raises(MeasurementError, match="measures nothing"):
        run(Scaling(virtual_clock, lambda n: MS), tiny_model, budget_s=0.0)


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ([], (None, False)),
        ([100.0], (1, False)),
        ([100.0, 105.0], (1, True)),  # exactly 5 % does not pay
        ([100.0, 106.0], (2, False)),
        ([100.0, 180.0, 185.0, 400.0], (2, True)),  # the first that does not pay decides
    ],
)
def test_xsps_rule_by_hand(rates: list[float], expected: tuple[int | None, bool]) -> None:
    assert optimal_batch([(2**i, rate) for i, rate in enumerate(rates)]) == expected


@given(st.lists(st.floats(1, 1e6), min_size=1, max_size=10), st.floats(1e-3, 1e3))
def test_the_optimal_batch_does_not_depend_on_the_unit(rates: list[float], scale: float) -> None:
    gains = [b / a for a, b in itertools.pairwise(rates)]
    if any(abs(gain - 1.05) < 1e-9 for gain in gains):
        return
    points = [(2**i, rate) for i, rate in enumerate(rates)]
    assert optimal_batch(points) == optimal_batch([(n, rate * scale) for n, rate in points])
