"""Run ids sort by time, do not collide, and cannot name a path outside their folder."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratoscope.errors import StoreError
from stratoscope.store.ids import check_run_id, new_run_id

MICROSECONDS = st.integers(min_value=0, max_value=2**55 - 2)


@given(MICROSECONDS, MICROSECONDS)
def test_ids_sort_as_text_in_the_order_of_their_time(earlier: int, later: int) -> None:
    earlier, later = sorted((earlier, later))
    if earlier == later:
        later += 1
    assert new_run_id(earlier * 1000) < new_run_id(later * 1000)


def test_an_id_holds_its_time_in_crockford_base_32() -> None:
    # 2025-11-21T00:00:00Z is 1763683200 s; by hand: int(digits, 32) over Crockford's alphabet gives it back.
    text = new_run_id(1_763_683_200_000_000_000)
    value = 0
    for letter in text[:11]:
        value = value * 32 + "0123456789abcdefghjkmnpqrstvwxyz".index(letter)
    assert len(text) == 16
    assert value == 1_763_683_200_000_000


def test_ten_thousand_ids_differ_and_are_valid() -> None:
    ids = [new_run_id() for _ in range(10_000)]
    assert len(set(ids)) == len(ids)
    assert [check_run_id(run_id) for run_id in ids[:100]] == ids[:100]


@pytest.mark.parametrize("bad", ["", ".", "..", "../x", "a/b", "a\\b", "-x", "x" * 65, "a b", "a\n", "a\0", "é"])
def test_ids_that_could_leave_their_folder_are_refused(bad: str) -> None:
    with pytest.raises(StoreError, match="is not valid"):
        check_run_id(bad)
