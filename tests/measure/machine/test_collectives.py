"""Bus bandwidths by nccl-tests' definition, and collectives that run."""

from __future__ import annotations

from typing import Any

import pytest

from stratoscope.measure.machine.collectives import OPERATIONS, CollectiveProbe, bus_factor
from stratoscope.measure.machine.probe import ProbeUnavailable


@pytest.mark.parametrize(
    ("operation", "ranks", "factor"),
    [
        # nccl-tests, doc/PERFORMANCE.md: AllReduce 2(n-1)/n, AllGather and AlltoAll (n-1)/n, Broadcast 1.
        ("all_reduce", 2, 1.0),
        ("all_reduce", 8, 1.75),
        ("all_gather", 4, 0.75),
        ("all_to_all", 4, 0.75),
        ("reduce_scatter", 8, 0.875),
        ("broadcast", 8, 1.0),
    ],
)
def test_bus_factor(operation: str, ranks: int, factor: float) -> None:
    assert bus_factor(operation, ranks) == factor


def test_an_unknown_collective_has_no_bus_bandwidth() -> None:
    with pytest.raises(ValueError, match="no bus bandwidth"):
        bus_factor("gossip", 2)


def test_one_cpu_still_has_two_ranks_and_says_so(make_setting: Any) -> None:
    cases = list(CollectiveProbe().register(make_setting(cpus=(0,))))
    assert {case.parameters["ranks"] for case in cases} == {2}
    assert all("2 ranks share 1 CPU" in case.note for case in cases)


def test_too_little_memory_for_two_processes_is_told(make_setting: Any) -> None:
    assert "960 MiB; probes may use 128" in (CollectiveProbe().check(make_setting(memory_bytes=128 << 20)) or "")


@pytest.mark.slow
@pytest.mark.torch
def test_each_collective_runs_over_gloo_and_a_rank_that_dies_is_told(make_setting: Any) -> None:
    setting = make_setting()
    probe = CollectiveProbe()
    for case in probe.register(setting):
        if case.parameters["bytes"] == 4096:
            with probe.run(case, setting) as prepared:
                assert prepared.operate(2).wall_ns > 0
    group = setting.groups.get("gloo", 2)
    group._processes[1].kill()
    group._processes[1].wait()
    with pytest.raises(ProbeUnavailable, match="ended"):
        group.ask({"operation": OPERATIONS[0], "bytes": 4096, "iterations": 1})
