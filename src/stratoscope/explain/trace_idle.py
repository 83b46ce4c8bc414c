"""Why streams were idle: the host was late, or it is the launch overhead between two kernels, or something else."""

from __future__ import annotations

from typing import Final

import polars as pl

from stratoscope.explain.trace_device import device_work

HOST_WAIT: Final = "host wait"
KERNEL_WAIT: Final = "kernel wait"
OTHER: Final = "other"
#: Gaps below this are taken for the overhead between two kernels. HTA's threshold of 30, which its documentation calls
#: nanoseconds, is compared with microseconds.
KERNEL_DELAY_NS: Final = 30_000


def idle_gaps(spans: pl.DataFrame, kernel_delay_ns: int = KERNEL_DELAY_NS) -> pl.DataFrame:
    """The gaps between consecutive work of each stream, with their causes.

    A gap runs from the latest end so far to the next start. Its cause (HTA: `get_idle_time_breakdown`):
    - "host wait": the next work's launch began after the gap had begun: the host did not feed the stream;
    - "kernel wait": else, and the gap is shorter than `kernel_delay_ns`: launch overhead of consecutive kernels;
    - "other": the rest, such as waiting for another stream's event.
    HTA measures from the previous start's end even where earlier work ends later; on streams whose work never overlaps
    that is the same.

    Returns:
        track, start_ns, end_ns, cause, span (the work that ended the gap).
    """
    work = device_work(spans).select("span", "track", "start_ns", "end_ns", "correlation")
    calls = spans.filter(pl.col("kind") == "launch")
    launches = calls.group_by("correlation").agg(launch_ns=pl.col("start_ns").min())
    reach = pl.col("end_ns").cum_max().shift(1).over("track")
    gaps = (
        work.join(launches, on="correlation", how="left")
        .sort("track", "start_ns", "end_ns", "span")
        .with_columns(since=reach)
        .filter(pl.col("start_ns") > pl.col("since"))
    )
    late = (pl.col("launch_ns") > pl.col("since")).fill_null(False)
    short = pl.col("start_ns") - pl.col("since") < kernel_delay_ns
    cause = pl.when(late).then(pl.lit(HOST_WAIT)).when(short).then(pl.lit(KERNEL_WAIT)).otherwise(pl.lit(OTHER))
    return gaps.select("track", start_ns="since", end_ns="start_ns", cause=cause, span="span")


def idle_breakdown(spans: pl.DataFrame, kernel_delay_ns: int = KERNEL_DELAY_NS) -> pl.DataFrame:
    """Idle time of each stream by cause (see `idle_gaps`).

    Returns:
        track, cause, gaps (their number), idle_ns, share of the stream's idle time; by track, longest first.
    """
    gaps = idle_gaps(spans, kernel_delay_ns).with_columns(length=pl.col("end_ns") - pl.col("start_ns"))
    return (
        gaps.group_by("track", "cause")
        .agg(gaps=pl.len(), idle_ns=pl.col("length").sum())
        .with_columns(share=pl.col("idle_ns") / pl.col("idle_ns").sum().over("track"))
        .sort(["track", "idle_ns"], descending=[False, True])
    )
