"""The bounds of each executed layer, and what it waits for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from stratoscope.explain.bounds.calls import Call, Calls
from stratoscope.explain.bounds.roofline import LAYOUT_CHANGES, Machine, Roofline, roofline
from stratoscope.graph.ir import Layer, Work
from stratoscope.graph.signature import signature
from stratoscope.graph.work_functions.movement import VIEWS
from stratoscope.spec.record import LayerRow
from stratoscope.stats.quantity import Quantity

#: Between layers of the authored model that one executed layer covers, times of library calls are added up.
_SUM: Final = " + "
_MOST_NAMED: Final = 2


@dataclass(frozen=True, slots=True)
class PlacedLayer:
    """A profiled layer with the executed layer that it is (None where that is not known) and what it covers.

    `reads`: the tensors that it waits for; None: its inputs. They differ where between two profiled layers there are
    executed ones without a time (a view that takes none).
    """

    row: LayerRow
    layer: Layer | None
    authored: tuple[Layer, ...]
    own: Work | None
    reads: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Bounded:
    """A layer's bounds.

    Attributes:
        roof: None where its work is not known.
        best: the best verified library call, or None; it may be the layer as it runs now.
        by_layout: best calls by layout, for layers of one authored layer; empty where none was measured.
        by_threads: best calls by number of threads, likewise.
        bound: what counts: `best` where measured, else the roofline, else (unknown, or beaten) the time that it takes
            now. What is not measured or not known never makes a bound lower than what is.
        key: equal for layers whose bound is the same number, so that its error is shared.
        beats_roof: it runs faster than its roofline by more than its interval: the runtime does less than the operator
            asks for (a transpose by strides), or the roof is wrong. The roofline then bounds nothing.
    """

    placed: PlacedLayer
    roof: Roofline | None
    best: Call | None
    by_layout: Mapping[str, Call]
    by_threads: Mapping[int, Call]
    bound: Quantity
    key: str
    beats_roof: bool = False


def bounded(placed: PlacedLayer, machine: Machine, calls: Mapping[str, Calls]) -> Bounded:
    """The bounds of one layer; see `Bounded`."""
    row, layer = placed.row, placed.layer
    roof = roofline(layer, placed.authored, placed.own, machine)
    own = calls.get(signature(layer)) if layer is not None else None
    found = [] if own is None else [own.best]
    whole = None if own is not None else _of_authored(placed.authored, calls)
    if whole is not None:
        found.append(whole)
    one = _only(placed.authored, calls) or own
    best = min(found, key=lambda call: call.seconds.require()) if found else None
    name = row.signature or f"layer {row.index}"
    latest = row.time.ci_high if row.time.ci_high is not None else row.time.value
    beaten = roof is not None and latest is not None and latest < roof.seconds
    if best is not None and row.time.value is not None and row.time.value <= best.seconds.require():
        best = Call(row.time, "as it runs now", "opaque")
    if best is not None:
        return Bounded(
            placed,
            roof,
            best,
            one.by_layout if one else {},
            one.by_threads if one else {},
            best.seconds,
            f"{name} best",
            beaten,
        )
    if roof is not None and not beaten:
        seconds = Quantity.exact(roof.seconds, "s", "roofline")
        return Bounded(placed, roof, None, {}, {}, seconds, f"{name} roof")
    return Bounded(placed, roof, None, {}, {}, row.time, f"{name} now", beaten)


def _of_authored(authored: Sequence[Layer], calls: Mapping[str, Calls]) -> Call | None:
    """The sum of the best calls of the covered layers; None unless every one was measured or is a view."""
    real = [one for one in authored if one.op not in VIEWS]
    found = [calls.get(signature(one)) for one in real]
    known = [one.best for one in found if one is not None]
    if not real or len(known) != len(real):
        return None
    names = list(dict.fromkeys(call.candidate for call in known))
    if len(names) > _MOST_NAMED:
        names = [*names[:_MOST_NAMED], "..."]
    if len(known) == 1:
        return known[0]
    return Call(_added([call.seconds for call in known]), _SUM.join(names), "opaque")


def _only(authored: Sequence[Layer], calls: Mapping[str, Calls]) -> Calls | None:
    """The calls of the one covered layer that is not a view."""
    real = [one for one in authored if one.op not in VIEWS]
    return calls.get(signature(real[0])) if len(real) == 1 else None


def _added(parts: Sequence[Quantity]) -> Quantity:
    ends = [(one.ci_low, one.ci_high) for one in parts if one.ci_low is not None and one.ci_high is not None]
    whole = len(ends) == len(parts)
    return Quantity(
        value=sum(one.require() for one in parts),
        unit="s",
        statistic="sum",
        n=min(one.n for one in parts),
        ci_low=sum(low for low, _ in ends) if whole else None,
        ci_high=sum(high for _, high in ends) if whole else None,
        confidence=parts[0].confidence if whole else None,
    )


def dependences(layers: Sequence[PlacedLayer]) -> list[tuple[int, ...]]:
    """For each layer, by place in the list, the places of the layers whose outputs it reads.

    A layer that is not known in the executed graph waits for the one before it, and the next one for it: what is not
    known to be independent does not run side by side.
    """
    made: dict[str, int] = {}
    before: list[tuple[int, ...]] = []
    wall: int | None = None
    for place, one in enumerate(layers):
        if one.layer is None:
            before.append(tuple(range(place)))
            wall = place
            continue
        names = one.reads if one.reads is not None else input_names(one.layer)
        read = {made[name] for name in names if name in made}
        if wall is not None:
            read.add(wall)
        before.append(tuple(sorted(read)))
        for tensor in one.layer.outputs:
            made[tensor.name] = place
    return before


def input_names(layer: Layer) -> tuple[str, ...]:
    """The names of the inputs that are given."""
    return tuple(tensor.name for tensor in layer.inputs if tensor is not None)


def is_layout_change(row: LayerRow) -> bool:
    """Whether a layer only changes the data layout."""
    return row.op in LAYOUT_CHANGES
