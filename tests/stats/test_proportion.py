"""Wilson's interval, against SciPy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from stratoscope.stats.proportion import proportion, wilson_interval


@given(n=st.integers(1, 5000), share=st.floats(0, 1), confidence=st.sampled_from([0.9, 0.95, 0.99]))
def test_interval_is_scipys_wilson_one(n: int, share: float, confidence: float) -> None:
    k = round(n * share)
    theirs = binomtest(k, n).proportion_ci(confidence, method="wilson")
    assert wilson_interval(k, n, confidence) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_all_right_is_not_certain_and_nothing_is_no_proportion() -> None:
    q = proportion(360, 360)
    assert q.value == 1.0
    assert q.ci_high == 1.0
    assert q.ci_low is not None
    assert 0.98 < q.ci_low < 1
    assert proportion(0, 0).status == "unavailable"
    with pytest.raises(ValueError, match="no proportion"):
        wilson_interval(3, 2)
