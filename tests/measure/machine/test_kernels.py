"""The compiled kernels do what STREAM says, on any number of threads; and a machine without a compiler is told so."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from stratoscope.measure.machine.arena import OFFSETS, Arena
from stratoscope.measure.machine.compiled import OPERATIONS, Kernels, aligned, aligned_doubles, build_kernels
from stratoscope.measure.machine.peak import KINDS
from stratoscope.measure.machine.probe import ProbeUnavailable

CPUS = tuple(sorted(os.sched_getaffinity(0)))
COUNT = 32 * 3 * 50  # whole blocks for one, two and three threads


def expected(operation: str, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, ...]:
    """STREAM's kernels in NumPy."""
    kernel = operation.removesuffix("_nt")
    return {
        "copy": (a, b, a),
        "scale": (a, 3.0 * c, c),
        "add": (a, b, a + b),
        "triad": (b + 3.0 * c, b, c),
        "read": (a, b, c),
    }[kernel]


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("operation", [name for name in OPERATIONS if name not in {"chase", "chain", "init"}])
def test_a_kernel_computes_what_stream_defines(kernels: Kernels, operation: str, threads: int) -> None:
    if operation.endswith("_nt") and not kernels.has_streaming_stores:
        assert kernels.vector_bytes == 16
        return
    rng = np.random.default_rng(1)
    arrays = [aligned_doubles(COUNT) for _ in range(3)]
    for array in arrays:
        array[:] = rng.normal(size=COUNT)
    wanted = expected(operation, *(array.copy() for array in arrays))
    took = kernels.run(operation, arrays, COUNT, 1, [CPUS[index % len(CPUS)] for index in range(threads)])
    for found, value in zip(arrays, wanted, strict=True):
        np.testing.assert_allclose(found, value, rtol=1e-15, atol=1e-14)  # a fused multiply-add rounds once
    assert took.wall_ns > 0


def test_threads_are_unpinned_afterwards(kernels: Kernels) -> None:
    arrays = [aligned_doubles(256) for _ in range(3)]
    kernels.run("init", arrays, 256, 1, CPUS[:1])
    assert os.sched_getaffinity(0) == set(CPUS)


@pytest.mark.parametrize("lines", [8, 9, 64, 1000, 4096])
def test_the_chase_visits_every_line_once_before_it_comes_back(kernels: Kernels, lines: int) -> None:
    memory = aligned(64 * lines)
    kernels.link(memory, lines, 64, 5)
    assert kernels.cycle(memory, 10 * lines) == lines


def test_a_chase_goes_on_where_it_stopped(kernels: Kernels) -> None:
    memory = aligned(64 * 1000)
    kernels.link(memory, 1000, 64, 5)
    start = memory.ctypes.data
    _, halfway = kernels.chase(start, 504, CPUS[:1])
    _, end = kernels.chase(halfway, 496, CPUS[:1])
    assert halfway != start
    assert end == start


def test_wider_instructions_do_more_in_a_round(kernels: Kernels) -> None:
    flops = {kind: kernels.chain_flops(number) for number, kind in enumerate(KINDS)}
    assert flops["fp32", "128-bit"] == 12 * 2 * 4
    assert flops["fp64", "128-bit"] == 12 * 2 * 2
    assert flops["fp32", "avx2"] in {0, 12 * 2 * 8}
    assert flops["int8", "avx512_vnni"] in {0, 12 * 2 * 64}
    assert kernels.chain_flops(99) == 0


def test_chains_scale_with_their_rounds(kernels: Kernels) -> None:
    few, many = (kernels.chain(0, rounds, CPUS[:1]).cpu_ns for rounds in (100_000, 1_000_000))
    assert 3 * few < many


def test_too_many_threads_are_refused_and_not_started(kernels: Kernels) -> None:
    with pytest.raises(ProbeUnavailable, match="threads cannot be created"):
        kernels.run("read", [aligned_doubles(256)] * 3, 256, 1, [0] * 2000)
    with pytest.raises(ProbeUnavailable, match="threads cannot be created"):
        kernels.fork_join(0, 1)


def test_the_arrays_of_the_arena_do_not_alias_and_are_kept(kernels: Kernels) -> None:
    arena = Arena(kernels, 1)
    arena.reserve(5000)
    first = arena.arrays(320, CPUS[:1])
    assert [array.ctypes.data % 4096 for array in first] == list(OFFSETS)
    assert all(offset % 64 == 0 for offset in OFFSETS)
    whole = arena.arrays(5000, CPUS[:1])[0]
    assert whole.size >= 5000
    assert np.shares_memory(whole, first[0])
    assert arena.arrays(6000, CPUS[:1])[0].size >= 6000


def test_whoever_asks_the_arena_again_gets_other_pages(kernels: Kernels) -> None:
    arena = Arena(kernels, 1)
    arena.reserve(4 * 512)
    asked = [arena.arrays(700, CPUS[:1]) for _ in range(3)]  # 700 doubles lie on two pages: two places
    assert [array.ctypes.data % 4096 for arrays in asked for array in arrays] == list(OFFSETS) * 3
    assert all(array.size >= 700 for arrays in asked for array in arrays)
    first, second, third = (arrays[0][:700] for arrays in asked)
    assert not np.shares_memory(first, second)
    assert first.ctypes.data == third.ctypes.data


def test_on_a_numa_machine_each_team_has_its_own_arrays(kernels: Kernels) -> None:
    arena = Arena(kernels, 2)
    one, two = arena.arrays(320, CPUS[:1]), arena.arrays(320, [CPUS[0], CPUS[-1]])
    assert not np.shares_memory(one[0], two[0])
    assert arena.arrays(320, CPUS[:1])[0].ctypes.data == one[0].ctypes.data


def test_without_a_compiler_there_are_no_kernels_and_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert build_kernels(tmp_path) == (None, "no C compiler on the PATH (cc, gcc or clang)")


def test_a_compiler_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho 'cannot find crt1.o' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    built, why = build_kernels(tmp_path / "cache")
    assert built is None
    assert "cannot find crt1.o" in why


def test_kernels_are_compiled_once_and_a_file_that_others_may_write_is_not_loaded(tmp_path: Path) -> None:
    first, _ = build_kernels(tmp_path)
    (library,) = (tmp_path / "kernels").glob("*.so")
    before = library.stat().st_mtime_ns
    second, _ = build_kernels(tmp_path)
    assert library.stat().st_mtime_ns == before
    library.chmod(0o777)
    third, _ = build_kernels(tmp_path)
    assert library.stat().st_mode & 0o022 == 0
    assert None not in (first, second, third)
