"""Differences between two traces, joined by site."""

from __future__ import annotations

from typing import Any

import pytest

from stratoscope.errors import TraceError
from stratoscope.explain.analyses.leveled_trace import LeveledTrace
from stratoscope.explain.trace_diff import diff_traces
from stratoscope.trace.levels import Level

US = 1e-6


def trace(builder: Any, model: str, layers: dict[str, tuple[float, ...]], own: float = 2) -> LeveledTrace:
    """Layers one after the other, `own` us of the model's own time, one run a value."""
    runs = len(next(iter(layers.values())))
    for run in range(runs):
        builder.add(run, Level.MODEL, model, 0, own + sum(times[run] for times in layers.values()))
        at = 0.0
        for name, times in layers.items():
            builder.add(run, Level.LAYER, name.split("@")[0], at, times[run])
            at += times[run]
    made: LeveledTrace = builder.trace(batch_size=1)
    return made


def by_name(rows: Any) -> dict[str, dict[str, Any]]:
    return {row["site"].split("|")[-1]: row for row in rows.frame.to_dicts()}


def test_changes_of_own_time_add_up_to_that_of_the_whole(make_spans: Any) -> None:
    a = trace(make_spans(), "old", {"conv": (10, 10, 10), "relu": (3, 3, 3), "gone": (4, 4, 4)})
    b = trace(make_spans(), "new", {"conv": (25, 25, 25), "relu": (2, 2, 2), "came": (1, 1, 1)}, own=5)
    found = diff_traces(a, b)
    rows = by_name(found)
    assert found.frame["name"].to_list()[0] == "conv"
    assert [rows[f"30:{name}#0"]["status"] for name in ("conv", "relu", "gone", "came")] == [
        "both",
        "both",
        "only A",
        "only B",
    ]
    assert rows["30:conv#0"]["self_change_s"] == pytest.approx(15 * US)
    assert rows["30:gone#0"]["self_change_s"] == pytest.approx(-4 * US)
    assert rows["30:came#0"]["self_change_s"] == pytest.approx(1 * US)
    assert rows["20:*#0"]["self_change_s"] == pytest.approx(
        3 * US
    )  # the model's name is another: it is the root all the same
    assert found.facts["change_s"] == pytest.approx(14 * US)
    assert found.facts["unexplained_s"] == pytest.approx(0, abs=1e-15)


def test_calls_of_one_name_are_told_apart(make_spans: Any) -> None:
    a = trace(make_spans(), "net", {"conv@0": (10, 10), "conv@1": (20, 20)})
    b = trace(make_spans(), "net", {"conv@0": (10, 10), "conv@1": (30, 30)})
    rows = by_name(diff_traces(a, b))
    assert rows["30:conv#0"]["self_change_s"] == pytest.approx(0)
    assert rows["30:conv#1"]["self_change_s"] == pytest.approx(10 * US)


def test_a_verdict_needs_samples_and_a_difference_beyond_noise(make_spans: Any) -> None:
    near = tuple(100 + k for k in range(12))
    a = trace(make_spans(), "net", {"same": near, "slow": near})
    b = trace(make_spans(), "net", {"same": near[::-1], "slow": tuple(2 * one for one in near)})
    rows = by_name(diff_traces(a, b))
    assert rows["30:same#0"]["verdict"] == "no difference seen"
    assert rows["30:slow#0"]["verdict"] == "slower"
    low, high = rows["30:slow#0"]["total_change_low_s"], rows["30:slow#0"]["total_change_high_s"]
    assert 0 < low < 105.5 * US < high
    few = trace(make_spans(), "net", {"same": (1, 2), "slow": (1, 2)})
    assert by_name(diff_traces(few, few))["30:same#0"]["verdict"] is None


def test_traces_of_different_depth_are_not_compared(make_spans: Any) -> None:
    shallow = make_spans()
    shallow.add(0, Level.MODEL, "net", 0, 5)
    deep = trace(make_spans(), "net", {"conv": (1,)})
    with pytest.raises(TraceError, match="no depth of profiling in common"):
        diff_traces(shallow.trace(batch_size=1), deep)


def test_a_separator_in_the_name_of_the_model_does_not_cut_its_site(make_spans: Any) -> None:
    a = trace(make_spans(), "a|b#1", {"conv": (10,)})
    b = trace(make_spans(), "c\\", {"conv": (12,)})
    rows = by_name(diff_traces(a, b))
    assert rows["30:conv#0"]["self_change_s"] == pytest.approx(2 * US)
    assert diff_traces(a, b).facts["sites_both"] == 2
