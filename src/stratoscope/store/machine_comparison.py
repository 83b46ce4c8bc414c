"""Compares two machine records: each benchmark that both have, the hardware and software that differ, and a count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from stratoscope.spec.machine import MachineRecord, Measurement
from stratoscope.stats.compare import Comparison, compare
from stratoscope.stats.location import MIN_FOR_INTERVAL

#: Two runs of the same benchmark on a quiet machine differ by up to this through layout, clocks and neighbours.
MINIMUM_EFFECT: Final = 0.02

Overlap = Literal["yes", "no", "unknown"]


@dataclass(frozen=True, slots=True)
class BenchmarkComparison:
    """One benchmark in both records; `overlap` says whether the intervals of the two medians do."""

    name: str
    a: Measurement
    b: Measurement
    comparison: Comparison
    overlap: Overlap


@dataclass(frozen=True, slots=True)
class MachineComparison:
    """Two records side by side.

    Attributes:
        rows: benchmarks of the same name with repeats on both sides, in the first record's order.
        only_a, only_b: names that only one of them has.
        aspects: "hardware", "software" where their digests differ.
    """

    a: MachineRecord
    b: MachineRecord
    rows: tuple[BenchmarkComparison, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    aspects: tuple[str, ...]

    @property
    def overlapping(self) -> int:
        """Benchmarks whose intervals overlap."""
        return sum(row.overlap == "yes" for row in self.rows)

    @property
    def judged(self) -> int:
        """Benchmarks that have an interval on both sides."""
        return sum(row.overlap != "unknown" for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """The comparison as JSON values."""
        return {
            "schema": "stratoscope/machine-comparison/1",
            "a": self.a.id,
            "b": self.b.id,
            "differs_in": list(self.aspects),
            "overlapping": self.overlapping,
            "judged": self.judged,
            "benchmarks": [
                {
                    "name": row.name,
                    "a": row.a.time.model_dump(mode="json"),
                    "b": row.b.time.model_dump(mode="json"),
                    "ratio": row.comparison.ratio.model_dump(mode="json"),
                    "verdict": row.comparison.verdict,
                    "p_value": row.comparison.p_value,
                    "intervals_overlap": row.overlap,
                }
                for row in self.rows
            ],
            "only_a": list(self.only_a),
            "only_b": list(self.only_b),
        }


def compare_machines(a: MachineRecord, b: MachineRecord) -> MachineComparison:
    """Compares the times of all benchmarks that both records have; `b` is judged against `a`."""
    first = {m.name: m for m in a.measurements}
    second = {m.name: m for m in b.measurements}
    rows = tuple(
        BenchmarkComparison(
            name,
            m,
            second[name],
            compare(m.samples_s, second[name].samples_s, minimum_effect=MINIMUM_EFFECT),
            _overlap(m, second[name]),
        )
        for name, m in first.items()
        if name in second
    )
    return MachineComparison(
        a=a,
        b=b,
        rows=rows,
        only_a=tuple(name for name in first if name not in second),
        only_b=tuple(name for name in second if name not in first),
        aspects=tuple(name for name in ("hardware", "software") if a.digests.get(name) != b.digests.get(name)),
    )


def _overlap(a: Measurement, b: Measurement) -> Overlap:
    low, high = a.time.ci_low, a.time.ci_high
    other_low, other_high = b.time.ci_low, b.time.ci_high
    if low is None or high is None or other_low is None or other_high is None:
        return "unknown"
    if min(len(a.samples_s), len(b.samples_s)) < MIN_FOR_INTERVAL:
        return "unknown"
    return "yes" if low <= other_high and other_low <= high else "no"
