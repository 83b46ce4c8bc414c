from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from stratoscope.backends import ort_profile
from stratoscope.backends.ort_profile import ClockAnchor, RawProfile, spans_of
from stratoscope.errors import BackendError
from stratoscope.trace.levels import Level

NO_ANCHORS = (ClockAnchor(0, 0), ClockAnchor(0, 0))


def event(
    name: str, start_us: int, duration_us: int, track: int = 1, cat: str = "Session", **args: Any
) -> dict[str, Any]:
    return {
        "cat": cat,
        "pid": 1,
        "tid": track,
        "dur": duration_us,
        "ts": start_us,
        "ph": "X",
        "name": name,
        "args": args,
    }


def node(name: str, start_us: int, duration_us: int, track: int = 1, **args: Any) -> dict[str, Any]:
    return event(f"{name}_kernel_time", start_us, duration_us, track, "Node", op_name="Op", **args)


def executor(start_us: int, duration_us: int, track: int = 1) -> dict[str, Any]:
    return event("SequentialExecutor::Execute", start_us, duration_us, track)


def model_run(start_us: int, duration_us: int) -> dict[str, Any]:
    return event("model_run", start_us, duration_us)


def read(
    folder: Path, events: list[dict[str, Any]], calls: list[tuple[int, int, int]], origin_ns: int = 0
) -> pl.DataFrame:
    path = folder / "profile.json"
    path.write_text(json.dumps(events))
    return spans_of(RawProfile.read(path, calls, origin_ns, NO_ANCHORS), "net")


def parents(spans: pl.DataFrame) -> dict[str, str | None]:
    name = dict(spans.select("span", "name").iter_rows())
    return {child: name.get(parent) for child, parent in spans.select("name", "parent").iter_rows()}


def test_events_land_on_our_clock_between_the_readings_around_the_call(tmp_path: Path) -> None:
    # The profile's zero is at 5,000,000 ns of our clock; the calls enclose model_run by 4 and 6 us, and by 10 and 2 us.
    events = [node("a", 110, 50), executor(105, 60), model_run(100, 70)]
    events += [node("a", 310, 40), executor(305, 50), model_run(300, 60)]
    calls = [(5_096_000, 5_176_000, 7), (5_290_000, 5_362_000, 7)]
    spans = read(tmp_path, events, calls)
    # Offset from 5,096,000 - 100,000 to 5,362,000 - 360,000: the middle is 4,999,000, half of the width 3,000.
    layers = spans.filter(pl.col("level") == Level.LAYER)
    assert layers["start_ns"].to_list() == [4_999_000 + 110_000, 4_999_000 + 310_000]
    assert layers["end_ns"].to_list() == [4_999_000 + 160_000, 4_999_000 + 350_000]
    models = spans.filter(pl.col("level") == Level.MODEL)
    assert models.select("start_ns", "end_ns", "track").rows() == calls
    assert [json.loads(text)["clock_error_ns"] for text in models["attributes"]] == [3000, 3000]


def test_a_clock_that_was_stepped_between_runs_is_fitted_run_by_run(tmp_path: Path) -> None:
    events = [node("a", 110, 50), executor(105, 60), model_run(100, 70)]
    events += [node("a", 1_000_310, 40), executor(1_000_305, 50), model_run(1_000_300, 60)]
    calls = [(5_096_000, 5_176_000, 7), (5_290_000, 5_362_000, 7)]  # the profile jumped by a second
    spans = read(tmp_path, events, calls)
    layers = spans.filter(pl.col("level") == Level.LAYER).sort("start_ns")
    assert layers["start_ns"].to_list() == [4_996_000 + 5_000 + 110_000, 4_996_000 + 310_000]


@pytest.mark.parametrize(
    ("origin_ns", "disagrees_ns"),
    [
        (4_998_000 + 1000, 0),  # UNIX time, as the anchors have it
        (4_998_000, 0),  # our own clock
        (4_990_000 + 1000, 5000),  # 4,991,000 on our clock or 4,990,000 by the anchors: 5,000 and 6,000 too early
        (5_010_000 + 1000, 4000),
    ],
)
def test_how_far_the_anchors_disagree_with_the_calls_is_told(tmp_path: Path, origin_ns: int, disagrees_ns: int) -> None:
    (tmp_path / "p.json").write_text(json.dumps([executor(105, 60), model_run(100, 70)]))
    anchors = (ClockAnchor(1000, 80), ClockAnchor(1000, 80))  # UNIX time is ours + 1000
    # The call allows offsets from 5,096,000 - 100,000 to 5,176,000 - 170,000.
    raw = RawProfile.read(tmp_path / "p.json", [(5_096_000, 5_176_000, 7)], origin_ns, anchors)
    attributes = json.loads(spans_of(raw, "net")["attributes"][0])
    assert attributes["clock_anchor_disagrees_ns"] == disagrees_ns


def test_a_layer_of_no_time_beside_a_loop_is_not_in_its_body(tmp_path: Path) -> None:
    # Rounded to microseconds: `first` ends where `loop` begins, and `last` begins where it ends.
    events = [node("first", 10, 0), node("inner", 12, 3), executor(11, 5), node("loop", 10, 7), node("last", 17, 0)]
    events += [executor(9, 9), model_run(8, 11)]
    spans = read(tmp_path, events, [(0, 20_000, 1)])
    assert parents(spans) == {"net": None, "first": "net", "loop": "net", "inner": "loop", "last": "net"}


def test_names_that_the_runtime_made_up_are_counted_instead(tmp_path: Path) -> None:
    made = [node("ReorderOutput_token_75", 10, 1), node("ReorderOutput", 12, 1), node("my_token_x", 14, 1)]
    spans = read(tmp_path, [*made, executor(9, 9), model_run(8, 11)], [(0, 20_000, 1)]).sort("start_ns")
    assert spans["name"].to_list() == ["net", "ReorderOutput", "ReorderOutput", "my_token_x"]
    assert [json.loads(text).get("node") for text in spans["attributes"]] == [
        None,
        "ReorderOutput_token_75",
        None,
        None,
    ]


def test_bodies_inside_bodies(tmp_path: Path) -> None:
    events = [node("deep", 20, 2), executor(19, 4), node("if", 18, 6), node("side", 26, 1), executor(15, 15)]
    events += [node("loop", 12, 20), node("after", 33, 2), executor(10, 30), model_run(9, 32)]
    spans = read(tmp_path, events, [(8_000, 42_000, 1)])
    assert parents(spans) == {
        "net": None,
        "loop": "net",
        "after": "net",
        "if": "loop",
        "side": "loop",
        "deep": "if",
    }


def test_a_body_on_another_thread_is_found_by_time_where_only_one_encloses(tmp_path: Path) -> None:
    one_body = [node("inner", 20, 2, track=2), executor(15, 15), node("loop", 12, 20)]
    spans = read(tmp_path, [*one_body, executor(10, 30), model_run(9, 32)], [(8_000, 42_000, 1)])
    assert parents(spans)["inner"] == "loop"
    two_bodies = [*one_body, executor(14, 18, track=3), node("other", 13, 20, track=3)]
    spans = read(tmp_path, [*two_bodies, executor(10, 30), model_run(9, 32)], [(8_000, 42_000, 1)])
    assert parents(spans)["inner"] == "net"


def test_a_profile_that_was_full_gives_the_runs_before_and_says_how_many_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = [node("a", 10, 5), executor(9, 8), model_run(8, 10)]
    calls = [(7_000, 20_000, 1), (30_000, 50_000, 1), (60_000, 80_000, 1)]
    monkeypatch.setattr(ort_profile, "MAX_EVENTS", 4)
    spans = read(tmp_path, [*whole, node("a", 35, 5)], calls)
    assert spans["run"].unique().to_list() == [0]
    assert json.loads(spans["attributes"][0])["runs_not_recorded"] == 2
    with pytest.raises(BackendError, match="ends at 4 events, before the first inference did"):
        read(tmp_path, [node("a", 10 + k, 1) for k in range(4)], calls)


def test_a_profile_of_other_runs_is_refused(tmp_path: Path) -> None:
    whole = [node("a", 10, 5), executor(9, 8), model_run(8, 10)]
    for calls in ([], [(0, 20_000, 1), (20_000, 40_000, 1)]):
        with pytest.raises(BackendError, match=f"holds 1 inferences where {len(calls)} were run"):
            read(tmp_path, whole, calls)


@pytest.mark.parametrize("content", ["", "{}", "[1]", '[{"ph": "X", "name": "model_run"}]', "[{]"])
def test_a_file_that_is_no_profile_is_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "profile.json"
    path.write_text(content)
    with pytest.raises(BackendError, match=r"profile"):
        RawProfile.read(path, [(0, 1, 1)], 0, NO_ANCHORS)
