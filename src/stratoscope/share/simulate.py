"""Runs a request log through a tier under each policy, and says which loads least."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stratoscope.share.errors import ShareError
from stratoscope.share.policies import POLICIES, Policy, make_policy
from stratoscope.share.workload import Workload


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one policy makes of a workload: seconds spent loading, misses, bytes loaded, evictions."""

    policy: str
    requests: int
    misses: int
    load_s: float
    loaded_bytes: int
    evictions: int

    @property
    def miss_ratio(self) -> float:
        """Misses by requests."""
        return self.misses / self.requests


def simulate(workload: Workload, policy: Policy | str, capacity: int) -> Outcome:
    """One pass over the requests with a tier of `capacity` bytes, empty at first.

    A model larger than the tier is loaded at each request and not kept. Every miss is admitted. Nobody holds leases.
    """
    if not workload.requests:
        raise ShareError("a workload without requests shows nothing", hint="draw some, or read a log")
    rule = make_policy(policy) if isinstance(policy, str) else policy
    present: dict[str, int] = {}
    used = misses = evictions = loaded = 0
    load_s = 0.0
    for index in workload.requests:
        key, size, cost = workload.names[index], workload.sizes[index], workload.costs_s[index]
        if key in present:
            rule.hit(key)
            continue
        misses, load_s, loaded = misses + 1, load_s + cost, loaded + size
        if size > capacity:
            continue
        while used + size > capacity:
            victim = rule.evict(_any)
            if victim is None:
                raise ShareError(f"policy {rule.name} names no victim though the tier is full")
            used -= present.pop(victim)
            evictions += 1
        rule.insert(key, cost, size)
        present[key] = size
        used += size
    return Outcome(rule.name, len(workload.requests), misses, load_s, loaded, evictions)


def compare_policies(workload: Workload, capacity: int, names: Iterable[str] = POLICIES) -> list[Outcome]:
    """Outcomes of all policies on the same requests, the least load cost first."""
    return sorted((simulate(workload, name, capacity) for name in names), key=lambda one: (one.load_s, one.policy))


def relative_cost(workloads: Sequence[Workload], share: float, policy: str, base: str = "lru") -> float:
    """Mean over workloads of the load cost of `policy` by that of `base`, at a capacity of `share` of all bytes."""
    ratios = [
        simulate(one, policy, int(share * one.total_bytes())).load_s
        / simulate(one, base, int(share * one.total_bytes())).load_s
        for one in workloads
    ]
    return sum(ratios) / len(ratios)


def _any(_key: str) -> bool:
    return True
