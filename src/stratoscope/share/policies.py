"""Which model leaves a full tier: eviction policies that know load cost and size, and never name a model in use."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Protocol

from stratoscope.share.errors import ShareError
from stratoscope.share.wheel import GdWheel

#: Whether a key may be evicted now: nobody has it mapped.
Allowed = Callable[[str], bool]


class Policy(Protocol):
    """The order in which the entries of one tier leave it. Costs are seconds, sizes bytes."""

    name: str

    def insert(self, key: str, cost: float, size: int) -> None:
        """A new entry."""
        ...

    def hit(self, key: str) -> None:
        """The entry was asked for and is there."""
        ...

    def evict(self, allowed: Allowed) -> str | None:
        """Takes the entry out that should go first among those that are allowed; None where none is."""
        ...

    def forget(self, key: str) -> None:
        """The entry was taken out for another reason; harmless for an unknown one."""
        ...


class _Queue:
    """FIFO, or LRU where hits move an entry to the end."""

    def __init__(self, name: str, *, recency: bool) -> None:
        self.name = name
        self._recency = recency
        self._order: OrderedDict[str, None] = OrderedDict()

    def insert(self, key: str, cost: float, size: int) -> None:
        self._order[key] = None

    def hit(self, key: str) -> None:
        if self._recency:
            self._order.move_to_end(key)

    def evict(self, allowed: Allowed) -> str | None:
        victim = next((key for key in self._order if allowed(key)), None)
        if victim is not None:
            del self._order[victim]
        return victim

    def forget(self, key: str) -> None:
        self._order.pop(key, None)


class _Priority:
    """The entry with the least priority leaves; GreedyDual (Young 1994) and its relatives.

    priority = L + value(cost, size, frequency), where L is the priority of the last victim ("inflation"): an entry
    ages as others leave. Equal priorities leave in the order of their last use.
    """

    def __init__(self, name: str, value: Callable[[float, int, int], float], *, aging: bool = True) -> None:
        self.name = name
        self._value = value
        self._aging = aging
        self._inflation = 0.0
        self._clock = 0
        self._entries: dict[str, tuple[float, int, int, int]] = {}  # cost, size, frequency, stamp
        self._heap: list[tuple[float, int, str]] = []

    def insert(self, key: str, cost: float, size: int) -> None:
        self._touch(key, cost, size, 1)

    def hit(self, key: str) -> None:
        cost, size, frequency, _ = self._entries[key]
        self._touch(key, cost, size, frequency + 1)

    def evict(self, allowed: Allowed) -> str | None:
        aside, victim = [], None
        while self._heap and victim is None:
            item = heapq.heappop(self._heap)
            priority, stamp, key = item
            entry = self._entries.get(key)
            if entry is None or entry[3] != stamp:
                continue  # of an earlier use
            if allowed(key):
                victim = key
                del self._entries[key]
                if self._aging:
                    self._inflation = priority
            else:
                aside.append(item)
        for item in aside:
            heapq.heappush(self._heap, item)
        return victim

    def forget(self, key: str) -> None:
        self._entries.pop(key, None)

    def _touch(self, key: str, cost: float, size: int, frequency: int) -> None:
        self._clock += 1
        self._entries[key] = (cost, size, frequency, self._clock)
        priority = self._inflation + self._value(cost, max(1, size), frequency)
        heapq.heappush(self._heap, (priority, self._clock, key))
        if len(self._heap) > 4 * len(self._entries) + 64:
            self._heap = [item for item in self._heap if self._entries.get(item[2], (0, 0, 0, -1))[3] == item[1]]
            heapq.heapify(self._heap)


class S3Fifo:
    """S3-FIFO (Yang et al., SOSP 2023): a small queue that filters, a main queue with two-bit counters, a ghost list.

    Sizes count: the small queue may hold a tenth of the bytes that are there.
    """

    name = "s3-fifo"
    _SMALL: Final = 0.1
    _MOST: Final = 3

    def __init__(self) -> None:
        self._small: OrderedDict[str, None] = OrderedDict()
        self._main: OrderedDict[str, None] = OrderedDict()
        self._ghost: OrderedDict[str, None] = OrderedDict()
        self._count: dict[str, int] = {}
        self._size: dict[str, int] = {}
        self._small_bytes = 0

    def insert(self, key: str, cost: float, size: int) -> None:
        self._count[key], self._size[key] = 0, size
        if key in self._ghost:
            del self._ghost[key]
            self._main[key] = None
        else:
            self._small[key] = None
            self._small_bytes += size

    def hit(self, key: str) -> None:
        self._count[key] = min(self._MOST, self._count[key] + 1)

    def evict(self, allowed: Allowed) -> str | None:
        if not any(allowed(key) for queue in (self._small, self._main) for key in queue):
            return None
        while True:
            limit = self._SMALL * sum(self._size.values())
            # A main queue in which everything is in use would turn for ever.
            if self._small and (self._small_bytes >= limit or not any(map(allowed, self._main))):
                victim = self._from_small(allowed)
            else:
                victim = self._from_main(allowed)
            if victim is not None:
                return victim

    def forget(self, key: str) -> None:
        if key in self._small:
            self._small_bytes -= self._size[key]
        self._small.pop(key, None)
        self._main.pop(key, None)
        self._count.pop(key, None)
        self._size.pop(key, None)

    def _from_small(self, allowed: Allowed) -> str | None:
        key, _ = self._small.popitem(last=False)
        self._small_bytes -= self._size[key]
        if self._count[key] > 0 or not allowed(key):
            self._main[key] = None
            self._count[key] = 0
            return None
        self._ghost[key] = None
        while len(self._ghost) > max(16, len(self._main)):
            self._ghost.popitem(last=False)
        self._drop(key)
        return key

    def _from_main(self, allowed: Allowed) -> str | None:
        key, _ = self._main.popitem(last=False)
        if self._count[key] > 0 or not allowed(key):
            self._main[key] = None
            self._count[key] = max(0, self._count[key] - 1)
            return None
        self._drop(key)
        return key

    def _drop(self, key: str) -> None:
        del self._count[key], self._size[key]


_MAKERS: Final[dict[str, Callable[[], Policy]]] = {
    "gdsf": lambda: _Priority("gdsf", lambda cost, size, frequency: frequency * cost / size),
    "lru": lambda: _Queue("lru", recency=True),
    "lfu": lambda: _Priority("lfu", lambda cost, size, frequency: frequency, aging=False),
    "fifo": lambda: _Queue("fifo", recency=False),
    "greedydual": lambda: _Priority("greedydual", lambda cost, size, frequency: cost),
    "greedydual-size": lambda: _Priority("greedydual-size", lambda cost, size, frequency: cost / size),
    "gd-wheel": lambda: GdWheel("gd-wheel", per_byte=False),
    "gd-wheel-size": lambda: GdWheel("gd-wheel-size", per_byte=True, aligned=True),
    "s3-fifo": S3Fifo,
}
#: Names of all policies, the default first.
POLICIES: Final = tuple(_MAKERS)


def make_policy(name: str) -> Policy:
    """A policy without entries; raises ShareError for an unknown name.

    gdsf (GreedyDual-Size-Frequency, Cherkasova 1998) weighs frequency x load cost / bytes; lfu counts uses while an
    entry is there, as TrIMS's "least commonly used" does; gd-wheel is GD-Wheel as published, gd-wheel-size its
    exact placement with cost / bytes.
    """
    if name not in _MAKERS:
        raise ShareError(f"there is no eviction policy {name!r}", hint=f"choose one of: {', '.join(POLICIES)}")
    return _MAKERS[name]()
