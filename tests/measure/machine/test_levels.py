"""Which working set lies in which level: by hand for one machine, and what a lack of memory does to it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from stratoscope.measure.machine.levels import (
    cache_levels,
    capacity,
    last_cache_bytes,
    memory_array_bytes,
    memory_shortage,
    sweep_sizes,
)
from stratoscope.spec.hardware import Cache

MIB = 1 << 20


def test_working_sets_fill_half_of_each_cache_of_the_threads(make_setting: Any) -> None:
    setting = make_setting()
    assert [(level.name, level.working_set_bytes) for level in cache_levels(setting, 1)] == [
        ("L1", 16 << 10),
        ("L2", 512 << 10),
        ("L3", 16 * MIB),
    ]
    assert [(level.name, level.working_set_bytes) for level in cache_levels(setting, 2)] == [
        ("L1", 32 << 10),
        ("L2", 1 * MIB),
        ("L3", 16 * MIB),
    ]


def test_threads_that_share_a_cache_share_its_size() -> None:
    shared = Cache(level=2, type="unified", size_bytes=2 * MIB, shared_by=4, instances=8)
    assert [capacity(shared, threads) for threads in (1, 4, 5, 32, 64)] == [
        2 * MIB,
        2 * MIB,
        4 * MIB,
        16 * MIB,
        16 * MIB,
    ]


def test_a_level_that_is_hardly_larger_than_the_one_before_is_left_out(make_setting: Any) -> None:
    caches = (
        Cache(level=1, type="data", size_bytes=MIB, shared_by=1, instances=1),
        Cache(level=2, type="unified", size_bytes=2 * MIB, shared_by=1, instances=1),
    )
    assert [level.name for level in cache_levels(make_setting(caches=caches), 1)] == ["L1"]


def test_arrays_in_memory_follow_streams_rule(make_setting: Any) -> None:
    assert memory_array_bytes(make_setting(), 1) == 4 * 32 * MIB


@pytest.mark.parametrize(("allowed", "array"), [(300, 50), (256, 42), (255, None), (128, None), (1, None)])
def test_with_little_memory_arrays_shrink_and_then_no_figure_is_made(
    make_setting: Any, allowed: int, array: int | None
) -> None:
    # Half of what is allowed holds three arrays; together they must be 4 x 32 MiB, else the cache would be timed.
    setting = make_setting(memory_bytes=allowed * MIB)
    found = memory_array_bytes(setting, 1)
    if array is None:
        assert found is None
        assert "MiB of memory are left" in memory_shortage(setting, 1)
    else:
        assert found is not None
        assert found // MIB == array


def test_the_sweep_doubles_from_8_kib_a_thread_to_four_times_the_last_cache(make_setting: Any) -> None:
    sizes = sweep_sizes(make_setting(), 2, 1)
    assert sizes[0] == 16 << 10
    assert sizes[-1] == 128 * MIB
    assert all(b == 2 * a for a, b in pairwise(sizes))


def test_a_machine_that_tells_no_caches_has_a_size_beyond_most(make_setting: Any) -> None:
    setting = make_setting(caches=())
    assert cache_levels(setting, 1) == []
    assert last_cache_bytes((), 4) == 64 * MIB
    assert memory_array_bytes(setting, 1) == 256 * MIB
