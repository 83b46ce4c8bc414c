"""The answer as a tree: each number with unit, interval, bound, formula, source and the efficiency level that
made it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from stratoscope.llm.base import Num, Value
from stratoscope.llm.efficiency import Cost, largest

# Where the form of each formula comes from; its constants are those of the efficiency level.
ALPHA_BETA = "Thakur et al., Int. J. High Perform. Comput. Appl. 19, 2005; factors of nccl-tests, doc/PERFORMANCE.md"
FORMULA_SOURCES = {
    "gemm roofline": "Williams et al., Commun. ACM 52, 2009; smooth corner and floor fitted to kernel tables",
    "grouped gemm": "the same with half a tile more rows for each touched expert, fitted to kernel tables",
    "decode attention": "cache bytes over bandwidth with a size-dependent loss, fitted to kernel tables",
    "fused attention": "arXiv 2205.14135 (traffic), 2307.08691 (FLOPs); efficiency over length fitted to kernel tables",
    "stream": "bytes read and written over a share of the bandwidth",
    "measured shape": "the calibration's own table",
    "point to point": ALPHA_BETA,
    "radix sort of logits": "arXiv 2206.01784 (rate of a device-wide sort)",
    "between steps": "the engine's own time: see its source",
    "framework per layer": "calibrated on this machine",
    "host Adam": "arXiv 2101.06840 s. 4.1, 5.1, tab. 4: copies hidden where they can be, Adam at its measured rate",
}


def formula_source(formula: str) -> str:
    """Where the form of a formula comes from."""
    return FORMULA_SOURCES.get(formula, ALPHA_BETA if formula.endswith("alpha-beta") else "")


class Node(Value):
    """One number and the numbers that it is made of."""

    name: str
    value: float
    unit: str
    low: float
    high: float
    bound: str = ""
    formula: str = ""
    source: str = ""
    level: str = ""
    children: tuple[Node, ...] = ()

    def walk(self, depth: int = 0) -> Iterator[tuple[int, Node]]:
        """The node and all below it, with their depth, parents first."""
        yield depth, self
        for child in self.children:
            yield from child.walk(depth + 1)

    def find(self, name: str) -> Node | None:
        """The first node of that name, depth first."""
        return next((node for _, node in self.walk() if node.name == name), None)


class Report(Value):
    """What a question returns: named results, each a tree; what was asked; whether it fits, and by how much."""

    schema_version: int = 1
    kind: str
    model: str
    hardware: str
    level: str
    feasible: bool
    shortfall_bytes: float = Field(default=0.0, ge=0)
    results: dict[str, Node]
    memory: Node
    assumptions: tuple[str, ...] = ()

    def value(self, name: str) -> float:
        """The bare number of a result."""
        return self.results[name].value


@dataclass(frozen=True)
class Term:
    """A cost that happens `count` times, under a group name for the explanation."""

    group: str
    name: str
    cost: Cost
    count: Num = 1.0
    kernels: float = 1.0
    family: str = ""  # errors of one family go together; different families are independent

    @property
    def time(self) -> Num:
        """Seconds of all occurrences."""
        return self.cost.time * self.count


@dataclass(frozen=True)
class Total:
    """A sum of terms with its interval."""

    time: Num
    low: Num
    high: Num


def total(terms: list[Term]) -> Total:
    """The sum; intervals add up inside a family of kernels and in quadrature across families.

    Kernels of one family share the error of their curve; families were fitted apart, so their errors are taken as
    independent.
    """
    families: dict[str, list[Num]] = {}
    time: Num = 0.0
    for term in terms:
        time = time + term.time
        down, up = families.get(term.family, [0.0, 0.0])
        down = down + (term.cost.time - term.cost.low) * term.count
        up = up + (term.cost.high - term.cost.time) * term.count
        families[term.family] = [down, up]
    down = np.sqrt(sum((np.square(pair[0]) for pair in families.values()), start=np.zeros(())))
    up = np.sqrt(sum((np.square(pair[1]) for pair in families.values()), start=np.zeros(())))
    return Total(time, np.maximum(time - down, 0.0), time + up)


def widen(value: Total, stretch: float) -> Total:
    """The interval with both sides `stretch` times as far from the expected value in the logarithm.

    `stretch` comes from rows that were not used to fit anything (`validate.conformal_stretch`).
    """
    time = np.maximum(value.time, 1e-30)
    low, high = (np.power(np.maximum(side, 1e-30) / time, stretch) for side in (value.low, value.high))
    return Total(value.time, value.time * low, value.time * high)


def node_of(name: str, terms: list[Term], unit: str = "s") -> Node:
    """The explanation of a sum of scalar terms: groups, then operators, largest first."""
    groups: dict[str, list[Term]] = {}
    for term in terms:
        if not np.any(np.asarray(term.time) > 0):  # a collective of one rank, hops of one stage
            continue
        groups.setdefault(term.group, []).append(term)
    children = []
    for group, members in groups.items():
        leaves = tuple(_leaf(term, unit) for term in members)
        children.append(_parent(group, members, tuple(sorted(leaves, key=lambda leaf: -leaf.value)), unit))
    return _parent(name, terms, tuple(sorted(children, key=lambda child: -child.value)), unit)


def _leaf(term: Term, unit: str) -> Node:
    cost, count = term.cost, largest(term.count)
    bound = "communication" if term.family == "collective" else cost.bound
    many = f" x {count:g}" if count != 1 else ""
    return Node(
        name=term.name,
        value=largest(term.time),
        unit=unit,
        low=largest(cost.low) * count,
        high=largest(cost.high) * count,
        bound=bound,
        formula=cost.formula + many,
        source=formula_source(cost.formula),
        level=cost.level,
    )


def _parent(name: str, terms: list[Term], children: tuple[Node, ...], unit: str) -> Node:
    summed = total(terms)
    bounds: dict[str, float] = {}
    for term in terms:
        key = "communication" if term.family == "collective" else term.cost.bound
        bounds[key] = bounds.get(key, 0.0) + largest(term.time)
    levels = {term.cost.level for term in terms}
    return Node(
        name=name,
        value=largest(summed.time),
        unit=unit,
        low=largest(summed.low),
        high=largest(summed.high),
        bound=max(bounds, key=lambda key: bounds[key]) if bounds else "",
        formula="sum",
        level="+".join(sorted(levels)),
        children=children,
    )
