"""Everything that `stratoscope trace analyze` tells of a trace, gathered in one value."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

import polars as pl

from stratoscope.explain.trace_device import (
    TemporalBreakdown,
    communication_overlap,
    device_work,
    kernel_breakdown,
    temporal_breakdown,
    type_breakdown,
    whole_steps,
)
from stratoscope.explain.trace_idle import KERNEL_DELAY_NS, idle_breakdown
from stratoscope.explain.trace_launch import launch_stats, queue_summary
from stratoscope.explain.trace_operators import top_operators
from stratoscope.trace.correlate import correlate
from stratoscope.trace.levels import Level

#: Version of `TraceSummary.as_dict`.
SCHEMA: Final = 1


@dataclass(frozen=True, slots=True)
class TraceSummary:
    """The analyses of one trace; each frame as its function documents it. What needs a device is None without one."""

    spans: int
    #: From the first span's start to the last one's end.
    duration_ns: int
    #: Spans that could not be placed in the tree for certain, by reason.
    flagged: dict[str, int]
    #: Level and frame of the slowest operators, or of the level nearest to operators that the trace has.
    operator_level: int
    operators: pl.DataFrame
    kernels: pl.DataFrame | None = None
    types: pl.DataFrame | None = None
    temporal: TemporalBreakdown | None = None
    idle: pl.DataFrame | None = None
    overlap: float | None = None
    launches: dict[str, float | int | None] | None = None
    queues: pl.DataFrame | None = None

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON values; times in nanoseconds, null where there is no device."""
        frames = {key: getattr(self, key) for key in ("operators", "kernels", "types", "idle", "queues")}
        return {
            "schema": SCHEMA,
            "spans": self.spans,
            "duration_ns": self.duration_ns,
            "flagged": self.flagged,
            "operator_level": self.operator_level,
            **{key: None if frame is None else frame.to_dicts() for key, frame in frames.items()},
            "temporal": None if self.temporal is None else asdict(self.temporal),
            "communication_overlap": self.overlap,
            "launches": self.launches,
        }


def summarise(spans: pl.DataFrame, *, all_steps: bool = False, kernel_delay_ns: int = KERNEL_DELAY_NS) -> TraceSummary:
    """Runs all analyses on spans (trace.spans.SPAN_SCHEMA); parents are found where they are not set.

    Device work of the last of several profiler steps is left out unless `all_steps`, as it may be cut off.

    Raises:
        TraceError: the spans do not hold together.
    """
    tree = correlate(spans)
    level = _nearest_to_operators(spans)
    used = spans if all_steps else whole_steps(spans)
    on_device = device_work(used).height > 0
    return TraceSummary(
        spans=spans.height,
        duration_ns=_extent(spans),
        flagged=_flagged(spans, tree.flagged),
        operator_level=level,
        operators=top_operators(tree.spans, level),
        kernels=kernel_breakdown(used) if on_device else None,
        types=type_breakdown(used) if on_device else None,
        temporal=temporal_breakdown(used),
        idle=idle_breakdown(used, kernel_delay_ns) if on_device else None,
        overlap=communication_overlap(used),
        launches=launch_stats(used) if on_device else None,
        queues=queue_summary(used) if on_device else None,
    )


def _extent(spans: pl.DataFrame) -> int:
    if spans.height == 0:
        return 0
    return int(spans["end_ns"].to_numpy().max() - spans["start_ns"].to_numpy().min())


def _flagged(spans: pl.DataFrame, flagged: pl.DataFrame) -> dict[str, int]:
    """By reason; a device's copy of an annotation has no launch, which is nothing to worry about."""
    levels = flagged.join(spans.select("span", "level"), on="span", how="left")
    counted = levels.filter(pl.col("level") > Level.APPLICATION)["why"].value_counts()
    return {str(why): int(count) for why, count in counted.iter_rows()}


def _nearest_to_operators(spans: pl.DataFrame) -> int:
    levels = set(spans.filter(pl.col("kind") == "sync")["level"].to_list())
    order = (Level.OPERATOR, Level.LAYER, Level.LIBRARY, Level.MODEL, Level.APPLICATION)
    return int(next((level for level in order if level in levels), Level.OPERATOR))
