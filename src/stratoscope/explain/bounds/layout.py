"""The best choice of data layout for each layer when changes of layout cost time: a minimum cut.

Each layer is computed in one of two layouts, at the time of the best call in that layout; a tensor that passes between
layers of different layouts is converted. With two layouts the sum is submodular, and its minimum is a minimum cut
(Greig, Porteous & Seheult, J. R. Stat. Soc. B 51(2), 1989), found here by Dinic's algorithm.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

#: Seconds of a layer by layout that it cannot be computed in: more than any model takes, and still a number.
IMPOSSIBLE = 1e6


@dataclass(frozen=True, slots=True)
class LayoutChoice:
    """The least time in all, and for each layer whether it takes the second layout."""

    seconds: float
    second: tuple[bool, ...]


def best_layouts(
    first: Sequence[float], second: Sequence[float], edges: Sequence[tuple[int, int, float]]
) -> LayoutChoice:
    """The least sum of layers and conversions.

    Args:
        first: seconds of each layer in the first layout; infinite where it cannot be computed in it.
        second: the same for the second.
        edges: (a layer, a layer that reads its output, seconds of converting it).

    Raises:
        ValueError: a layer can be computed in neither layout.
    """
    count = len(first)
    cut = _Cut(count + 2)
    source, sink = count, count + 1
    for index, (a, b) in enumerate(zip(first, second, strict=True)):
        if math.isinf(a) and math.isinf(b):
            raise ValueError(f"layer {index} can be computed in neither layout")
        cut.connect(source, index, min(b, IMPOSSIBLE))  # cut where the layer is on the sink's side: second layout
        cut.connect(index, sink, min(a, IMPOSSIBLE))
    for a_layer, b_layer, cost in edges:
        cut.connect(a_layer, b_layer, cost)
        cut.connect(b_layer, a_layer, cost)
    cut.saturate(source, sink)
    with_source = cut.reachable(source)
    chosen = tuple(index not in with_source for index in range(count))
    total = sum(second[i] if chosen[i] else first[i] for i in range(count))
    total += sum(cost for a_layer, b_layer, cost in edges if chosen[a_layer] != chosen[b_layer])
    return LayoutChoice(total, chosen)


@dataclass(slots=True)
class _Cut:
    """A network and Dinic's maximum flow in it."""

    nodes: int
    target: list[int] = field(default_factory=list)
    room: list[float] = field(default_factory=list)
    out: list[list[int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.out = [[] for _ in range(self.nodes)]

    def connect(self, a: int, b: int, capacity: float) -> None:
        for start, end, room in ((a, b, capacity), (b, a, 0.0)):
            self.out[start].append(len(self.target))
            self.target.append(end)
            self.room.append(room)

    def saturate(self, source: int, sink: int) -> None:
        while (level := self._levels(source))[sink] >= 0:
            place = [0] * self.nodes
            while self._augment(source, sink, level, place):
                pass

    def reachable(self, source: int) -> set[int]:
        return {node for node, level in enumerate(self._levels(source)) if level >= 0}

    def _levels(self, source: int) -> list[int]:
        level = [-1] * self.nodes
        level[source] = 0
        queue = deque([source])
        while queue:
            node = queue.popleft()
            for edge in self.out[node]:
                if self.room[edge] > _NOTHING and level[self.target[edge]] < 0:
                    level[self.target[edge]] = level[node] + 1
                    queue.append(self.target[edge])
        return level

    def _augment(self, source: int, sink: int, level: list[int], place: list[int]) -> bool:
        """Pushes flow along one path of the levels; walks without recursion, since models are deep."""
        path: list[int] = []
        node = source
        while node != sink:
            while place[node] < len(self.out[node]):
                edge = self.out[node][place[node]]
                if self.room[edge] > _NOTHING and level[self.target[edge]] == level[node] + 1:
                    break
                place[node] += 1
            else:
                if not path:
                    return False
                last = path.pop()
                node = self.target[last ^ 1]
                place[node] += 1
                continue
            path.append(edge)
            node = self.target[edge]
        flow = min(self.room[edge] for edge in path)
        for edge in path:
            self.room[edge] -= flow
            self.room[edge ^ 1] += flow
        return True


#: Rounding: less room than this is none. A tenth of a femtosecond.
_NOTHING = 1e-16
