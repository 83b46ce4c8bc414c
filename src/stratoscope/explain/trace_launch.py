"""How work got onto the devices: what a launch costs, how long work waits, and how much of it is queued."""

from __future__ import annotations

from typing import Final

import polars as pl

from stratoscope.explain.trace_device import device_work

#: HTA's thresholds (`get_cuda_kernel_launch_stats`): a launch call is slow above the first, a short kernel is one that
#: ran for less time than its launch call took, and a start is delayed above the second.
SLOW_CALL_NS: Final = 50_000
DELAY_NS: Final = 100_000


def launches(spans: pl.DataFrame) -> pl.DataFrame:
    """Each piece of device work that has exactly one launch call in the trace.

    Returns:
        correlation, call (name), call_ns, work (name), type, work_ns, delay_ns: from the end of the call to the start
        of the work, 0 where the work began before (HTA: `launch_delay`), track of the work, start of call and work.
    """
    calls = (
        spans.filter((pl.col("kind") == "launch") & (pl.col("correlation") != 0))
        .filter(pl.len().over("correlation") == 1)
        .select(
            "correlation",
            call="name",
            call_start_ns="start_ns",
            call_end_ns="end_ns",
            call_ns=pl.col("end_ns") - pl.col("start_ns"),
        )
    )
    work = device_work(spans).select(
        "correlation", "type", "track", "start_ns", work="name", work_ns=pl.col("end_ns") - pl.col("start_ns")
    )
    joined = work.join(calls, on="correlation", how="inner", maintain_order="left")
    delay = pl.max_horizontal(pl.col("start_ns") - pl.col("call_end_ns"), pl.lit(0, dtype=pl.Int64))
    return joined.select(
        *("correlation", "call", "call_start_ns", "call_ns", "work", "type", "track", "start_ns", "work_ns"),
        delay_ns=delay,
    )


def launch_stats(spans: pl.DataFrame) -> dict[str, float | int | None]:
    """Summary of `launches`: counts, medians in nanoseconds, and HTA's three outliers.

    `short_work`: work that took less time than its launch call; `slow_calls`: calls above 50 us; `delayed`: starts more
    than 100 us after the call. Medians are null without launches.
    """
    found = launches(spans)
    return {
        "launches": found.height,
        "call_ns_median": found["call_ns"].median(),  # type: ignore[dict-item]
        "work_ns_median": found["work_ns"].median(),  # type: ignore[dict-item]
        "delay_ns_median": found["delay_ns"].median(),  # type: ignore[dict-item]
        "short_work": int((found["work_ns"] < found["call_ns"]).sum()),
        "slow_calls": int((found["call_ns"] > SLOW_CALL_NS).sum()),
        "delayed": int((found["delay_ns"] > DELAY_NS).sum()),
    }


def queue_length(spans: pl.DataFrame) -> pl.DataFrame:
    """Pieces of work launched and not yet started, by stream, whenever that changes.

    Up by one when a launch call begins, down by one when its work starts (HTA: `get_queue_length_time_series`).

    Returns:
        track, time_ns, queued.
    """
    found = launches(spans)
    changes = pl.concat(
        (
            found.select("track", time_ns="call_start_ns", change=pl.lit(1, dtype=pl.Int64)),
            found.select("track", time_ns="start_ns", change=pl.lit(-1, dtype=pl.Int64)),
        )
    )
    return (
        changes.group_by("track", "time_ns")
        .agg(pl.col("change").sum())
        .sort("track", "time_ns")
        .select("track", "time_ns", queued=pl.col("change").cum_sum().over("track"))
    )


def queue_summary(spans: pl.DataFrame) -> pl.DataFrame:
    """By stream: the longest queue and its average over time (each length weighted by how long it lasted).

    Returns:
        track, longest, average (null where the queue changed once only).
    """
    series = queue_length(spans).with_columns(lasted=pl.col("time_ns").shift(-1).over("track") - pl.col("time_ns"))
    weighted = (pl.col("queued") * pl.col("lasted")).sum() / pl.col("lasted").sum()
    whole = pl.when(pl.col("lasted").sum() > 0).then(weighted)
    return series.group_by("track").agg(longest=pl.col("queued").max(), average=whole).sort("track")
