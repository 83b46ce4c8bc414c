"""The top-down tree of a profile: model > layer > operator > primitive, each with its time and its own time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from stratoscope.spec.profile import OperatorRow, PrimitiveRow
from stratoscope.spec.record import LayerRow, ProfileSection
from stratoscope.stats.quantity import Quantity

#: An operator that spends more than this part of its time on its own is shown, also where it only calls another.
_OWN_PART: Final = 0.05

NodeLevel = Literal["model", "layer", "operator", "primitive", "rest"]


@dataclass(frozen=True, slots=True)
class Node:
    """One line of the tree.

    Attributes:
        time: with all inside, from the runs whose deepest level is this node's.
        self_time: without what is inside at the same level; None where the level has no such thing.
        share: of the unprofiled model time; times of deeper levels are inflated by their tracing.
        detail: sizes, implementation, kind.
        reorder: whether it only brings weights into another layout.
    """

    level: NodeLevel
    name: str
    time: Quantity | None
    self_time: Quantity | None
    share: float | None
    detail: str = ""
    reorder: bool = False
    children: tuple[Node, ...] = ()


def profile_tree(profile: ProfileSection, name: str, *, top: int | None = None, least_share: float = 0.0) -> Node:
    """The tree of `profile` for the model `name`.

    Args:
        top: layers shown, the slowest first; None: all, in the order of execution.
        least_share: operators and primitives with a smaller share of the model time are summed up in one line.
    """
    builder = _Builder(profile, least_share)
    layers: Sequence[LayerRow] = profile.layers
    if top is not None:
        layers = sorted(layers, key=lambda row: -(row.time.value or 0.0))[:top]
    children = [builder.layer(row) for row in layers]
    left = len(profile.layers) - len(layers)
    if left:
        children.append(_rest([row.time for row in profile.layers if row not in layers], "layers", builder.whole))
    if not profile.layers:
        children = builder.operators([row for row in profile.operators if row.depth == 0])
    return Node("model", name, profile.model_time, None, 1.0, children=tuple(children))


class _Builder:
    def __init__(self, profile: ProfileSection, least_share: float) -> None:
        self.whole = profile.model_time.value or 0.0
        self._least = least_share * self.whole
        self._inside: dict[str | None, list[OperatorRow]] = defaultdict(list)
        self._by_layer: dict[str | None, list[OperatorRow]] = defaultdict(list)
        self._primitives: dict[str | None, list[PrimitiveRow]] = defaultdict(list)
        for row in profile.operators:
            self._inside[row.parent].append(row)
            if row.depth == 0:
                self._by_layer[row.layer].append(row)
        for primitive in profile.primitives:
            self._primitives[primitive.parent].append(primitive)

    def layer(self, row: LayerRow) -> Node:
        children = self.operators(self._by_layer.get(row.name, []))
        return Node("layer", row.name, row.time, None, self._share(row.time), row.op, children=tuple(children))

    def operators(self, rows: Sequence[OperatorRow]) -> list[Node]:
        shown = [row for row in rows if (row.time.value or 0.0) >= self._least]
        nodes = [self._operator(row) for row in shown]
        if len(shown) < len(rows):
            nodes.append(_rest([row.time for row in rows if row not in shown], "operators", self.whole))
        return nodes

    def _operator(self, row: OperatorRow) -> Node:
        names = [row.name]
        at = row
        # A call that only passes on is one line with what it calls.
        while len(inner := self._inside[at.site]) and not self._primitives[at.site]:
            longest = max(inner, key=lambda one: one.time.value or 0.0)
            if (at.time.value or 0.0) - (longest.time.value or 0.0) > _OWN_PART * (at.time.value or 0.0):
                break
            names.append(longest.name.removeprefix("aten::"))
            at = longest
        children = [*self.operators(self._inside[at.site]), *self._library(at)]
        return Node(
            "operator",
            " › ".join(names),
            row.time,
            at.self_time,
            self._share(row.time),
            row.shapes or "",
            children=tuple(children),
        )

    def _library(self, row: OperatorRow) -> list[Node]:
        return [
            Node(
                "primitive",
                one.name if one.kind == "compute" else one.kind,
                one.time,
                one.time,
                self._share(one.time),
                " ".join(part for part in (one.library or "", one.implementation or "", one.problem) if part),
                reorder=one.kind == "weight reorder",
            )
            for one in self._primitives[row.site]
        ]

    def _share(self, time: Quantity) -> float | None:
        return None if time.value is None or self.whole <= 0 else time.value / self.whole


def _rest(times: Sequence[Quantity], what: str, whole: float) -> Node:
    total = sum(time.value or 0.0 for time in times)
    time = Quantity(value=total, unit="s", statistic="sum", n=len(times))
    return Node("rest", f"{len(times)} more {what}", time, None, total / whole if whole > 0 else None)
