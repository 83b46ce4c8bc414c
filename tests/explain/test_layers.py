"""Layers ranked and grouped: hand-made profiles, and the laws that hold for all of them."""

from __future__ import annotations

import math
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratoscope.explain.layers import by_type, flop_rate, layers_for_share, ranked, top, total
from stratoscope.spec.record import LayerRow, ProfileSection
from stratoscope.stats.quantity import Quantity

SLOW = Quantity(value=6e-3, unit="s", statistic="median", n=20, ci_low=5e-3, ci_high=7e-3, confidence=0.95)
QUICK = Quantity(value=1e-3, unit="s", statistic="median", n=10, ci_low=0.9e-3, ci_high=1.1e-3, confidence=0.95)
UNKNOWN = Quantity.unavailable("s", "the span was cut off")
NO_WORK = Quantity.unavailable("FLOP", "no work function for Odd", "count")


def layer(index: int, op: str, time: Quantity, share: float | None, flops: Quantity | None = None) -> LayerRow:
    return LayerRow(
        index=index,
        name=f"{op}_{index}",
        op=op,
        time=time,
        share=share,
        flops=flops or Quantity.exact(1e9, "FLOP"),
        bytes=Quantity.exact(4e6, "byte"),
        parameters=Quantity.exact(100, "1"),
        allocated=Quantity.unavailable("byte", "not told"),
    )


@pytest.fixture
def profile(records: ModuleType) -> ProfileSection:
    """Conv 6 ms and 1 ms, Relu 1 ms, Odd 2 ms without known work: 10 ms in all."""
    odd = Quantity(value=2e-3, unit="s", statistic="median", n=20)
    layers = (
        layer(0, "Conv", QUICK, 0.1),
        layer(1, "Relu", QUICK, 0.1),
        layer(2, "Conv", SLOW, 0.6),
        layer(3, "Odd", odd, 0.2, NO_WORK),
    )
    return with_layers(records, layers)


def with_layers(records: ModuleType, layers: tuple[LayerRow, ...]) -> ProfileSection:
    section: ProfileSection = records.profile_section().model_copy(update={"layers": layers})
    return section


def test_ranking_starts_at_the_slowest_and_its_shares_add_up(profile: ProfileSection) -> None:
    entries = ranked(profile)
    assert [entry.layer.index for entry in entries] == [2, 3, 0, 1]
    assert [entry.rank for entry in entries] == [1, 2, 3, 4]
    assert [entry.cumulative_share for entry in entries] == pytest.approx([0.6, 0.8, 0.9, 1.0])
    assert top(profile, 2) == entries[:2]
    assert top(profile, 99) == entries


def test_a_layer_without_a_time_comes_last_and_ends_the_cumulative_share(records: ModuleType) -> None:
    layers = (layer(0, "Conv", UNKNOWN, None), layer(1, "Relu", QUICK, 1.0))
    entries = ranked(with_layers(records, layers))
    assert [(entry.layer.index, entry.cumulative_share) for entry in entries] == [(1, 1.0), (0, None)]


def test_layers_for_share_counts_the_slowest_that_reach_it(profile: ProfileSection) -> None:
    assert [layers_for_share(profile, share) for share in (0.5, 0.6, 0.61, 0.9, 1.0)] == [1, 1, 2, 3, 4]


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1])
def test_a_share_outside_the_whole_is_refused(profile: ProfileSection, share: float) -> None:
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        layers_for_share(profile, share)


def test_no_layer_is_not_a_top(profile: ProfileSection) -> None:
    with pytest.raises(ValueError, match="at least one"):
        top(profile, 0)


def test_groups_sum_their_layers(profile: ProfileSection) -> None:
    groups = {group.op: group for group in by_type(profile)}
    assert [group.op for group in by_type(profile)] == ["Conv", "Odd", "Relu"]
    conv = groups["Conv"]
    assert (len(conv.layers), conv.share) == (2, pytest.approx(0.7))
    assert conv.time.require() == pytest.approx(7e-3)
    assert (conv.time.ci_low, conv.time.ci_high) == (pytest.approx(5.9e-3), pytest.approx(8.1e-3))
    assert (conv.time.n, conv.time.confidence) == (10, 0.95)
    assert conv.flops.require() == 2e9
    assert conv.bytes.require() == 8e6
    assert conv.parameters.require() == 200
    assert conv.flop_rate.require() == pytest.approx(2e9 / 7e-3)


def test_unknown_work_stays_unknown_in_sums_and_rates(profile: ProfileSection) -> None:
    odd = next(group for group in by_type(profile) if group.op == "Odd")
    assert odd.flops.status == "unavailable"
    assert odd.flop_rate.status == "unavailable"
    assert "no work function for Odd" in (odd.flop_rate.reason or "")


def test_one_unknown_member_makes_the_sum_unknown() -> None:
    summed = total([SLOW, UNKNOWN], "s")
    assert summed.status == "unavailable"
    assert summed.reason == "1 of 2 not known: the span was cut off"


def test_a_sum_has_an_interval_only_where_every_member_has_one() -> None:
    assert total([SLOW, Quantity(value=1e-3, unit="s")], "s").ci_low is None


def test_units_are_not_mixed_in_a_sum() -> None:
    with pytest.raises(ValueError, match="cannot add"):
        total([Quantity.exact(1, "byte")], "s")


def test_a_rate_has_the_interval_of_the_time() -> None:
    rate = flop_rate(Quantity.exact(6e9, "FLOP"), SLOW)
    assert rate.require() == pytest.approx(1e12)
    assert (rate.ci_low, rate.ci_high) == (pytest.approx(6e9 / 7e-3), pytest.approx(6e9 / 5e-3))


@pytest.mark.parametrize(
    ("flops", "time"),
    [
        (NO_WORK, SLOW),
        (Quantity.exact(1, "FLOP"), UNKNOWN),
        (Quantity.exact(1, "FLOP"), Quantity.exact(0.0, "s")),
    ],
)
def test_a_rate_without_work_or_time_is_unavailable(flops: Quantity, time: Quantity) -> None:
    assert flop_rate(flops, time).status == "unavailable"


@given(
    times=st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=30),
    ops=st.lists(st.sampled_from("ABC"), min_size=30, max_size=30),
)
def test_groups_and_ranking_lose_nothing(records: ModuleType, times: list[float], ops: list[str]) -> None:
    whole = math.fsum(times)
    rows = [layer(i, ops[i], Quantity(value=time, unit="s", n=5), time / whole) for i, time in enumerate(times)]
    profile = with_layers(records, tuple(rows))
    assert sum(group.time.require() for group in by_type(profile)) == pytest.approx(whole)
    assert sum(len(group.layers) for group in by_type(profile)) == len(times)
    assert sorted(entry.layer.index for entry in ranked(profile)) == list(range(len(times)))
    assert layers_for_share(profile, 1.0) == len(times)
