"""Spans that a user puts around parts of an application."""

from __future__ import annotations

import contextvars
import json
import threading

import pytest

import stratoscope
from stratoscope.errors import TraceError
from stratoscope.trace.levels import Level


def test_spans_are_recorded_with_their_nesting_and_attributes() -> None:
    with stratoscope.recording() as recorder, stratoscope.span("request", id=7), stratoscope.span("preprocess"):
        pass
    spans = recorder.to_frame()
    assert spans["name"].to_list() == ["request", "preprocess"]
    assert spans["level"].to_list() == [Level.APPLICATION] * 2
    assert spans["parent"].to_list() == [None, spans["span"][0]]
    assert json.loads(spans["attributes"][0]) == {"id": 7}


def test_outside_of_a_recording_nothing_happens() -> None:
    with stratoscope.span("alone"):
        pass
    with stratoscope.recording() as recorder:
        pass
    with stratoscope.span("after"):
        pass
    assert recorder.to_frame().height == 0


def test_innermost_recording_listens() -> None:
    with (
        stratoscope.recording() as outer,
        stratoscope.span("a"),
        stratoscope.recording() as inner,
        stratoscope.span("b"),
    ):
        pass
    assert outer.to_frame()["name"].to_list() == ["a"]
    assert inner.to_frame()["name"].to_list() == ["b"]


def test_thread_with_a_copy_of_the_context_is_recorded_on_its_own_track() -> None:
    def work() -> None:
        with stratoscope.span("there"):
            pass

    with stratoscope.recording() as recorder:
        with stratoscope.span("here"):
            pass
        thread = threading.Thread(target=contextvars.copy_context().run, args=(work,))
        thread.start()
        thread.join()
    spans = recorder.to_frame()
    assert sorted(spans["name"]) == ["here", "there"]
    assert spans["track"].n_unique() == 2


def test_span_closes_when_its_block_raises() -> None:
    with stratoscope.recording() as recorder, pytest.raises(ValueError, match="broken"), stratoscope.span("fails"):
        raise ValueError("broken")
    assert recorder.to_frame()["name"].to_list() == ["fails"]


def test_attributes_that_json_cannot_hold_are_refused() -> None:
    with stratoscope.recording() as recorder, stratoscope.span("odd", thing=object()):
        pass
    with pytest.raises(TraceError, match="not JSON"):
        recorder.to_frame()
