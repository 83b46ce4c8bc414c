"""Which operators and layers took the time: on the host, without what they called, and on the device."""

from __future__ import annotations

import numpy as np
import polars as pl

from stratoscope.trace.check import self_times
from stratoscope.trace.correlate import parent_rows
from stratoscope.trace.levels import Level


def top_operators(spans: pl.DataFrame, level: int = Level.OPERATOR) -> pl.DataFrame:
    """Spans of one level by name, most self time first; `spans` have their parents (trace.correlate.assign_parents).

    Returns:
        name, count, total_ns (of those not inside another span of the same name, so that recursion counts once),
        self_ns (without children on the same track; negative where those overlap), device_ns (of the executions whose
        parent the span is, directly), share of the summed self time.
    """
    parent = parent_rows(spans)
    duration = (spans["end_ns"] - spans["start_ns"]).to_numpy()
    device = np.zeros(spans.height, np.int64)
    work = ((spans["kind"].cast(pl.String) == "exec") & (spans["level"] == Level.KERNEL)).fill_null(False).to_numpy()
    held = np.flatnonzero(work & (parent >= 0))
    np.add.at(device, parent[held], duration[held])
    outer = np.where(_inside_its_like(spans, parent), 0, duration)
    table = pl.DataFrame(
        {"name": spans["name"], "outer": outer, "self": self_times(spans), "device": device, "level": spans["level"]}
    ).filter((pl.col("level") == level) & (spans["kind"].cast(pl.String).fill_null("sync") == "sync"))
    return (
        table.group_by("name")
        .agg(
            count=pl.len(),
            total_ns=pl.col("outer").sum(),
            self_ns=pl.col("self").sum(),
            device_ns=pl.col("device").sum(),
        )
        .with_columns(share=pl.col("self_ns") / pl.col("self_ns").sum())
        .sort(["self_ns", "name"], descending=[True, False])
    )


def _inside_its_like(spans: pl.DataFrame, parent: np.ndarray) -> np.ndarray:
    """Which spans have an ancestor of the same name."""
    name = spans["name"].rank("dense").to_numpy().astype(np.int64)
    inside = np.zeros(spans.height, bool)
    at, above = np.arange(spans.height), parent.copy()
    while True:
        open_ = above >= 0
        at, above = at[open_], above[open_]
        if at.size == 0:
            return inside
        same = name[above] == name[at]
        inside[at[same]] = True
        at, above = at[~same], parent[above[~same]]
