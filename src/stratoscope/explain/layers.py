"""Where the time goes, layer by layer: ranked with cumulative share, grouped by operator, and at which rate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from stratoscope.spec.record import LayerRow, ProfileSection
from stratoscope.stats.quantity import Quantity


@dataclass(frozen=True, slots=True)
class RankedLayer:
    """A layer with its place: `rank` counts from 1 at the slowest; shares are of the summed layer time."""

    rank: int
    layer: LayerRow
    cumulative_share: float | None


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """All layers of one operator: sums over its layers; `flop_rate` is the summed work over the summed time."""

    op: str
    layers: tuple[LayerRow, ...]
    time: Quantity
    share: float | None
    flops: Quantity
    bytes: Quantity
    parameters: Quantity
    flop_rate: Quantity


def ranked(profile: ProfileSection) -> tuple[RankedLayer, ...]:
    """All layers, slowest first, with the share of the layer time that they and all slower ones take together.

    Layers of equal time keep their order in the model; layers without a time come last, without a cumulative share.
    """
    rows = sorted(profile.layers, key=lambda row: (row.time.value is None, -(row.time.value or 0.0), row.index))
    result: list[RankedLayer] = []
    total: float | None = 0.0
    for rank, row in enumerate(rows, start=1):
        total = None if total is None or row.time.value is None or row.share is None else total + row.share
        result.append(RankedLayer(rank, row, total))
    return tuple(result)


def top(profile: ProfileSection, count: int) -> tuple[RankedLayer, ...]:
    """The `count` slowest layers, slowest first; fewer where the model has fewer. Raises ValueError if count < 1."""
    if count < 1:
        raise ValueError(f"count is {count}: at least one layer has to be asked for")
    return ranked(profile)[:count]


def layers_for_share(profile: ProfileSection, share: float) -> int | None:
    """The smallest number of layers that together take at least `share` (0 to 1] of the summed layer time.

    None where the layers that have a time do not reach it. Raises ValueError where `share` is not in (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}: it is a part of the whole, above 0 and at most 1")
    rounding = 1e-9  # shares are floats that add up to 1 only to rounding
    for entry in ranked(profile):
        if entry.cumulative_share is not None and entry.cumulative_share >= share - rounding:
            return entry.rank
    return None


def by_type(profile: ProfileSection) -> tuple[LayerGroup, ...]:
    """The layers grouped by operator, the operator with the most time first; groups without a time last."""
    members: dict[str, list[LayerRow]] = {}
    for row in profile.layers:
        members.setdefault(row.op, []).append(row)
    groups = [_group(op, rows) for op, rows in members.items()]
    return tuple(sorted(groups, key=lambda group: (group.time.value is None, -(group.time.value or 0.0), group.op)))


def flop_rate(flops: Quantity, time: Quantity) -> Quantity:
    """Work over time, in FLOP/s; its interval is that of the time. Unavailable where either is, or the time is zero."""
    if flops.value is None:
        return Quantity.unavailable("FLOP/s", f"work not known: {flops.reason}", "rate")
    if time.value is None:
        return Quantity.unavailable("FLOP/s", f"time not known: {time.reason}", "rate")
    if time.value <= 0:
        return Quantity.unavailable("FLOP/s", "the time is not above zero", "rate")
    if time.ci_low is None or time.ci_high is None or time.ci_low <= 0:
        return Quantity(value=flops.value / time.value, unit="FLOP/s", statistic="rate", n=time.n)
    return Quantity(
        value=flops.value / time.value,
        unit="FLOP/s",
        statistic="rate",
        n=time.n,
        ci_low=flops.value / time.ci_high,
        ci_high=flops.value / time.ci_low,
        confidence=time.confidence,
    )


def total(quantities: Iterable[Quantity], unit: str) -> Quantity:
    """The sum of quantities of one unit, never of a part of them: unavailable where any of them has no value.

    Interval ends are added. The standard error of a sum is at most the sum of the standard errors, whatever the
    correlation, so this interval is no narrower than that of the sum; it is given only where every member has one, all
    of the same confidence.
    """
    parts = list(quantities)
    if any(part.unit != unit for part in parts):
        raise ValueError(f"cannot add {sorted({part.unit for part in parts})} to a sum in {unit}")
    missing = [part for part in parts if part.value is None]
    if missing or not parts:
        why = missing[0].reason if missing else "there is nothing to add"
        return Quantity.unavailable(unit, f"{len(missing)} of {len(parts)} not known: {why}", "sum")
    value = sum(part.require() for part in parts)
    n = min(part.n for part in parts)
    confidences = {part.confidence for part in parts}
    if len(confidences) == 1 and all(part.ci_low is not None for part in parts):
        return Quantity(
            value=value,
            unit=unit,
            statistic="sum",
            n=n,
            ci_low=sum(part.ci_low for part in parts if part.ci_low is not None),
            ci_high=sum(part.ci_high for part in parts if part.ci_high is not None),
            confidence=confidences.pop(),
        )
    return Quantity(value=value, unit=unit, statistic="sum", n=n)


def _group(op: str, rows: Sequence[LayerRow]) -> LayerGroup:
    def summed(pick: Callable[[LayerRow], Quantity], unit: str) -> Quantity:
        return total((pick(row) for row in rows), unit)

    shares = [row.share for row in rows if row.share is not None]
    time = summed(lambda row: row.time, "s")
    flops = summed(lambda row: row.flops, "FLOP")
    return LayerGroup(
        op=op,
        layers=tuple(rows),
        time=time,
        share=sum(shares) if len(shares) == len(rows) else None,
        flops=flops,
        bytes=summed(lambda row: row.bytes, "byte"),
        parameters=summed(lambda row: row.parameters, rows[0].parameters.unit),
        flop_rate=flop_rate(flops, time),
    )
