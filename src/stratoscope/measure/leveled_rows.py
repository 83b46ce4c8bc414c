"""Makes the layers of a profile from spans: times with the clock's resolution in them, and the work of each layer."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stratoscope.graph.mapping import ExecutedLayer
from stratoscope.graph.signature import signature
from stratoscope.graph.work import why_unknown, work_of
from stratoscope.measure.leveled_join import BLOCKED_DOMAIN, ExecutedModel, ProfiledLayer, join
from stratoscope.spec.record import LayerRow
from stratoscope.stats.estimators import Statistic, estimate
from stratoscope.stats.quantity import Quantity
from stratoscope.trace.levels import Level

_NS: Final = 1e-9
#: Half of the 95 % interval of the mean rounding error of many layers, each uniform over one unit of the clock.
_UNIFORM_95: Final = 1.96 / math.sqrt(12)

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ProfiledRuns:
    """The spans of the accepted inferences, at the levels that matter here.

    Attributes:
        models: one span an inference, by `run`.
        layers: the layers right under the model, not those in the bodies of control-flow nodes, by `run` and start.
            Where layers are modules (attribute `container`), all of them: one that contains others with its own time.
        nested: how many layers there are in such bodies, in all inferences.
        resolution_ns: unit of the layers' clock, to which durations are rounded down; 0 where they are not rounded.
        side_by_side: whether layers of one inference overlap in time.
    """

    models: pl.DataFrame
    layers: pl.DataFrame
    nested: int
    resolution_ns: int
    side_by_side: bool

    @classmethod
    def of(cls, spans: pl.DataFrame) -> ProfiledRuns:
        """From correlated spans (trace.spans.SPAN_SCHEMA) with one model span a run."""
        models = spans.filter(pl.col("level") == Level.MODEL.value).sort("run")
        duration = (pl.col("end_ns") - pl.col("start_ns")).alias("duration_ns")
        every = spans.filter(pl.col("level") == Level.LAYER.value)
        starts = models.select("run", model_start_ns="start_ns")
        modules = bool(every["attributes"].str.contains('"container"', literal=True).any())
        counted = _own_times(every) if modules else every.join(models.select(parent="span"), on="parent", how="semi")
        layers = (
            counted.join(starts, on="run")
            .with_columns(pl.col("own_ns").alias("duration_ns") if modules else duration)
            .sort("run", "start_ns", "span")
        )
        clock = [json.loads(text) for text in models["attributes"].drop_nulls().unique()]
        resolution = max((int(one["resolution_ns"]) for one in clock if one.get("rounding") == "down"), default=0)
        before = pl.col("end_ns").cum_max().shift(1).over("run")
        plain = layers.filter(~pl.col("span").is_in(layers["parent"].implode())) if modules else layers
        overlap = plain.select((pl.col("start_ns") < before).fill_null(False).any()).item() if plain.height else False
        return cls(models.with_columns(duration), layers, every.height - layers.height, resolution, bool(overlap))

    def model_s(self) -> Floats:
        """Model time of each inference, in seconds."""
        return np.asarray(self.models["duration_ns"].to_numpy() * _NS, dtype=np.float64)

    def layer_counts(self) -> Floats:
        """The number of layers of each inference."""
        return self._by_run(pl.len())

    def sums_s(self) -> Floats:
        """The layers' time of each inference, in seconds, as the clock has it."""
        return self._by_run(pl.col("duration_ns").sum()) * _NS

    def covered_s(self) -> Floats:
        """The time of each inference during which some layer runs: the sum, where no two run side by side."""
        before = pl.max_horizontal(
            pl.col("end_ns").cum_max().shift(1).over("run").fill_null(pl.col("start_ns")), "start_ns"
        )
        return self._by_run((pl.col("end_ns") - pl.col("before")).clip(0).sum(), before=before) * _NS

    def _by_run(self, aggregate: pl.Expr, **columns: pl.Expr) -> Floats:
        found = self.layers.with_columns(**columns).group_by("run").agg(aggregate.alias("value"))
        joined = self.models.select("run").join(found, on="run", how="left", maintain_order="left")
        return joined["value"].fill_null(0).to_numpy().astype(np.float64)


def _own_times(layers: pl.DataFrame) -> pl.DataFrame:
    """Layers with `own_ns`: their duration without that of the layers right inside."""
    duration = pl.col("end_ns") - pl.col("start_ns")
    inner = layers.group_by("parent").agg(inner_ns=duration.sum()).rename({"parent": "span"})
    joined = layers.join(inner, on="span", how="left", maintain_order="left")
    return joined.with_columns(own_ns=duration - pl.col("inner_ns").fill_null(0)).drop("inner_ns")


def resolved(quantity: Quantity, rounded: float, resolution_ns: int) -> Quantity:
    """A time that adds up `rounded` durations, each rounded down to the clock's resolution.

    Half a unit is added for each, the expected loss. The interval gets wider by what that may be off: half a unit for
    one duration, and for many the 95 % interval of a sum of independent uniform errors, which grows with their root.
    """
    if quantity.value is None or resolution_ns == 0 or rounded == 0:
        return quantity
    unit = resolution_ns * _NS
    shift = unit * rounded / 2
    doubt = unit * min(rounded / 2, _UNIFORM_95 * math.sqrt(rounded))
    change: dict[str, Any] = {"value": quantity.value + shift}
    if quantity.ci_low is not None and quantity.ci_high is not None:
        change |= {"ci_low": quantity.ci_low + shift - doubt, "ci_high": quantity.ci_high + shift + doubt}
    return quantity.model_copy(update=change)


def layer_rows(runs: ProfiledRuns, executed: ExecutedModel, shown_run: int, statistic: Statistic) -> list[LayerRow]:
    """One row a layer, in the order of the inference `shown_run`; layers that it does not have come last."""
    sites = runs.layers.group_by("site", maintain_order=True).agg("duration_ns", pl.col("attributes", "name").first())
    times = dict(sites.select("site", "duration_ns").iter_rows())
    shown = {row["site"]: row for row in runs.layers.filter(pl.col("run") == shown_run).iter_rows(named=True)}
    described = {row["site"]: row for row in sites.iter_rows(named=True)}
    order = [*shown, *(site for site in times if site not in shown)]
    told = {site: json.loads(described[site]["attributes"] or "{}") for site in order}
    layers = [_profiled(described[site]["name"], told[site]) for site in order]
    joined = join(executed.nodes, layers) if executed.why is None else [executed.why] * len(layers)
    time = {
        site: resolved(estimate(np.asarray(values) * _NS, "s", statistic), 1, runs.resolution_ns)
        for site, values in times.items()
    }
    total = sum(one.value or 0.0 for one in time.values())
    main = runs.models["track"][0]
    tracks = {track: number for number, track in enumerate(dict.fromkeys([main, *runs.layers["track"].to_list()]))}
    rows = []
    for index, (site, layer, found) in enumerate(zip(order, layers, joined, strict=True)):
        span = shown.get(site)
        rows.append(
            LayerRow(
                index=index,
                name=layer.name,
                op=layer.op,
                output_shape=layer.output_shape,
                output_type=layer.output_type,
                time=time[site],
                share=(time[site].value or 0.0) / total if total > 0 else None,
                start_ns=span and span["start_ns"] - span["model_start_ns"],
                duration_ns=span and span["duration_ns"],
                track=tracks[span["track"]] if span else 0,
                provider=told[site].get("provider"),
                allocated=_count(
                    told[site].get("output_bytes"), "byte", "the back end does not tell what it allocates"
                ),
                **_work(found),
            )
        )
    return rows


def _profiled(name: str, told: dict[str, Any]) -> ProfiledLayer:
    output = (told.get("outputs") or [{}])[0]
    shape = output.get("shape")
    return ProfiledLayer(
        name, told.get("op") or name, output.get("type"), None if shape is None else tuple(int(size) for size in shape)
    )


def _work(found: ExecutedLayer | str) -> dict[str, Any]:
    """The fields of a row that come from the graphs.

    FLOPs and parameters are those of the authored layers that it covers, else its own; bytes are the traffic of the
    executed layer, without what fusion saves.
    """
    if isinstance(found, str):
        return {
            "flops": Quantity.unavailable("FLOP", found),
            "bytes": Quantity.unavailable("byte", found),
            "parameters": Quantity.unavailable("1", found),
        }
    authored = () if _contradicts(found) else found.authored
    why = ", ".join(f"{layer.op}: {why_unknown(layer)}" for layer in authored if work_of(layer) is None)
    why = why or f"{found.layer.op}: {why_unknown(found.layer)}"
    own = found.own_work
    known = found.work if authored else own
    return {
        "authored": tuple(layer.name for layer in authored),
        "flops": _count(None if known is None else known.flops, "FLOP", why),
        "bytes": _count(
            None if own is None else own.bytes_read + own.bytes_written + own.parameter_bytes,
            "byte",
            f"{found.layer.op}: {why_unknown(found.layer)}",
        ),
        "parameters": _count(None if known is None else known.parameters, "1", why),
        "signature": signature(found.layer),
    }


def _contradicts(found: ExecutedLayer) -> bool:
    """Whether a layer does more than the authored layers found for it, which then are not the right ones.

    Fusion only drops work. A blocked layout does more by padding channels, so it contradicts nothing.
    """
    if found.work is None or found.own_work is None or found.layer.domain == BLOCKED_DOMAIN:
        return False
    return found.own_work.flops > found.work.flops


def _count(value: int | None, unit: str, why: str) -> Quantity:
    return Quantity.unavailable(unit, why) if value is None else Quantity.exact(value, unit)


def closest_to_median(values: Sequence[float] | Floats) -> int:
    """The place of the value that is nearest to the median; the first of equals."""
    array = np.asarray(values, dtype=np.float64)
    return int(np.argmin(np.abs(array - np.median(array))))
