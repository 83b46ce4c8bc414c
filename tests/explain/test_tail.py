"""What was slow in a slow request."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from stratoscope.errors import MeasurementError
from stratoscope.explain.tail import attribute
from stratoscope.trace.levels import Level

US = 1e-6


def requests(rows: list[tuple[int, ...]], *more: str) -> pl.DataFrame:
    """Rows of (query, scheduled, issued, completed, ...) in us."""
    names = ("query", "scheduled_ns", "issued_ns", "completed_ns", *more)
    frame = pl.DataFrame(rows, schema=dict.fromkeys(names, pl.Int64), orient="row")
    return frame.with_columns(pl.exclude("query") * 1000, sample=pl.lit(0))


def steady(count: int = 99) -> list[tuple[int, ...]]:
    """Requests every 100 us, each sent after 1 and answered after 11 us."""
    return [(k, 100 * k, 100 * k + 1, 100 * k + 11) for k in range(count)]


def part(found: Any, component: str) -> dict[str, Any]:
    (row,) = [row for row in found.frame.to_dicts() if row["component"] == component]
    return dict(row)


def test_a_request_behind_a_slow_one_was_slow_for_queueing() -> None:
    slow = attribute(requests([*steady(98), (98, 9800, 9801, 9840), (99, 9801, 9840, 9850)]), 100)
    assert slow.facts["request"] == 99
    assert slow.facts["cause"] == "queueing"
    assert slow.facts["queued_behind"] == 98
    assert slow.facts["excess_s"] == pytest.approx((49 - 11) * US)
    assert part(slow, "queueing")["excess_s"] == pytest.approx(38 * US)
    assert part(slow, "service")["excess_s"] == pytest.approx(0)


def test_the_excess_of_the_parts_is_that_of_the_latency() -> None:
    rows = [(k, 100 * k, 100 * k + k % 5, 100 * k + k % 5 + 10 + (7 * k) % 11) for k in range(200)]
    found = attribute(requests(rows))
    summed = sum(row["excess_s"] for row in found.frame.to_dicts() if row["part_of"] == "latency")
    assert summed == pytest.approx(found.facts["excess_s"])
    assert found.facts["rank"] == 198


def test_wait_in_the_run_queue_is_told_from_slow_service() -> None:
    rows = [(*row, 0) for row in steady()] + [(99, 9900, 9901, 9961, 45)]
    found = attribute(requests(rows, "run_queue_wait_ns"), 100)
    assert found.facts["cause"] == "run-queue wait"
    assert part(found, "run-queue wait")["overlaps"] is True
    assert part(found, "run-queue wait")["share"] == pytest.approx(45 / 50)


def test_of_a_traced_request_the_layer_is_named(make_spans: Any) -> None:
    builder, rows = make_spans(), []
    for run in range(20):
        late = 30 if run == 13 else 0
        start = 100 * run
        builder.add(run, Level.MODEL, "net", start, 10 + late)
        builder.add(run, Level.LAYER, "conv", start, 6)
        builder.add(run, Level.LAYER, "fc", start + 6, 3 + late)
        rows.append((run, start, start, start + 10 + late))
    found = attribute(requests(rows), 100, builder.trace(batch_size=1))
    assert found.facts["request"] == 13
    assert found.facts["cause"] == "layer fc"
    assert part(found, "layer fc")["excess_s"] == pytest.approx(30 * US)
    assert part(found, "layer conv")["excess_s"] == pytest.approx(0)
    assert part(found, "between layers")["request_s"] == pytest.approx(1 * US)


def test_a_query_of_several_samples_ends_with_its_last() -> None:
    rows = [(0, 0, 1, 5), (0, 0, 1, 9), (1, 10, 11, 14)]
    found = attribute(requests(rows), 100)
    assert found.facts["requests"] == 2
    assert found.facts["latency_s"] == pytest.approx(9 * US)


def test_p99_of_few_requests_says_that_it_is_the_slowest() -> None:
    assert any("slowest of 20" in note for note in attribute(requests(steady(20))).notes)
    assert not any("slowest of" in note for note in attribute(requests(steady(200))).notes)


def test_nothing_is_made_of_no_requests() -> None:
    with pytest.raises(MeasurementError, match="no requests"):
        attribute(requests([]))
    with pytest.raises(MeasurementError, match="no percentile"):
        attribute(requests(steady()), 0)
