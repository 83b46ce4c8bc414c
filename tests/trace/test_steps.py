"""Steps are kept while somebody listens, know their parent, and cost nothing else."""

from __future__ import annotations

import pytest

from stratoscope.trace.steps import is_listening, listening, note, step


def test_steps_nest_and_end_in_order() -> None:
    with listening() as steps:
        with step("load"):
            with step("map"):
                pass
            note("parse", 1, 2)
        with step("run"):
            pass
    assert [(one.name, one.parent) for one in steps] == [
        ("map", "load"),
        ("parse", "load"),
        ("load", None),
        ("run", None),
    ]
    found = {one.name: one for one in steps}
    assert found["load"].start_ns <= found["map"].start_ns <= found["map"].end_ns <= found["load"].end_ns


def test_a_step_that_fails_is_kept_and_the_error_goes_on() -> None:
    with listening() as steps, pytest.raises(KeyError), step("load"):
        raise KeyError
    assert [one.name for one in steps] == ["load"]


def test_nobody_listens_outside() -> None:
    with listening() as steps:
        assert is_listening()
    with step("later"):
        note("inside", 0, 1)
    assert steps == []
    assert not is_listening()
