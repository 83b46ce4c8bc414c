"""One tier of the hierarchy: a byte budget, a policy, and leases; an entry in use never leaves it.

Pure bookkeeping: who holds the bytes is told by the caller, which also frees what is evicted.
"""

from __future__ import annotations

from dataclasses import dataclass

from stratoscope.share.errors import BudgetError, ShareError
from stratoscope.share.policies import make_policy


@dataclass(slots=True)
class Entry:
    """A model in a tier. `evicted`: it takes no new leases and goes with its last one, but is charged until then."""

    size: int
    cost: float
    leases: int = 0
    evicted: bool = False


@dataclass(frozen=True, slots=True)
class TierStatus:
    """Bytes: in the tier, of those in use, of those evicted and still mapped; and what happened so far."""

    name: str
    policy: str
    budget_bytes: int
    used_bytes: int
    leased_bytes: int
    evicted_bytes: int
    models: int
    hits: int
    misses: int
    evictions: int
    load_s: float


class Tier:
    """Entries by key within `budget` bytes; not thread-safe, its owner holds a lock."""

    def __init__(self, name: str, budget: int, policy: str) -> None:
        self.name = name
        self.budget = budget
        self.entries: dict[str, Entry] = {}
        self.used = 0
        self._policy = make_policy(policy)
        self._hits = self._misses = self._evictions = 0
        self._load_s = 0.0

    def lease(self, key: str) -> bool:
        """Takes a lease on the entry; False where it is not there or was evicted."""
        entry = self.entries.get(key)
        if entry is None or entry.evicted:
            return False
        self._hits += 1
        entry.leases += 1
        self._policy.hit(key)
        return True

    def admit(self, key: str, size: int, cost: float) -> list[str]:
        """Makes room for `key` and takes it in with one lease; returns the keys that had to go.

        Raises:
            BudgetError: it is larger than the budget, or what is in use leaves too little; nothing was changed.
            ShareError: the entry is there already.
        """
        if key in self.entries:
            raise ShareError(f"{key} is in the {self.name} tier already")
        if size > self.budget:
            raise BudgetError(
                f"model {key} takes {size} bytes, more than the {self.budget} of the {self.name} tier",
                hint=f"raise its budget (--{self.name}-budget)",
            )
        idle = sum(entry.size for entry in self.entries.values() if entry.leases == 0)
        if self.used - idle + size > self.budget:
            raise BudgetError(
                f"model {key} takes {size} bytes; of the {self.budget} of the {self.name} tier "
                f"{self.used - idle} are in use",
                hint=f"close a model, or raise the budget (--{self.name}-budget)",
            )
        victims = []
        while self.used + size > self.budget:
            victim = self._policy.evict(lambda other: self.entries[other].leases == 0)
            if victim is None:  # the sums above say that there is one
                raise BudgetError(f"no model can leave the {self.name} tier")
            self._evictions += 1
            self._remove(victim)
            victims.append(victim)
        self.entries[key] = Entry(size, cost, leases=1)
        self.used += size
        self._policy.insert(key, cost, size)
        return victims

    def missed(self) -> None:
        """Counts a request for what is not in the tier."""
        self._misses += 1

    def loaded(self, seconds: float) -> None:
        """Adds the time that a load into this tier took."""
        self._load_s += seconds

    def release(self, key: str) -> bool:
        """Gives a lease back; True where the entry went with it because it had been evicted meanwhile."""
        entry = self.entries[key]
        if entry.leases < 1:
            raise ShareError(f"a lease on {key} was given back twice")
        entry.leases -= 1
        if entry.evicted and entry.leases == 0:
            self._remove(key)
            return True
        return False

    def drop(self, key: str) -> bool:
        """Evicts by hand; True where the entry is gone, False where it stays charged until its last lease ends."""
        entry = self.entries.get(key)
        if entry is None:
            return True
        self._policy.forget(key)
        if not entry.evicted:
            self._evictions += 1
        entry.evicted = True
        if entry.leases:
            return False
        self._remove(key)
        return True

    def status(self) -> TierStatus:
        """Figures of this moment."""
        values = self.entries.values()
        return TierStatus(
            name=self.name,
            policy=self._policy.name,
            budget_bytes=self.budget,
            used_bytes=self.used,
            leased_bytes=sum(entry.size for entry in values if entry.leases),
            evicted_bytes=sum(entry.size for entry in values if entry.evicted),
            models=len(self.entries),
            hits=self._hits,
            misses=self._misses,
            evictions=self._evictions,
            load_s=self._load_s,
        )

    def _remove(self, key: str) -> None:
        self.used -= self.entries.pop(key).size
