"""Parents of spans that ran in parallel: taken from a run in which everything ran one after the other, by site."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final

import polars as pl

from stratoscope.trace.correlate import AMBIGUOUS, assign_sites

#: Where a span that `correlate` could not place says so in its attributes.
FLAG: Final = "flagged"


def ambiguous(spans: pl.DataFrame) -> pl.Series:
    """Which spans several others enclose, so that their parent is a guess."""
    told = spans["attributes"].str.json_path_match(f"$.{FLAG}").fill_null("")
    return told.str.starts_with(AMBIGUOUS)


def with_serialised_parents(spans: pl.DataFrame, serialised: Callable[[], pl.DataFrame]) -> tuple[pl.DataFrame, int]:
    """`spans` with the parents that a serialised run gives to ambiguous ones, and how many are still not placed.

    A span is the same in both where level, name and its rank among those of its run (by start) are; its parent is then
    the span of its own run at the site of the serialised parent. Durations stay those of the parallel runs (XSP,
    section III-C). `serialised` is called only where there is something to resolve.
    """
    flags = ambiguous(spans)
    if not flags.any():
        return spans, 0
    ranked = _ranked(spans).with_columns(unclear=flags)
    reference = _ranked(serialised())
    above = reference.select(parent="span", parent_site="site")
    first = reference.filter(pl.col("run") == reference["run"].min())
    wanted = first.join(above, on="parent").select("level", "name", "rank", "parent_site")
    sites = ranked.select("run", parent_site="site", resolved="span")
    joined = (
        ranked.join(wanted, on=["level", "name", "rank"], how="left", maintain_order="left")
        .join(sites, on=["run", "parent_site"], how="left", maintain_order="left")
        .with_columns(
            parent=pl.when(pl.col("unclear") & pl.col("resolved").is_not_null())
            .then(pl.col("resolved"))
            .otherwise(pl.col("parent")),
            left=pl.col("unclear") & pl.col("resolved").is_null(),
        )
    )
    left = int(joined["left"].sum())
    attributes = [
        _without_flag(text) if unclear and not still else text
        for text, unclear, still in joined.select("attributes", "unclear", "left").iter_rows()
    ]
    placed = joined.with_columns(attributes=pl.Series(attributes, dtype=pl.String)).select(spans.columns)
    return assign_sites(placed), left


def _ranked(spans: pl.DataFrame) -> pl.DataFrame:
    rank = pl.col("span").cum_count().over(["run", "level", "name"], order_by=["start_ns", "span"])
    return spans.with_columns(rank=rank)


def _without_flag(text: str | None) -> str | None:
    told = json.loads(text or "{}")
    told.pop(FLAG, None)
    return json.dumps(told) if told else None
