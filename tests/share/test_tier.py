"""A tier keeps its budget, never gives up what is in use, and counts what was evicted and is still mapped."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratoscope.share.errors import BudgetError, ShareError
from stratoscope.share.policies import POLICIES
from stratoscope.share.tier import Tier

BUDGET = 100
STEP = st.tuples(st.sampled_from(["open", "close", "evict"]), st.integers(0, 9), st.integers(0, 10**6))


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=20, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 60), min_size=10, max_size=10),
    steps=st.lists(STEP, min_size=100, max_size=100),
)
def test_random_steps_keep_budget_and_leases(policy: str, sizes: list[int], steps: list[tuple[str, int, int]]) -> None:
    """Ten thousand steps in all over the policies and examples; a crash is a close of every lease of a client."""
    tier = Tier("memory", BUDGET, policy)
    held: list[str] = []
    present: set[str] = set()
    for action, number, pick in steps:
        key = f"m{number}"
        if action == "open":
            if tier.lease(key):
                assert key in present
                held.append(key)
            elif key not in tier.entries:
                before = dict(tier.entries)
                try:
                    victims = tier.admit(key, sizes[number], sizes[number] / 10)
                except BudgetError:
                    assert tier.entries == before
                    leased = sum(sizes[int(name[1:])] for name in set(held))
                    assert leased + sizes[number] > BUDGET  # refused only where what is in use leaves too little
                else:
                    assert not set(victims) & set(held)
                    present = present - set(victims) | {key}
                    held.append(key)
        elif action == "close" and held:
            closed = held.pop(pick % len(held))
            if tier.release(closed):
                present.discard(closed)
                assert closed not in held
        elif action == "evict" and tier.drop(key):
            present.discard(key)
            assert key not in held
        assert tier.used == sum(sizes[int(name[1:])] for name in tier.entries) <= BUDGET
        assert set(held) <= set(tier.entries)
        assert set(tier.entries) == present
    for key in held:
        tier.release(key)
    for key in list(tier.entries):
        tier.drop(key)
    assert tier.used == 0


def test_evicted_but_mapped_is_charged_until_the_last_lease_ends() -> None:
    tier = Tier("memory", BUDGET, "lru")
    tier.admit("a", 60, 1.0)
    assert not tier.drop("a")
    assert (tier.status().evicted_bytes, tier.status().used_bytes) == (60, 60)
    assert not tier.lease("a")
    with pytest.raises(BudgetError, match="in use"):
        tier.admit("b", 60, 1.0)
    assert tier.release("a")
    assert tier.admit("b", 60, 1.0) == []


def test_a_lease_cannot_be_given_back_twice_nor_a_model_admitted_twice() -> None:
    tier = Tier("memory", BUDGET, "lru")
    tier.admit("a", 10, 1.0)
    with pytest.raises(ShareError, match="already"):
        tier.admit("a", 10, 1.0)
    tier.release("a")
    with pytest.raises(ShareError, match="twice"):
        tier.release("a")


def test_status_counts_what_happened() -> None:
    tier = Tier("memory", BUDGET, "lru")
    for key in "ab":
        assert not tier.lease(key)
        tier.missed()
        tier.admit(key, 60 if key == "a" else 50, 1.0)
        tier.release(key)
    assert tier.lease("b")
    status = tier.status()
    assert (status.hits, status.misses, status.evictions, status.models, status.leased_bytes) == (1, 2, 1, 1, 50)
