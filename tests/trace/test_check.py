from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratoscope.trace.check import check_conservation, self_times
from stratoscope.trace.correlate import assign_parents, assign_sites
from stratoscope.trace.spans import SPAN_SCHEMA

CHECKS = {
    "no_negative_duration",
    "children_within_parents",
    "children_and_self_make_parent",
    "same_sites_in_all_runs",
    "same_sequence_in_all_runs",
}


def frame(*rows: tuple[int, int | None, int, str, int, int]) -> pl.DataFrame:
    """Spans of (span, parent, level, name, start, end) on track 1 of run 0."""
    rest: dict[str, Any] = {"kind": "sync", "track": 1, "correlation": 0, "run": 0, "site": None, "attributes": None}
    keys = ("span", "parent", "level", "name", "start_ns", "end_ns")
    full = [{**rest, **dict(zip(keys, row, strict=True))} for row in rows]
    return pl.DataFrame([tuple(row[key] for key in SPAN_SCHEMA) for row in full], schema=SPAN_SCHEMA, orient="row")


def run_of(number: int, *layers: tuple[str, int, int]) -> pl.DataFrame:
    base = 100 * number
    spans = frame(
        (base, None, 20, "net", base, base + 90),
        *(
            (base + 1 + place, base, 30, name, base + start, base + end)
            for place, (name, start, end) in enumerate(layers)
        ),
    )
    return spans.with_columns(run=pl.lit(number, pl.Int32))


def broken(spans: pl.DataFrame) -> dict[str, str]:
    found = check_conservation(spans)
    assert set(found.holds) == CHECKS
    assert set(found.details) == {name for name, holds in found.holds.items() if not holds}
    return found.details


def test_a_sound_trace_passes_everything() -> None:
    layers = (("a", 0, 30), ("b", 30, 30), ("a", 30, 90))
    assert broken(assign_sites(pl.concat([run_of(0, *layers), run_of(1, *layers)]))) == {}


def test_self_time_is_what_the_children_leave() -> None:
    spans = frame(
        (0, None, 20, "net", 0, 100), (1, 0, 30, "a", 10, 30), (2, 0, 30, "b", 30, 90), (3, 2, 40, "c", 40, 50)
    )
    assert self_times(spans).to_list() == [20, 20, 50, 10]


def test_children_on_other_tracks_and_executions_take_no_time_from_their_parent() -> None:
    spans = frame(
        (0, None, 20, "net", 0, 100), (1, 0, 30, "a", 10, 90), (2, 0, 30, "b", 10, 90), (3, 0, 60, "k", 50, 250)
    )
    spans = spans.with_columns(
        track=pl.Series([1, 1, 2, 1], dtype=pl.Int64),
        kind=pl.Series(["sync", "sync", "sync", "exec"]).cast(SPAN_SCHEMA["kind"]),
    )
    assert self_times(spans).to_list() == [20, 80, 80, 200]
    assert broken(assign_sites(spans)) == {}


def test_each_fault_breaks_its_own_check_and_is_named() -> None:
    sound = run_of(0, ("a", 0, 30), ("b", 30, 60))
    negative = broken(assign_sites(run_of(0, ("a", 0, 30), ("b", 40, 35))))
    assert negative == {"no_negative_duration": "ends before it starts: 'b' of run 0"}
    outside = broken(assign_sites(run_of(0, ("a", 0, 30), ("b", 30, 91))))
    assert outside == {"children_within_parents": "reaches out of its parent: 'b' of run 0"}
    overlapping = broken(assign_sites(run_of(0, ("a", 0, 30), ("b", 29, 60))))
    assert overlapping == {"children_and_self_make_parent": "overlaps a sibling on the same track: 'b' of run 0"}
    fewer = broken(assign_sites(pl.concat([sound, run_of(1, ("a", 0, 30))])))
    assert set(fewer) == {"same_sites_in_all_runs", "same_sequence_in_all_runs"}
    assert fewer["same_sites_in_all_runs"] == "run 1 has 2 spans where run 0 has 3"
    turned = broken(assign_sites(pl.concat([sound, run_of(1, ("b", 0, 30), ("a", 30, 60))])))
    assert turned == {"same_sequence_in_all_runs": "run 1 has 20:net#0|30:b#0 where run 0 has 20:net#0|30:a#0"}


def test_spans_without_sites_do_not_pass_for_equal() -> None:
    assert broken(run_of(0, ("a", 0, 30)))["same_sites_in_all_runs"] == "2 spans have no site yet"


def test_a_gap_between_runs_in_time_is_no_fault() -> None:
    assert broken(assign_sites(pl.concat([run_of(3, ("a", 0, 1)), run_of(7, ("a", 5, 6))]))) == {}


@pytest.mark.parametrize("spans", [pl.DataFrame(schema=SPAN_SCHEMA), frame((0, None, 20, "net", 0, 10))])
def test_small_traces_pass(spans: pl.DataFrame) -> None:
    assert broken(assign_sites(spans)) == {}


@settings(deadline=None, max_examples=80)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 10)), max_size=8))
def test_children_and_self_make_the_parent_exactly_when_siblings_are_disjoint(parts: list[tuple[int, int]]) -> None:
    rows = [(0, None, 20, "net", 0, 100)]
    spans = frame(*rows, *((1 + k, 0, 30, f"s{k}", start, start + length) for k, (start, length) in enumerate(parts)))
    filled = [(start, start + length) for start, length in parts if length > 0]
    disjoint = all(a[1] <= b[0] or b[1] <= a[0] for i, a in enumerate(filled) for b in filled[:i])
    verdict = check_conservation(assign_sites(assign_parents(spans))).holds["children_and_self_make_parent"]
    points = [(start, start) for start, length in parts if length == 0]
    inside = any(low < point < high for point, _ in points for low, high in filled)
    assert verdict == (disjoint and not inside)
