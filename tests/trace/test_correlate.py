from __future__ import annotations

import itertools
import random
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratoscope.errors import TraceError
from stratoscope.trace import correlate as module
from stratoscope.trace.correlate import AMBIGUOUS, NO_LAUNCH, OVERLAP, assign_parents, assign_sites, correlate
from stratoscope.trace.spans import SPAN_SCHEMA


def frame(*rows: dict[str, Any]) -> pl.DataFrame:
    """Spans from what is given; ids count from 0 unless given."""
    plain = {"parent": None, "kind": "sync", "track": 1, "correlation": 0, "run": 0, "site": None, "attributes": None}
    full = [{**plain, "span": number, "name": f"s{number}", **row} for number, row in enumerate(rows)]
    return pl.DataFrame([tuple(row[key] for key in SPAN_SCHEMA) for row in full], schema=SPAN_SCHEMA, orient="row")


def span(level: int, start: int, end: int, **more: Any) -> dict[str, Any]:
    return {"level": level, "start_ns": start, "end_ns": end, **more}


def parents(spans: pl.DataFrame) -> list[int | None]:
    return assign_parents(spans)["parent"].to_list()


def test_parent_is_the_nearest_enclosing_span() -> None:
    spans = frame(span(10, 0, 100), span(20, 10, 90), span(30, 20, 40), span(30, 40, 80), span(40, 45, 46))
    assert parents(spans) == [None, 0, 1, 1, 3]


def test_levels_may_be_missing_in_between() -> None:
    assert parents(frame(span(20, 0, 100), span(60, 10, 20))) == [None, 0]


def test_equal_levels_nest_but_a_deeper_level_never_encloses() -> None:
    spans = frame(span(20, 0, 100), span(40, 10, 90), span(40, 20, 80), span(30, 30, 70), span(40, 40, 50))
    # The layer (30) lies inside two operators by time; its parent is the model. The last operator's is the layer.
    assert parents(spans) == [None, 0, 1, 0, 3]


def test_of_equal_intervals_the_lower_level_is_outside_and_then_the_smaller_id() -> None:
    spans = frame(span(30, 0, 10, span=5), span(20, 0, 10, span=7), span(30, 0, 10, span=3))
    assert parents(spans) == [3, None, 7]


def test_intervals_are_half_open() -> None:
    spans = frame(span(30, 0, 10), span(40, 10, 10), span(30, 10, 20), span(40, 20, 20), span(40, 0, 0))
    assert parents(spans) == [None, 2, None, None, 0]


def test_runs_are_apart() -> None:
    assert parents(frame(span(20, 0, 100, run=0), span(30, 10, 20, run=1))) == [None, None]


def test_layer_on_a_worker_takes_the_only_model_around_it() -> None:
    spans = frame(span(20, 0, 100), span(30, 10, 20, track=2), span(40, 12, 15, track=2), span(30, 90, 110, track=2))
    assert parents(spans) == [None, 0, 1, None]


def test_layer_on_a_worker_takes_the_deepest_level_around_it() -> None:
    spans = frame(span(10, 0, 100), span(20, 5, 95), span(20, 10, 90), span(30, 20, 30, track=2))
    assert parents(spans)[3] == 2


def test_another_track_must_be_of_a_strictly_lower_level() -> None:
    assert parents(frame(span(30, 0, 100), span(30, 10, 20, track=2))) == [None, None]


def test_layer_between_models_of_two_tracks_is_flagged_and_left_alone() -> None:
    spans = frame(span(20, 0, 100), span(20, 0, 100, track=2), span(30, 10, 20, track=3))
    result = correlate(spans)
    assert result.spans["parent"].to_list() == [None, None, None]
    assert result.flagged.rows() == [(2, AMBIGUOUS)]


def test_an_ambiguous_model_is_not_replaced_by_an_application_span_around_both() -> None:
    spans = frame(span(10, 0, 200), span(20, 0, 100), span(20, 0, 100, track=2), span(30, 10, 20, track=3))
    result = correlate(spans)
    assert result.spans["parent"].to_list() == [None, 0, 0, None]
    assert result.flagged.rows() == [(3, AMBIGUOUS)]


def test_partial_overlap_is_flagged_and_not_clipped() -> None:
    spans = frame(span(20, 0, 100), span(30, 10, 50), span(30, 40, 60), span(40, 45, 48))
    result = correlate(spans)
    assert result.spans["parent"].to_list() == [None, 0, 0, 2]
    assert result.flagged.rows() == [(1, OVERLAP), (2, OVERLAP)]
    assert result.spans.select("start_ns", "end_ns").equals(spans.select("start_ns", "end_ns"))


def test_execution_takes_the_parent_of_its_launch_wherever_it_runs() -> None:
    spans = frame(
        span(20, 0, 100),
        span(30, 10, 20),
        span(60, 12, 13, kind="launch", correlation=7),
        span(30, 20, 90),
        span(60, 50, 70, kind="exec", correlation=7, track=9),
        span(60, 50, 70, kind="exec", correlation=8, track=9),
    )
    result = correlate(spans)
    assert result.spans["parent"].to_list() == [None, 0, 1, 0, 1, None]
    assert result.flagged.rows() == [(5, NO_LAUNCH)]


def test_launches_with_one_correlation_id_place_nothing() -> None:
    launch = span(60, 12, 13, kind="launch", correlation=7)
    spans = frame(span(30, 10, 20), launch, launch, span(60, 30, 40, kind="exec", correlation=7, track=9))
    assert correlate(spans).flagged.rows() == [(3, NO_LAUNCH)]


def test_known_parents_stay() -> None:
    spans = frame(span(20, 0, 100), span(30, 10, 90), span(30, 20, 30, parent=0), span(30, 95, 120, parent=0))
    result = correlate(spans)
    assert result.spans["parent"].to_list() == [None, 0, 0, 0]


def test_bad_spans_are_refused() -> None:
    with pytest.raises(TraceError, match="'s0' ends 5 ns before it starts"):
        correlate(frame(span(20, 5, 0)))
    with pytest.raises(TraceError, match="one id"):
        correlate(frame(span(20, 0, 1, span=4), span(20, 0, 1, span=4)))


def test_nothing_gives_nothing() -> None:
    empty = pl.DataFrame(schema=SPAN_SCHEMA)
    assert assign_sites(assign_parents(empty)).equals(empty)


def test_site_is_the_path_of_level_name_and_occurrence() -> None:
    spans = frame(
        span(20, 0, 100, name="net"),
        span(30, 30, 40, name="conv"),
        span(30, 10, 20, name="conv"),
        span(30, 50, 60, name="relu"),
        span(40, 31, 32, name="gemm"),
        span(20, 200, 300, name="net", run=1),
        span(30, 210, 220, name="conv", run=1),
    )
    assert assign_sites(assign_parents(spans))["site"].to_list() == [
        "20:net#0",
        "20:net#0|30:conv#1",
        "20:net#0|30:conv#0",
        "20:net#0|30:relu#0",
        "20:net#0|30:conv#1|40:gemm#0",
        "20:net#0",
        "20:net#0|30:conv#0",
    ]


def test_site_of_a_deep_span_names_each_ancestor_once() -> None:
    spans = frame(*(span(30, depth, 100 - depth, name=f"m{depth}") for depth in range(6)))
    steps = [f"30:m{depth}#0" for depth in range(6)]
    assert assign_sites(assign_parents(spans))["site"].to_list() == ["|".join(steps[: at + 1]) for at in range(6)]


def test_names_with_separators_give_different_sites() -> None:
    spans = frame(
        span(20, 0, 100, name="a|30:b#0"),
        span(20, 200, 300, name="a"),
        span(30, 210, 220, name="b"),
        span(20, 400, 500, name="a\\"),
    )
    sites = assign_sites(assign_parents(spans))["site"]
    assert sites.to_list() == ["20:a\\|30:b#0#0", "20:a#0", "20:a#0|30:b#0", "20:a\\\\#0"]


def test_parents_that_are_missing_or_go_in_circles_are_refused() -> None:
    with pytest.raises(TraceError, match="parent 9 of a span is not in the trace"):
        assign_sites(frame(span(20, 0, 1, parent=9)))
    with pytest.raises(TraceError, match="circle"):
        assign_sites(frame(span(20, 0, 9, parent=1), span(20, 0, 9, parent=0)))
    with pytest.raises(TraceError, match="used twice"):
        assign_sites(frame(span(20, 0, 1, span=4), span(20, 0, 1, span=4)))


# A second implementation, straight from the rules, comparing every span with every other.


def order(row: dict[str, Any]) -> tuple[int, ...]:
    return row["start_ns"], -row["end_ns"], row["level"], row["span"]


def encloses(outer: dict[str, Any], inner: dict[str, Any]) -> bool:
    return bool(outer["start_ns"] <= inner["start_ns"] < outer["end_ns"] and outer["end_ns"] >= inner["end_ns"])


def slow_correlate(rows: list[dict[str, Any]]) -> tuple[dict[int, int | None], set[tuple[int, str]]]:
    parent: dict[int, int | None] = {}
    flagged = set()
    for row in rows:
        others = [o for o in rows if o["run"] == row["run"] and o is not row and o["kind"] != "exec"]
        if row["kind"] == "exec":
            continue
        same = [o for o in others if o["track"] == row["track"]]
        if any(
            a["start_ns"] < b["start_ns"] < a["end_ns"] < b["end_ns"] for o in same for a, b in ((row, o), (o, row))
        ):
            flagged.add((row["span"], OVERLAP))
        around = [o for o in same if encloses(o, row) and order(o) < order(row) and o["level"] <= row["level"]]
        if around:
            parent[row["span"]] = max(around, key=order)["span"]
            continue
        away = [o for o in others if o["track"] != row["track"] and encloses(o, row) and o["level"] < row["level"]]
        deepest = [o for o in away if o["level"] == max(a["level"] for a in away)]
        if len({o["track"] for o in deepest}) > 1:
            flagged.add((row["span"], AMBIGUOUS))
        parent[row["span"]] = None
        if len({o["track"] for o in deepest}) == 1:
            parent[row["span"]] = max(deepest, key=order)["span"]
    for row in rows:
        if row["kind"] == "exec":
            launches = [
                o
                for o in rows
                if o["kind"] == "launch" and (o["run"], o["correlation"]) == (row["run"], row["correlation"])
                if o["correlation"] != 0
            ]
            parent[row["span"]] = parent[launches[0]["span"]] if len(launches) == 1 else None
            if len(launches) != 1:
                flagged.add((row["span"], NO_LAUNCH))
    return parent, flagged


anything = st.builds(
    lambda level, start, length, track, run, kind, correlation: span(
        level, start, start + length, track=track, run=run, kind=kind, correlation=correlation
    ),
    st.sampled_from([10, 20, 30, 30, 40]),
    st.integers(0, 30),
    st.integers(0, 12),
    st.integers(0, 2),
    st.integers(0, 1),
    st.sampled_from(["sync", "sync", "sync", "launch", "exec"]),
    st.integers(0, 3),
)


@st.composite
def nested(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Spans that nest on each track, by cutting intervals up; many share an edge."""
    rows: list[dict[str, Any]] = []

    def cut(start: int, end: int, level: int, track: int, depth: int) -> None:
        rows.append(span(level, start, end, track=track))
        if depth == 0:
            return
        edges = sorted(draw(st.lists(st.integers(start, end), max_size=4)))
        for low, high in itertools.pairwise(edges):
            if draw(st.booleans()):
                cut(low, high, level + draw(st.sampled_from([0, 10, 20])), track, depth - 1)

    for track in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, 20))
        cut(start, start + draw(st.integers(1, 30)), draw(st.sampled_from([20, 30])), track, 3)
    return draw(st.permutations(rows))


@settings(deadline=None, max_examples=200)
@given(st.one_of(st.lists(anything, max_size=14), nested()))
def test_parents_and_flags_agree_with_comparing_every_pair(rows: list[dict[str, Any]]) -> None:
    spans = frame(*rows)
    parent, flagged = slow_correlate(spans.to_dicts())
    result = correlate(spans)
    assert dict(result.spans.select("span", "parent").iter_rows()) == parent
    assert set(result.flagged.iter_rows()) == flagged


@settings(deadline=None, max_examples=80)
@given(nested())
def test_nested_tracks_take_the_fast_way_and_the_stack_gives_the_same(rows: list[dict[str, Any]]) -> None:
    spans = frame(*rows)
    fast = correlate(spans)
    assert fast.flagged.filter(pl.col("why") == OVERLAP).height == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_nest_laminar", lambda start, stop: None)
        assert correlate(spans).spans.equals(fast.spans)


@settings(deadline=None, max_examples=60)
@given(st.lists(anything, max_size=14), st.randoms())
def test_order_of_rows_does_not_matter(rows: list[dict[str, Any]], random: Any) -> None:
    spans = assign_sites(assign_parents(frame(*rows)))
    places = list(range(spans.height))
    random.shuffle(places)
    shuffled = frame(*rows)[places] if places else frame(*rows)
    again = assign_sites(assign_parents(shuffled))
    assert again.sort("span").equals(spans.sort("span"))


@settings(deadline=None, max_examples=60)
@given(st.lists(anything, max_size=14))
def test_sites_are_unique_within_a_run(rows: list[dict[str, Any]]) -> None:
    spans = assign_sites(assign_parents(frame(*(row | {"name": f"n{row['level']}"} for row in rows))))
    assert spans.select("run", "site").is_unique().all()
    assert spans["site"].null_count() == 0


def test_spans_that_overlap_freely_get_the_parents_and_flags_of_their_definition() -> None:
    """Against a direct reading of the rules: every earlier span that is still open, for each span."""
    randomly = random.Random(7)
    for _ in range(300):
        begins = [randomly.randrange(12) for _ in range(randomly.randrange(2, 12))]
        order = sorted((begin, -begin - randomly.randrange(8)) for begin in begins)
        start, stop = [begin for begin, _ in order], [-end for _, end in order]
        spans = frame(*(span(40, begin, end) for begin, end in zip(start, stop, strict=True)))
        expected: list[int | None] = []
        overlapping = set()
        for row, (begin, end) in enumerate(zip(start, stop, strict=True)):
            still_open = [other for other in range(row) if stop[other] > begin]
            enclosing = [other for other in still_open if stop[other] >= end]
            expected.append(enclosing[-1] if enclosing else None)
            partly = [other for other in still_open if stop[other] < end]
            overlapping |= {row, *partly} if partly else set()
        found = correlate(spans)
        assert found.spans["parent"].to_list() == expected
        assert set(found.flagged["span"]) == overlapping
