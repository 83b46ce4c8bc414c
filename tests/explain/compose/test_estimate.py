"""Sums over bricks: hand-computed totals, paths, coverage; what is missing is named with its share."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratoscope.explain.compose.assembly import ModelEstimate, on_lines
from stratoscope.explain.compose.estimate import RESTARTS, Placed, estimate
from stratoscope.spec.performance import Candidate, Environment, Part, PartMeasurement, Protocol

CANDIDATE = Candidate(library="onnxruntime", implementation="graph=off", version="1")


def measured(key: str, seconds: float, *, call: float = 0.0, status: str = "ok") -> PartMeasurement:
    """A brick whose samples are all `seconds`, cost of the call in them."""
    return PartMeasurement(
        part=Part(digest=key, kind="brick", slug=key, operators=("Relu",)),
        candidate=CANDIDATE,
        environment=Environment(),
        protocol=Protocol(cache="sequence"),
        status=status,  # type: ignore[arg-type]
        reason=None if status == "ok" else "it crashed",
        samples_s=(seconds,) * 8 if status == "ok" else (),
        overhead_s=call,
        started_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def place(key: str, times: int = 1, nominal: float = 1.0, needs: tuple[int, ...] = ()) -> Placed:
    return Placed(key, key, times, nominal, needs)


def test_a_model_is_the_sum_of_its_bricks_without_their_calls_and_one_call() -> None:
    times = {"a": measured("a", 3.5, call=0.5), "b": measured("b", 1.5, call=0.5)}
    found = estimate([place("a"), place("b"), place("a")], times, {}, {})
    assert found.latency.value == pytest.approx(3 + 1 + 3 + 0.5)
    assert (found.bricks, found.unique, found.measured, found.coverage) == (3, 2, 2, 1.0)
    assert found.low.status == "unavailable"
    assert found.missing == ()


def test_what_overlapping_sequences_share_is_counted_once() -> None:
    times = {"ab": measured("ab", 3.0), "bc": measured("bc", 5.0), "b": measured("b", 2.0)}
    found = estimate([place("ab"), place("b", -1), place("bc")], times, {}, {})
    assert found.latency.value == pytest.approx(6.0)
    assert found.parallel.status == "unavailable"


def test_the_parallel_estimate_is_the_longest_path() -> None:
    times = {key: measured(key, value) for key, value in {"a": 1.0, "b": 5.0, "c": 2.0, "d": 1.0}.items()}
    places = [place("a"), place("b", needs=(0,)), place("c", needs=(0,)), place("d", needs=(1, 2))]
    found = estimate(places, times, {}, {})
    assert found.parallel.value == pytest.approx(7.0)
    assert found.latency.value == pytest.approx(9.0)


def test_a_missing_brick_is_named_with_its_share_and_never_makes_the_model_faster() -> None:
    places = [place("a", nominal=3.0), place("b", nominal=1.0)]
    whole = estimate(places, {"a": measured("a", 6.0), "b": measured("b", 2.0)}, {}, {})
    part = estimate(places, {"a": measured("a", 6.0), "b": measured("b", 0, status="failed")}, {}, {})
    assert part.coverage == pytest.approx(0.75)
    assert part.latency.value == pytest.approx(whole.latency.value or 0)
    assert [(one.key, one.share, one.status, one.reason) for one in part.missing] == [
        ("b", 0.25, "failed", "it crashed")
    ]
    unknown = estimate(places, {"a": measured("a", 6.0)}, {}, {})
    assert unknown.missing[0].status == "not measured"


def test_without_any_time_there_is_no_number() -> None:
    found = estimate([place("a")], {}, {}, {})
    assert {found.latency.status, found.parallel.status, found.high.status} == {"unavailable"}
    assert found.coverage == 0.0


@given(st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=8))
def test_the_bracket_holds_the_point(values: list[float]) -> None:
    keys = [f"k{number}" for number in range(len(values))]
    places = [place(key) for key in keys]
    point = {key: measured(key, value) for key, value in zip(keys, values, strict=True)}
    hot = {key: measured(key, value * 1.01) for key, value in zip(keys, values, strict=True)}
    cold = {key: measured(key, value * 2) for key, value in zip(keys, values, strict=True)}
    found = estimate(places, point, hot, cold)
    assert found.low.require() <= found.latency.require() <= found.high.require()
    assert found.high.require() == pytest.approx(2 * sum(values))


def test_a_batch_size_without_measurements_lies_on_the_line_through_two_others() -> None:
    def row(batch: int, seconds: float | None) -> ModelEstimate:
        times = {} if seconds is None else {"a": measured("a", seconds)}
        found = estimate([place("a")], times, {}, {})
        return ModelEstimate(model="m", batch_size=batch, layers=1, threads=1, estimate=found)

    rows = on_lines([row(1, 1.0), row(2, 1.8), row(4, None)])
    assert rows[2].estimate.latency.value == pytest.approx(3.4)
    assert rows[2].estimate.latency.statistic == "line through batch 1 and 2"
    assert rows[2].estimate.coverage == 0.0  # nothing of it was measured
    assert on_lines([row(1, 1.0), row(4, None)])[1].estimate.latency.status == "unavailable"


def test_p25_of_a_model_is_not_the_sum_of_its_bricks_p25_but_that_of_their_sums() -> None:
    # Each call takes 1, 2, 3 or 4 equally often: a sum of 100 is nearly normal, mean 250, deviation sqrt(100 * 1.25).
    even = measured("a", 1.0).model_copy(update={"samples_s": (1.0, 2.0, 3.0, 4.0) * 5})
    found = estimate([place("a")] * 100, {"a": even}, {}, {})
    assert even.seconds().require() == 1.0
    assert found.latency.value == pytest.approx(250 - 0.6745 * 125**0.5, abs=0.8)
    assert found.latency == estimate([place("a")] * 100, {"a": even}, {}, {}).latency  # the draw is always the same


def test_one_disturbed_sample_does_not_reach_every_pass() -> None:
    quiet = (1.0, 1.01, 1.02, 1.0, 1.01, 1.02, 1.0, 1.01)
    known = {"a": measured("a", 1.0).model_copy(update={"samples_s": quiet})}
    disturbed = {"a": measured("a", 1.0).model_copy(update={"samples_s": (*quiet, 1.6)})}
    expected = estimate([place("a")] * 12, known, {}, {}).latency.require()
    assert estimate([place("a")] * 12, disturbed, {}, {}).latency.require() == pytest.approx(expected, rel=1e-3)


def test_an_interval_allows_for_where_memory_lies_in_the_next_process() -> None:
    found = estimate([place("a")], {"a": measured("a", 1.0)}, {}, {}).latency
    low, high = found.ci_low, found.ci_high
    assert low is not None
    assert high is not None
    assert (high - low) / 2 == pytest.approx(1.96 * RESTARTS * found.require(), rel=1e-3)
