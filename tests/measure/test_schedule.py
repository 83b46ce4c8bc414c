"""Send times: constant, Poisson and replayed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from stratoscope.errors import MeasurementError
from stratoscope.measure import schedule
from stratoscope.measure.schedule import constant_rate, poisson, read_trace


@given(rate=st.floats(0.5, 5000), duration=st.floats(0.01, 2), queries=st.integers(1, 500))
def test_constant_rate_covers_duration_and_queries_with_equal_gaps(rate: float, duration: float, queries: int) -> None:
    times = constant_rate(rate, duration, queries)
    assert times[0] == 0
    assert times.size >= queries
    assert times[-1] >= duration * 1e9 - 1
    assert np.abs(np.diff(times) - 1e9 / rate).max(initial=0) <= 1
    assert times.size == queries or times[-2] < duration * 1e9  # no more than needed


@given(
    rate=st.floats(1, 2000), duration=st.floats(0.01, 2), queries=st.integers(1, 300), seed=st.integers(0, 2**64 - 1)
)
def test_poisson_starts_at_zero_covers_and_repeats(rate: float, duration: float, queries: int, seed: int) -> None:
    times = poisson(rate, duration, queries, seed)
    assert times[0] == 0
    assert (np.diff(times) >= 0).all()
    assert times.size >= queries
    assert times[-1] >= duration * 1e9 - 1
    assert times.size == queries or times[-2] < duration * 1e9
    assert (poisson(rate, duration, queries, seed) == times).all()


def test_poisson_gaps_are_exponential_and_counts_have_variance_equal_to_mean() -> None:
    rate = 1000.0
    times = poisson(rate, 50.0, 1, seed=1)
    gaps = np.diff(times) / 1e9
    assert stats.kstest(gaps, "expon", args=(0, 1 / rate)).pvalue > 0.001
    counts = np.histogram(times, bins=np.arange(0, 50e9, 0.1e9))[0]
    assert counts.var() / counts.mean() == pytest.approx(1.0, abs=0.2)


def test_too_many_queries_are_refused_before_memory_is_taken() -> None:
    with pytest.raises(MeasurementError, match="more than the 1000000"):
        constant_rate(1e9, 600, 1)
    with pytest.raises(MeasurementError, match="target_qps"):
        poisson(1e9, 600, 1, 0)


def test_a_trace_counts_from_its_first_send(tmp_path: Path) -> None:
    path = tmp_path / "trace.txt"
    path.write_text("# recorded on a Monday\n10.5\n\n10.75\n 11.0 \n")
    times, note = read_trace(path, 60)
    assert times.tolist() == [0, 250_000_000, 500_000_000]
    assert note is None


def test_a_trace_may_be_json_lines_and_out_of_order(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(json.dumps({"t": t, "size": 3}) + "\n" for t in (0.5, 0.25, 1)))
    times, note = read_trace(path, 60)
    assert times.tolist() == [0, 250_000_000, 750_000_000]
    assert note is not None
    assert "1 steps back" in note


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "no send time"),
        ("0\n-1\n", "line 2"),
        ("0\nnan\n", "line 2"),
        ("inf\n", "line 1"),
        ("0\nsoon\n", "line 2.*no number"),
        ('{"t": true}\n', "no number `t`"),
        ('{"time": 1}\n', "no number `t`"),
        ('{"t": \n', "no JSON object"),
        ("0\n100\n", "longer than the 60 s"),
        ("1" * 500 + "\n", "finite"),
    ],
)
def test_a_bad_trace_is_one_clear_error(tmp_path: Path, text: str, match: str) -> None:
    path = tmp_path / "trace.txt"
    path.write_text(text)
    with pytest.raises(MeasurementError, match=match):
        read_trace(path, 60)


def test_a_trace_that_cannot_be_read_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MeasurementError, match="cannot read trace"):
        read_trace(tmp_path / "absent", 60)
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(MeasurementError, match="no text"):
        read_trace(binary, 60)
    large = tmp_path / "large"
    large.write_text("0\n" * 100)
    monkeypatch.setattr(schedule, "MAX_TRACE_BYTES", 50)
    with pytest.raises(MeasurementError, match="more than 50"):
        read_trace(large, 60)
