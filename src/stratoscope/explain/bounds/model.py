"""Bounds of a model from those of its layers: one after the other, side by side, on so many workers, by layout.

Benanza (IPDPS 2020) adds the best library calls, and takes their longest chain. Here each bound says how much of the
time it covers, an unmeasured layer counts as its roofline, and the interval is propagated: layers' times are drawn from
their intervals again and again, equal layers alike, and the whole is computed anew (parametric bootstrap).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stratoscope.explain.bounds.calls import Calls
from stratoscope.explain.bounds.layers import Bounded, PlacedLayer, bounded, dependences, is_layout_change
from stratoscope.explain.bounds.layout import best_layouts
from stratoscope.explain.bounds.roofline import FREE, Machine
from stratoscope.explain.bounds.schedule import list_schedule, longest_path
from stratoscope.spec.advice import GapItem, GraphEdge, LayerBound, ModelBound
from stratoscope.spec.record import ProfileSection
from stratoscope.stats.quantity import Quantity

Floats = NDArray[np.float64]

RESAMPLES: Final = 200
CONFIDENCE: Final = 0.95
_SIGMAS: Final = 1.959964  # half a 95 % interval of a normal law, in standard deviations
_NCHW: Final = ("NCHW", "opaque")
_NHWC: Final = "NHWC"
#: Element by element: such a layer takes the layout that it is given.
_ANY_LAYOUT: Final = frozenset({"Relu", "Add", "Mul", "Sum", "Sub", "Div", "Sigmoid", "Clip", "Sqrt", "Pow", "Dropout"})
#: Operators that are named in the gap; the others are one item.
_ITEMS: Final = 6


@dataclass(frozen=True, slots=True)
class ModelBounds:
    """The bounds, the layers that they are from, what waits for what, and the gap from now to the library bound.

    `beaten`: layers ("Transpose n8") that run faster than their roofline by more than their interval.
    """

    bounds: tuple[ModelBound, ...]
    layers: tuple[LayerBound, ...]
    edges: tuple[GraphEdge, ...]
    gap: tuple[GapItem, ...]
    parallel_gain: float | None
    beaten: tuple[str, ...] = ()


def model_bounds(
    profile: ProfileSection,
    placed: Sequence[PlacedLayer],
    machine: Machine,
    calls: Mapping[str, Calls],
    *,
    workers: int,
    seed: int = 0,
) -> ModelBounds:
    """All bounds of a profiled model.

    Args:
        placed: its profiled layers in the order of execution.
        workers: how many layers may run side by side, each with the threads that the profile was taken with.
    """
    layers = [bounded(one, machine, calls) for one in placed]
    before = dependences(placed)
    draws = _Draws(layers, seed)
    total = sum(one.placed.row.time.value or 0.0 for one in layers)
    called = _share(layers, lambda one: one.best is not None or _is_free(one), total)
    now = profile.model_time
    result: list[ModelBound] = []

    def add(key: str, title: str, time: Quantity, coverage: float, note: str) -> None:
        result.append(
            ModelBound(key=key, title=title, time=time, ratio=_ratio(time, now), coverage=coverage, note=note)
        )

    roofs = [_roof_or_now(one) for one in layers]
    known = _share(layers, lambda one: one.roof is not None, total)
    add("roofline", "Roofline, one layer after the other", _exact(sum(roofs)), known, "coverage: layers of known work")
    library = draws.over(lambda seconds: float(sum(seconds)))
    add("library", "Best library calls, one after the other", library, called, "a layer without one: its roofline")
    bounds = [one.bound.value or 0.0 for one in layers]
    length, path = longest_path(bounds, before)
    parallel = draws.over(lambda seconds: longest_path(seconds, before)[0])
    add("parallel", "Best library calls, longest chain", parallel, called, "with unlimited workers")
    if workers > 1:
        scaled = [{number: call.seconds.require() for number, call in one.by_threads.items()} for one in layers]
        listed = draws.over(lambda seconds: list_schedule(seconds, before, workers, scaled))
        note = "each layer on one worker, or on more as far as its scaling was measured"
        add("workers", f"Best library calls on {workers} workers", listed, called, note)
    layout = _by_layout(layers, before, machine)
    if layout is not None:
        add("layout", "Best library and layout by layer", layout, called, "changes of layout are paid for")
    return ModelBounds(
        tuple(result),
        tuple(_layer_bound(one, place in set(path)) for place, one in enumerate(layers)),
        tuple(
            GraphEdge(source=layers[one].placed.row.index, target=layers[place].placed.row.index)
            for place, waits in enumerate(before)
            if layers[place].placed.layer is not None
            for one in waits
        ),
        tuple(_gap(profile, layers)),
        sum(bounds) / length if length > 0 else None,
        tuple(f"{one.placed.row.op} {one.placed.row.name}" for one in layers if one.beats_roof),
    )


def _is_free(one: Bounded) -> bool:
    return one.roof is not None and one.roof.limited_by == FREE


def _roof_or_now(one: Bounded) -> float:
    """The roofline; of a layer of unknown work, or that beats it, the time that it takes now: that lowers nothing."""
    known = one.roof is not None and not one.beats_roof
    return one.roof.seconds if known and one.roof is not None else one.placed.row.time.value or 0.0


def _share(layers: Sequence[Bounded], which: Callable[[Bounded], bool], total: float) -> float:
    """The part of the layers' time of those for which `which` holds; 1 where nothing takes any time."""
    part = sum(one.placed.row.time.value or 0.0 for one in layers if which(one))
    return min(1.0, part / total) if total > 0 else 1.0


class _Draws:
    """Repeated draws of all layers' bounds; equal layers are drawn alike."""

    def __init__(self, layers: Sequence[Bounded], seed: int) -> None:
        rng = np.random.default_rng(seed)
        self._values = [one.bound.value or 0.0 for one in layers]
        by_key: dict[str, Floats] = {}
        rows: list[Floats] = []
        for one, value in zip(layers, self._values, strict=True):
            low, high = one.bound.ci_low, one.bound.ci_high
            if one.key not in by_key:
                width = 0.0 if low is None or high is None else (high - low) / (2 * _SIGMAS)
                by_key[one.key] = np.maximum(0.0, value + width * rng.standard_normal(RESAMPLES))
            rows.append(by_key[one.key])
        self._table = np.stack(rows, axis=1) if rows else np.zeros((RESAMPLES, 0))

    def over(self, whole: Callable[[Sequence[float]], float]) -> Quantity:
        """`whole` of the layers' bounds, with the interval of its values over the draws."""
        value = whole(self._values)
        if not self._values or bool((self._table == self._table[0]).all()):
            return _exact(value)
        drawn = np.array([whole(row.tolist()) for row in self._table])
        low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        return Quantity(
            value=value,
            unit="s",
            statistic="bound",
            n=RESAMPLES,
            ci_low=min(float(low), value),
            ci_high=max(float(high), value),
            confidence=CONFIDENCE,
        )


def _exact(seconds: float) -> Quantity:
    return Quantity.exact(seconds, "s", "bound")


def _ratio(bound: Quantity, now: Quantity) -> Quantity:
    """Bound over measured time, with the widest interval that both allow."""
    if bound.value is None or now.value is None or now.value <= 0:
        return Quantity.unavailable("1", now.reason or "there is no measured time", "ratio")
    low_now, high_now = now.ci_low or now.value, now.ci_high or now.value
    low = bound.ci_low if bound.ci_low is not None else bound.value
    high = bound.ci_high if bound.ci_high is not None else bound.value
    return Quantity(
        value=bound.value / now.value,
        unit="1",
        statistic="ratio",
        n=now.n,
        ci_low=low / high_now,
        ci_high=high / low_now,
        confidence=CONFIDENCE,
    )


def _by_layout(layers: Sequence[Bounded], before: Sequence[Sequence[int]], machine: Machine) -> Quantity | None:
    """The optimum over layouts; None where nothing was measured with channels last."""
    if not any(_NHWC in one.by_layout for one in layers):
        return None
    first, second = [], []
    for one in layers:
        now = one.bound.value or 0.0
        plain = [call.seconds.require() for name, call in one.by_layout.items() if name in _NCHW]
        best_is_plain = one.best is None or one.best.layout != _NHWC
        first.append(min(plain, default=now) if not best_is_plain else now)
        last = one.by_layout.get(_NHWC)
        agnostic = one.placed.row.op in _ANY_LAYOUT
        second.append(last.seconds.require() if last is not None else now if agnostic else float("inf"))
    edges = [
        (source, place, _conversion_s(layers[source], machine))
        for place, waits in enumerate(before)
        if layers[place].placed.layer is not None
        for source in waits
    ]
    return _exact(best_layouts(first, second, edges).seconds)


def _conversion_s(one: Bounded, machine: Machine) -> float:
    """The least time of converting a layer's output: read once, written once."""
    layer = one.placed.layer
    size = sum(tensor.bytes or 0 for tensor in layer.outputs) if layer is not None else 0
    return machine.traffic_s(2 * size, 2 * size)


def _layer_bound(one: Bounded, critical: bool) -> LayerBound:
    row = one.placed.row
    nothing = Quantity.unavailable("s", "no library call was measured (stratoscope bench fill)", "p25")
    unknown = Quantity.unavailable("s", "its work is not known", "roofline")
    return LayerBound(
        index=row.index,
        name=row.name,
        op=row.op,
        authored=row.authored,
        measured=row.time,
        roofline=unknown if one.roof is None else Quantity.exact(one.roof.seconds, "s", "roofline"),
        limited_by=one.roof.limited_by if one.roof is not None else None,
        best=one.best.seconds if one.best is not None else nothing,
        best_candidate=one.best.candidate if one.best is not None else None,
        bound=one.bound,
        critical=critical,
    )


def _gap(profile: ProfileSection, layers: Sequence[Bounded]) -> list[GapItem]:
    """From the measured time to the sequential library bound; the items add up to the difference exactly."""
    now = profile.model_time.value
    if now is None:
        return []
    between = now - sum(one.placed.row.time.value or 0.0 for one in layers)
    items = [GapItem(title="between layers, less what profiling added", seconds=_exact(between))]
    by_kind: dict[str, list[Bounded]] = {}
    for one in layers:
        kind = "changes of layout" if is_layout_change(one.placed.row) else one.placed.row.op
        by_kind.setdefault(kind, []).append(one)
    gains = {kind: sum(_headroom(one) for one in members) for kind, members in by_kind.items()}
    ordered = sorted((kind for kind in gains if gains[kind] != 0), key=lambda kind: -gains[kind])
    items += [
        GapItem(
            title=kind,
            seconds=_exact(gains[kind]),
            layers=tuple(one.placed.row.name for one in by_kind[kind]),
        )
        for kind in ordered[:_ITEMS]
    ]
    rest = sum(gains[kind] for kind in ordered[_ITEMS:])
    if ordered[_ITEMS:]:
        items.append(GapItem(title="other operators", seconds=_exact(rest)))
    return items


def _headroom(one: Bounded) -> float:
    return (one.placed.row.time.value or 0.0) - (one.bound.value or 0.0)
