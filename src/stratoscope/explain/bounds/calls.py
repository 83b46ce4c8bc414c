"""The best verified library call for a layer, from measurements of parts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from stratoscope.spec.performance import PartMeasurement
from stratoscope.stats.quantity import Quantity

#: Cache protocols, the one to prefer first: that with L2 flushed comes nearest to a layer inside a model.
PREFERRED: Final = ("flushed", "hot", "evicted")
#: Precision of the bounds: others compute something else.
PRECISION: Final = "float32"


@dataclass(frozen=True, slots=True)
class Call:
    """A library call: its time, and the candidate's name and layout."""

    seconds: Quantity
    candidate: str
    layout: str


@dataclass(frozen=True, slots=True)
class Calls:
    """The calls that were measured for one part: the best, the best by layout, and the best by number of threads."""

    best: Call
    by_layout: Mapping[str, Call]
    by_threads: Mapping[int, Call]


def best_calls(
    measurements: Iterable[PartMeasurement], threads: int, *, precision: str = PRECISION
) -> dict[str, Calls]:
    """By digest of the part, the best calls with `threads`; parts without a verified call in `precision` are absent.

    Only what is ok counts: outputs that differ from the reference, failures and refusals are no calls, and neither is
    another precision. All candidates of a part are compared under one cache protocol, the first of `PREFERRED` that it
    was measured under. A measurement that is there twice counts once.
    """
    found: dict[str, dict[tuple[str, str, str, str], PartMeasurement]] = defaultdict(dict)
    for one in measurements:
        if one.status == "ok" and one.candidate.precision == precision and one.seconds().value is not None:
            found[one.part.digest][one.key] = one
    result: dict[str, Calls] = {}
    for digest, unique in found.items():
        mine = [one for one in unique.values() if one.protocol.threads == threads]
        cache = next((name for name in PREFERRED if any(one.protocol.cache == name for one in mine)), None)
        if cache is None:
            continue
        mine = [one for one in mine if one.protocol.cache == cache]
        layouts: dict[str, Call] = {}
        for layout in {one.candidate.layout for one in mine}:
            layouts[layout] = _best(one for one in mine if one.candidate.layout == layout)
        others = {
            number: _best(
                one for one in unique.values() if (one.protocol.threads, one.protocol.cache) == (number, cache)
            )
            for number in {one.protocol.threads for one in unique.values() if one.protocol.cache == cache}
        }
        result[digest] = Calls(_best(mine), layouts, others)
    return result


def _best(measurements: Iterable[PartMeasurement]) -> Call:
    one = min(measurements, key=lambda measured: measured.seconds().require())
    return Call(one.seconds(), one.candidate.name, one.candidate.layout)
