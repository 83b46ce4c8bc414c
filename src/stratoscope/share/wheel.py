"""GD-Wheel: GreedyDual in constant time with hierarchical cost wheels (Li and Cox, EuroSys 2015)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

#: Wheels and queues a wheel: integer costs below 256^2, as in the reference implementations.
WHEELS: Final = 2
QUEUES: Final = 256
#: Cost of one step of the first wheel: a millisecond; for cost by bytes, a millisecond a 64 MiB.
UNIT_S: Final = 1e-3
UNIT_S_PER_BYTE: Final = 1e-3 / (64 << 20)


class GdWheel:
    """Entries in queues by their remaining cost; a hand for each wheel stands for GreedyDual's L.

    A queue keeps the newest entry at its end, and gives the oldest. `hand_steps` and `migrations` count all work that
    is not constant a request. An entry in use that the hand reaches counts as used now.

    As published, an entry of a higher wheel ignores where the lower hand stands in its round, an error of up to one
    upper slot. `aligned` adds the hand's position to the cost, as hierarchical timing wheels do, and is exact.
    """

    def __init__(
        self,
        name: str = "gd-wheel",
        *,
        per_byte: bool = False,
        aligned: bool = False,
        unit: float | None = None,
        queues: int = QUEUES,
    ) -> None:
        self.name = name
        self.hand_steps = 0
        self.migrations = 0
        self._per_byte = per_byte
        self._aligned = aligned
        self._rest: dict[str, int] = {}  # aligned: what is left of the cost below the slots of the higher wheel
        self._unit = unit if unit is not None else (UNIT_S_PER_BYTE if per_byte else UNIT_S)
        self._queues = queues
        self._wheels = [[OrderedDict[str, None]() for _ in range(queues)] for _ in range(WHEELS)]
        self._hands = [0] * WHEELS
        self._held = [0] * WHEELS
        self._where: dict[str, tuple[int, int]] = {}
        self._cost: dict[str, int] = {}

    def insert(self, key: str, cost: float, size: int) -> None:
        """A new entry at L + its cost."""
        value = cost / max(1, size) if self._per_byte else cost
        self._cost[key] = min(self._queues**WHEELS - self._queues, max(1, round(value / self._unit)))
        self._place(key)

    def hit(self, key: str) -> None:
        """Moves the entry to L + its cost."""
        self._unlink(key)
        self._place(key)

    def evict(self, allowed: Callable[[str], bool]) -> str | None:
        """The allowed entry with the least remaining cost."""
        if not any(map(allowed, self._where)):
            return None
        while True:
            self._advance()
            queue = self._wheels[0][self._hands[0]]
            key = next(iter(queue))
            if allowed(key):
                self.forget(key)
                return key
            self.hit(key)

    def forget(self, key: str) -> None:
        """Drops the entry."""
        if key in self._where:
            self._unlink(key)
            del self._where[key], self._cost[key]
            self._rest.pop(key, None)

    def _place(self, key: str) -> None:
        if self._aligned:
            self._place_aligned(key)
            return
        cost, wheel = self._cost[key], 0
        for level in reversed(range(WHEELS)):
            if round(cost / self._queues**level) > 0:
                wheel = level
                break
        self._put(key, wheel, round(cost / self._queues**wheel))

    def _place_aligned(self, key: str) -> None:
        cost = self._cost[key]
        if cost < self._queues:
            self._put(key, 0, cost)
            return
        rounds, self._rest[key] = divmod(cost + self._hands[0], self._queues)
        self._put(key, 1, rounds)

    def _put(self, key: str, wheel: int, steps: int) -> None:
        slot = (min(steps, self._queues - 1) + self._hands[wheel]) % self._queues
        self._wheels[wheel][slot][key] = None
        self._held[wheel] += 1
        self._where[key] = (wheel, slot)

    def _unlink(self, key: str) -> None:
        wheel, slot = self._where[key]
        del self._wheels[wheel][slot][key]
        self._held[wheel] -= 1

    def _advance(self) -> None:
        """Turns the first wheel's hand to the next queue that holds something."""
        while not self._wheels[0][self._hands[0]]:
            if self._held[0] == 0:
                self._hands[0] = self._queues - 1  # the rest of the round is empty: nothing to look at
            self.hand_steps += 1
            self._hands[0] = (self._hands[0] + 1) % self._queues
            if self._hands[0] == 0:
                self._migrate(1)

    def _migrate(self, wheel: int) -> None:
        """Turns the hand of a higher wheel, and hands its queue down to the wheel below."""
        self.hand_steps += 1
        self._hands[wheel] = (self._hands[wheel] + 1) % self._queues
        if self._hands[wheel] == 0 and wheel + 1 < WHEELS:
            self._migrate(wheel + 1)
        for key in list(self._wheels[wheel][self._hands[wheel]]):
            self._unlink(key)
            rest = self._rest.pop(key) if self._aligned else self._cost[key] % self._queues**wheel
            self._put(key, wheel - 1, round(rest / self._queues ** (wheel - 1)))
            self.migrations += 1
