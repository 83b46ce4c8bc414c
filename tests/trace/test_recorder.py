from __future__ import annotations

import json
import threading

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratoscope.errors import TraceError
from stratoscope.trace import recorder as module
from stratoscope.trace.correlate import correlate
from stratoscope.trace.levels import Level
from stratoscope.trace.recorder import Recorder
from stratoscope.trace.spans import SPAN_SCHEMA


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that advances by 10 ns at each reading, from 0."""
    now = iter(range(0, 10**9, 10))
    monkeypatch.setattr(module, "_clock", lambda: next(now))


@pytest.mark.usefixtures("ticks")
def test_spans_nest_as_the_code_does() -> None:
    recorder = Recorder()
    with recorder.span(Level.APPLICATION, "request"):
        with recorder.span(Level.MODEL, "net"):
            pass
        recorder.run = 1
        with recorder.span(Level.MODEL, "net"):
            pass
    spans = recorder.to_frame()
    assert dict(spans.schema) == dict(SPAN_SCHEMA)
    assert spans.select("span", "parent", "level", "name", "start_ns", "end_ns", "run").rows() == [
        (0, None, 10, "request", 0, 50, 0),
        (1, 0, 20, "net", 10, 20, 0),
        (2, 0, 20, "net", 30, 40, 1),
    ]
    assert set(spans["track"]) == {threading.get_native_id()}


@pytest.mark.usefixtures("ticks")
def test_levels_below_the_deepest_leave_nothing_and_read_no_clock() -> None:
    recorder = Recorder(Level.MODEL)
    with recorder.span(Level.MODEL, "net"), recorder.span(Level.LAYER, "conv"), recorder.span(Level.KERNEL, "gemm"):
        pass
    assert recorder.to_frame().select("name", "start_ns", "end_ns").rows() == [("net", 0, 10)]
    off = Recorder(0)
    with off.span(Level.APPLICATION, "request"):
        pass
    assert off.to_frame().equals(pl.DataFrame(schema=SPAN_SCHEMA))


def test_a_span_closes_when_its_block_raises() -> None:
    recorder = Recorder()
    with pytest.raises(ZeroDivisionError), recorder.span(Level.MODEL, "net"):
        _ = 1 / 0
    with recorder.span(Level.MODEL, "next"):
        pass
    assert recorder.to_frame()["parent"].to_list() == [None, None]
    assert recorder.to_frame()["name"].to_list() == ["net", "next"]


def test_children_of_a_span_that_is_still_open_are_roots_so_far() -> None:
    recorder = Recorder()
    with recorder.span(Level.APPLICATION, "request"):
        with recorder.span(Level.MODEL, "net"):
            pass
        assert recorder.to_frame().select("name", "parent").rows() == [("net", None)]
    assert recorder.to_frame().select("name", "parent").rows() == [("request", None), ("net", 0)]


def test_attributes_go_to_their_own_span_also_when_it_is_made_before_it_opens() -> None:
    recorder = Recorder()
    made = recorder.span(Level.LAYER, "late", {"k": 1})
    with recorder.span(Level.MODEL, "net", {"batch": 4}), recorder.span(Level.LAYER, "plain"), made:
        pass
    told = {name: text and json.loads(text) for name, text in recorder.to_frame().select("name", "attributes").rows()}
    assert told == {"net": {"batch": 4}, "plain": None, "late": {"k": 1}}
    with recorder.span(Level.LAYER, "bad", {"value": object()}):
        pass
    with pytest.raises(TraceError, match="not JSON"):
        recorder.to_frame()


def test_threads_have_tracks_of_their_own_and_ids_do_not_clash() -> None:
    recorder = Recorder()
    barrier = threading.Barrier(4)  # all alive at once, or the system gives one thread's id to the next

    def work(number: int) -> None:
        barrier.wait()
        for _ in range(200):
            with recorder.span(Level.MODEL, f"m{number}"), recorder.span(Level.LAYER, f"l{number}"):
                pass
        barrier.wait()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spans = recorder.to_frame()
    assert spans.height == 4 * 400
    assert spans["span"].n_unique() == spans.height
    assert spans["track"].n_unique() == 4
    pairs = spans.join(spans, left_on="parent", right_on="span", suffix="_of_parent")
    assert pairs.height == 4 * 200
    assert (pairs["name"].str.slice(1) == pairs["name_of_parent"].str.slice(1)).all()
    assert (pairs["track"] == pairs["track_of_parent"]).all()


@settings(deadline=None, max_examples=60)
@given(st.recursive(st.just([]), lambda inner: st.lists(inner, max_size=3), max_leaves=12))
def test_parents_by_time_are_those_that_the_recorder_knows(tree: list[object]) -> None:
    recorder = Recorder()

    def walk(node: list[object], level: int) -> None:
        with recorder.span(level, f"at {level}"):
            for child in node:
                assert isinstance(child, list)
                walk(child, level + 1)

    walk(tree, 10)
    spans = recorder.to_frame()
    by_time = correlate(spans.with_columns(parent=pl.lit(None, pl.Int64)))
    assert by_time.spans["parent"].to_list() == spans["parent"].to_list()
    assert by_time.flagged.height == 0
