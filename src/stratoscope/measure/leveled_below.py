"""Makes the rows below the layer from spans: operators with their own time, primitives, and what reorders cost."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stratoscope.spec.profile import OperatorRow, PrimitiveRow, Reorders
from stratoscope.stats.quantity import Quantity
from stratoscope.stats.rows import estimate_rows
from stratoscope.trace.levels import Level

_NS: Final = 1e-9
_WEIGHTS: Final = "weight reorder"
_LAYOUT: Final = "layout reorder"

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sites:
    """Spans of one level over all runs of one kind, joined by site.

    Attributes:
        first: one row a site in order of execution: the span of the first run that has it.
        times: seconds [sites, runs] with all inside, NaN where a run lacks the site.
        own: likewise without spans of the same level inside, on the same track.
        above: span id of the first run -> its row in `all_first`, for walking upwards.
    """

    first: pl.DataFrame
    times: Floats
    own: Floats
    above: Mapping[int, dict[str, Any]]

    @classmethod
    def of(cls, spans: pl.DataFrame, level: Level) -> Sites:
        """From correlated spans (trace.spans.SPAN_SCHEMA) of runs at one depth."""
        duration = pl.col("end_ns") - pl.col("start_ns")
        chosen = spans.filter(pl.col("level") == level.value).with_columns(duration_ns=duration)
        inner = (
            chosen.join(chosen.select(parent="span", parent_track="track"), on="parent")
            .filter((pl.col("track") == pl.col("parent_track")) & (pl.col("kind").cast(pl.String) != "exec"))
            .group_by("parent")
            .agg(inner_ns=pl.col("duration_ns").sum())
            .rename({"parent": "span"})
        )
        chosen = chosen.join(inner, on="span", how="left").with_columns(
            own_ns=pl.col("duration_ns") - pl.col("inner_ns").fill_null(0)
        )
        first = chosen.sort("run", "start_ns", "span").unique("site", keep="first", maintain_order=True)
        first = first.with_columns(order=pl.int_range(pl.len()))
        runs = spans["run"].unique().sort()
        place = pl.DataFrame({"run": runs, "column": np.arange(len(runs))})
        located = chosen.join(first.select("site", "order"), on="site").join(place, on="run")
        times = np.full((first.height, len(runs)), np.nan)
        own = times.copy()
        at = (located["order"].to_numpy(), located["column"].to_numpy())
        times[at] = located["duration_ns"].to_numpy() * _NS
        own[at] = located["own_ns"].to_numpy() * _NS
        needed = spans.filter(pl.col("run").is_in(first["run"].unique().implode()))
        rows = needed.select("span", "parent", "level", "name", "site").iter_rows(named=True)
        return cls(first, times, own, {row["span"]: row for row in rows})

    def estimates(self, values: Floats) -> list[Quantity]:
        """The 20 % trimmed mean of each site; a site that is missing in some runs over those that have it."""
        whole = np.asarray(~np.isnan(values).any(axis=1))
        found = iter(estimate_rows(values[whole], "s")) if whole.any() else iter(())
        return [
            next(found) if complete else estimate_rows(row[~np.isnan(row)], "s")[0]
            for complete, row in zip(whole.tolist(), values, strict=True)
        ]

    def ancestors(self, parent: int | None) -> list[dict[str, Any]]:
        """The spans above, the nearest first."""
        found = []
        while parent is not None and parent in self.above:
            row = self.above[parent]
            found.append(row)
            parent = row["parent"]
        return found


def operator_rows(spans: pl.DataFrame) -> list[OperatorRow]:
    """One row an operator site, in the order of execution; `spans` are of runs whose deepest level is OPERATOR."""
    sites = Sites.of(spans, Level.OPERATOR)
    rows = []
    columns = sites.first.select("site", "parent", "name", "attributes").iter_rows(named=True)
    for span, time, own in zip(columns, sites.estimates(sites.times), sites.estimates(sites.own), strict=True):
        above = sites.ancestors(span["parent"])
        told = json.loads(span["attributes"] or "{}")
        rows.append(
            OperatorRow(
                site=span["site"],
                parent=above[0]["site"] if above else None,
                name=span["name"],
                layer=told.get("module") or _nearest(above, Level.LAYER),
                depth=sum(row["level"] == Level.OPERATOR for row in above),
                phase=told.get("phase"),
                time=time,
                self_time=own,
                shapes=_shapes(told.get("shapes")),
            )
        )
    return rows


def primitive_rows(spans: pl.DataFrame, level: Level, model_s: Floats) -> list[PrimitiveRow]:
    """One row a primitive or kernel site; `spans` are of runs whose deepest level is `level`, `model_s` their times."""
    if level == Level.KERNEL:
        spans = spans.filter((pl.col("level") != level.value) | (pl.col("kind").cast(pl.String) != "launch"))
    sites = Sites.of(spans, level)
    whole = float(np.mean(model_s)) if model_s.size else 0.0
    rows = []
    columns = sites.first.select("site", "parent", "name", "attributes").iter_rows(named=True)
    for span, time in zip(columns, sites.estimates(sites.times), strict=True):
        above = sites.ancestors(span["parent"])
        told = json.loads(span["attributes"] or "{}")
        kind = told.get("kind", "compute")
        if level == Level.KERNEL:
            kind = "copy" if str(told.get("activity", "")).startswith("gpu_mem") else "kernel"
        rows.append(
            PrimitiveRow(
                site=span["site"],
                parent=above[0]["site"] if above else None,
                name=span["name"],
                operator=_nearest(above, Level.OPERATOR),
                layer=_nearest(above, Level.LAYER),
                library=told.get("library"),
                implementation=told.get("implementation"),
                kind=kind,
                problem=told.get("problem", ""),
                time=time,
                share=(time.value or 0.0) / whole if whole > 0 else None,
            )
        )
    return rows


def reorders_of(spans: pl.DataFrame, model_s: Floats) -> Reorders | None:
    """Time in reorders an inference, from runs whose deepest level is LIBRARY; None where no primitives were traced."""
    chosen = spans.filter(pl.col("level") == Level.LIBRARY.value)
    if chosen.height == 0:
        return None
    kinds = chosen.select(
        "run", kind=pl.col("attributes").str.json_path_match("$.kind"), duration=pl.col("end_ns") - pl.col("start_ns")
    )
    runs = spans.filter(pl.col("level") == Level.MODEL.value).sort("run")["run"]
    whole = float(np.mean(model_s)) if model_s.size else 0.0

    def total(kind: str) -> tuple[Quantity, float | None, float]:
        found = kinds.filter(pl.col("kind") == kind).group_by("run").agg(pl.col("duration").sum(), count=pl.len())
        joined = pl.DataFrame({"run": runs}).join(found, on="run", how="left").fill_null(0)
        time = estimate_rows(joined["duration"].to_numpy() * _NS, "s")[0]
        counts = joined["count"].to_numpy()
        return time, (time.value or 0.0) / whole if whole > 0 else None, float(counts.mean())

    weights, activations = total(_WEIGHTS), total(_LAYOUT)
    return Reorders(
        weights=weights[0],
        weights_share=weights[1],
        weights_count=weights[2],
        activations=activations[0],
        activations_share=activations[1],
        activations_count=activations[2],
    )


def _nearest(above: list[dict[str, Any]], level: Level) -> str | None:
    return next((row["name"] for row in above if row["level"] == level), None)


def _shapes(told: Any) -> str | None:
    if not isinstance(told, list):
        return None
    shown = ["x".join(map(str, shape)) for shape in told if isinstance(shape, list) and shape]
    return ", ".join(shown) or None
