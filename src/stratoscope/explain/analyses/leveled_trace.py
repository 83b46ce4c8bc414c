"""A leveled trace: the spans of many runs with what each run was, so that a level's time comes from its own runs.

A profiler at one level measures that level and inflates all above it (XSP, arXiv 1908.06869, section III-C). So each
run has a deepest level that was switched on, and an analysis takes the time of a level only from runs whose deepest
level is that one.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stratoscope.errors import TraceError
from stratoscope.explain.analyses.facts import has_counters
from stratoscope.explain.analyses.samples import NOTHING, Estimate, estimate_s
from stratoscope.spec.record import GraphSection, LayerRow, RunRecord, SweepPoint
from stratoscope.trace.correlate import SITE_SEPARATOR, assign_sites, correlate, parent_rows
from stratoscope.trace.levels import Level
from stratoscope.trace.spans import SPAN_SCHEMA

#: Level names by number, for texts.
LEVEL_NAMES: Final = {level.value: level.name.lower() for level in Level}
#: The levels that stand for kernels, the better first: on a CPU calls of a library (oneDNN, MKL) take their place.
PRIMITIVES: Final = (Level.KERNEL, Level.LIBRARY)


@dataclass(frozen=True, slots=True)
class Run:
    """One repeat.

    Attributes:
        run: its number in the span table.
        deepest: the deepest level that was traced in it.
        batch_size: inputs of its inference; None where it is not told.
        replayed: hardware counters were collected, by replaying kernels: its metrics count, its times do not.
    """

    run: int
    deepest: int
    batch_size: int | None = None
    replayed: bool = False


@dataclass(frozen=True)
class LeveledTrace:
    """Spans with parents and sites (trace.spans.SPAN_SCHEMA), and their runs. Make it with `of` or `of_record`.

    Attributes:
        model_times: model time by batch size from unprofiled inferences whose spans were not kept.
        sweep: latency by batch size, likewise.
        layers: rows of the record's profile, whose work the spans do not hold.
        graph: the record's summary of the model's graph, which is bound at `graph_batch` inputs.
        requests: one row a sample of the load, as the store keeps them.
        notes: what was found wrong when the trace was put together.
    """

    spans: pl.DataFrame
    runs: tuple[Run, ...]
    model_times: Mapping[int | None, Estimate] = field(default_factory=dict)
    sweep: tuple[SweepPoint, ...] = ()
    layers: tuple[LayerRow, ...] = ()
    graph: GraphSection | None = None
    graph_batch: int | None = None
    requests: pl.DataFrame | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        spans: pl.DataFrame,
        *,
        deepest: Mapping[int, int] | int | None = None,
        batch_size: Mapping[int, int] | int | None = None,
        replayed: Collection[int] = (),
        **known: Any,
    ) -> LeveledTrace:
        """From a span table, which may have columns `deepest` and `batch_size` beside those of SPAN_SCHEMA.

        Args:
            deepest: deepest traced level, of all runs or by run. Default: the column, else the attribute `deepest` of
                the run's model span, else the deepest level of which the run has a span.
            batch_size: likewise; default: the column or the attribute, else not known.
            replayed: runs in which counters were collected; runs with counters on launch spans are found by themselves.
            known: further fields.

        Parents and sites are assigned where some are missing. Sites of launches and executions are counted anew, apart
        from each other and in the order of launch: the device gets to them in another order in every run.

        Raises:
            TraceError: a parent is not in the table, spans share an id, or a run's deepest level is above its spans'.
        """
        flagged = ""
        if spans.height and spans["site"].null_count():
            found = correlate(spans.select(list(SPAN_SCHEMA)))
            flagged = f"{found.flagged.height} spans could not be placed for certain" if found.flagged.height else ""
            placed = assign_sites(found.spans)
            spans = spans.with_columns(placed["parent"], placed["site"])
        runs = _runs(spans, deepest, batch_size, replayed)
        return cls(_steady(spans.select(list(SPAN_SCHEMA))), runs, notes=(flagged,) if flagged else (), **known)

    @classmethod
    def of_record(
        cls, record: RunRecord, spans: pl.DataFrame | None, requests: pl.DataFrame | None = None
    ) -> LeveledTrace:
        """From a stored run: its spans, and what its record holds of unprofiled inferences, batch sizes and work."""
        batch = record.scenario.batch_size
        profile = record.profile
        times: dict[int | None, Estimate] = {}
        if profile is not None and profile.model_time.value is not None:
            time = profile.model_time
            times[batch] = Estimate(time.value, time.ci_low, time.ci_high, time.n)
        return cls.of(
            pl.DataFrame(schema=SPAN_SCHEMA) if spans is None else spans,
            batch_size=batch,
            model_times=times,
            sweep=() if record.sweep is None else record.sweep.points,
            layers=() if profile is None else profile.layers,
            graph=record.graph,
            graph_batch=batch,
            requests=requests,
        )

    @cached_property
    def parents(self) -> NDArray[np.int64]:
        """The row of each span's parent, -1 at a root."""
        return parent_rows(self.spans)

    @cached_property
    def durations(self) -> NDArray[np.int64]:
        """Each span's duration in ns."""
        return (self.spans["end_ns"] - self.spans["start_ns"]).to_numpy().astype(np.int64)

    @cached_property
    def batch_sizes(self) -> tuple[int | None, ...]:
        """The batch sizes of the runs, ascending, an unknown one first."""
        return tuple(sorted({run.batch_size for run in self.runs}, key=lambda size: size or 0))

    @cached_property
    def kept(self) -> dict[object, Any]:
        """What analyses worked out of this trace, for the next one that needs it."""
        return {}

    def ancestors(self, level: int) -> NDArray[np.int64]:
        """The row of the nearest span of `level` above each span (not itself), -1 where there is none."""
        of = self.spans["level"].to_numpy()
        above = self.parents.copy()
        at = np.flatnonzero(above >= 0)
        for _ in range(above.size + 1):
            at = at[of[above[at]] != level]
            if at.size == 0:
                return above
            above[at] = self.parents[above[at]]
            at = at[above[at] >= 0]
        raise TraceError("the parents of the trace form a circle", hint="record or import it again")

    def runs_of(self, batch_size: int | None) -> tuple[Run, ...]:
        """The runs at one batch size."""
        return tuple(run for run in self.runs if run.batch_size == batch_size)

    def timed(self, batch_size: int | None, level: int) -> frozenset[int]:
        """The runs that tell the time of `level`: it is their deepest, and no counters were collected."""
        return frozenset(run.run for run in self.runs_of(batch_size) if run.deepest == level and not run.replayed)

    def rows(self, level: int, runs: Collection[int]) -> NDArray[np.int64]:
        """Rows of the spans of `level` in `runs`, by run and start."""
        wanted = pl.col("run").is_in(list(runs)) & (pl.col("level") == int(level))
        found = self.spans.with_row_index("row").filter(wanted).sort("run", "start_ns", "span")
        return np.asarray(found["row"].to_numpy(), np.int64)

    def model_time(self, batch_size: int | None) -> Estimate:
        """Model time at one batch size, from its unprofiled runs or as the record has it."""
        rows = self.rows(Level.MODEL, self.timed(batch_size, Level.MODEL))
        if rows.size:
            return estimate_s(self.durations[rows].tolist())
        return self.model_times.get(batch_size, NOTHING)

    def primitive(self, batch_size: int | None) -> Level | None:
        """The level whose spans stand for kernels at one batch size; None where no run goes down to one."""
        for level in PRIMITIVES:
            runs = [run.run for run in self.runs_of(batch_size) if run.deepest >= level]
            if self.primitive_rows(level, runs).size:
                return level
        return None

    def primitive_rows(self, level: int, runs: Collection[int]) -> NDArray[np.int64]:
        """As `rows`, without launches of work that a device does later.

        Where a trace has executions at this level, they alone are its kernels: other calls of a driver that stand there
        (an allocation, a synchronisation) run on the host.
        """
        rows = self.rows(level, runs)
        kinds = self.spans["kind"].cast(pl.String).to_numpy()
        kind = kinds[rows]
        if ((kinds == "exec") & (self.spans["level"].to_numpy() == int(level))).any():
            return np.asarray(rows[kind == "exec"], np.int64)
        return np.asarray(rows[(kind != "launch") & (kind != "instant")], np.int64)


def _steady(spans: pl.DataFrame) -> pl.DataFrame:
    """The spans with sites of launches and executions that hold from run to run; order of rows kept."""
    kind = pl.col("kind").cast(pl.String)
    device = kind.is_in(["launch", "exec"]) & (pl.col("correlation") != 0)
    if not spans.select(device.any()).item():
        return spans
    launches = (
        spans.filter(device & (kind == "launch"))
        .unique(["run", "correlation"], keep="first", maintain_order=True)
        .select("run", "correlation", begun="start_ns")
    )
    above = spans.select(parent="span", above="site")
    every = (
        spans.join(launches, on=["run", "correlation"], how="left", maintain_order="left")
        .join(above, on="parent", how="left", maintain_order="left")
        .with_columns(begun=pl.coalesce("begun", "start_ns"))
    )
    same = ["run", "parent", "level", "name", "kind"]
    rank = pl.col("span").cum_count().over(same, order_by=["begun", "start_ns", "span"]) - 1
    name = pl.col("name").str.replace_all("\\", "\\\\", literal=True).str.replace_all("|", "\\|", literal=True)
    step = pl.concat_str(
        pl.col("level").cast(pl.String),
        pl.lit(":"),
        name,
        pl.lit("#"),
        rank.cast(pl.String),
        pl.when(kind == "launch").then(pl.lit("/launch")).otherwise(pl.lit("")),
    )
    path = pl.when(pl.col("above").is_null()).then(step).otherwise(pl.col("above") + SITE_SEPARATOR + step)
    site = pl.when(device).then(path).otherwise(pl.col("site"))
    steady: pl.DataFrame = every.with_columns(site=site).select(spans.columns)
    return steady


def _runs(
    spans: pl.DataFrame,
    deepest: Mapping[int, int] | int | None,
    batch_size: Mapping[int, int] | int | None,
    replayed: Collection[int],
) -> tuple[Run, ...]:
    told = _told(spans)
    level = {**_by_run(spans, "level"), **told["deepest"], **_by_run(spans, "deepest")}
    size = {**told["batch_size"], **_by_run(spans, "batch_size")}
    numbers = sorted(spans["run"].unique().to_list())
    level.update(_given(deepest, numbers))
    size.update(_given(batch_size, numbers))
    counted = {*replayed, *told["replayed"], *_with_counters(spans)}
    for run, seen in _by_run(spans, "level").items():
        if level[run] < seen:
            raise TraceError(
                f"run {run} is said to go down to level {level[run]}, and has a span of level {seen}",
                hint="give the deepest level that was switched on",
            )
    return tuple(Run(run, level[run], size.get(run), run in counted) for run in numbers)


def _given(value: Mapping[int, int] | int | None, runs: Iterable[int]) -> dict[int, int]:
    if value is None:
        return {}
    return dict.fromkeys(runs, value) if isinstance(value, int) else {int(run): int(one) for run, one in value.items()}


def _by_run(spans: pl.DataFrame, column: str) -> dict[int, int]:
    """The largest value of a column in each run; nothing where the table has no such column."""
    if column not in spans.columns:
        return {}
    found = spans.drop_nulls(column).group_by("run").agg(pl.col(column).cast(pl.Int64).max())
    return {int(run): int(value) for run, value in found.select("run", column).iter_rows()}


def _told(spans: pl.DataFrame) -> dict[str, dict[int, int]]:
    """What model spans tell of their runs in their attributes."""
    told: dict[str, dict[int, int]] = defaultdict(dict)
    roots = spans.filter((pl.col("level") == Level.MODEL.value) & pl.col("attributes").is_not_null())
    for run, text in roots.select("run", "attributes").iter_rows():
        try:
            attributes = json.loads(text)
        except (ValueError, RecursionError):
            continue  # a foreign tracer's own format: it tells nothing of the run
        for name in ("deepest", "batch_size", "replayed"):
            value = attributes.get(name) if isinstance(attributes, dict) else None
            if name == "deepest" and isinstance(value, str):
                value = next((number for number, known in LEVEL_NAMES.items() if known == value), None)
            if isinstance(value, int) and (value or name != "replayed"):
                told[name][run] = int(value)
    return told


def _with_counters(spans: pl.DataFrame) -> set[int]:
    """Runs with counters on launch spans: XSP takes no durations from those, since collecting them replays kernels."""
    launches = spans.filter((pl.col("kind").cast(pl.String) == "launch") & pl.col("attributes").is_not_null())
    told = launches.select("run", "attributes").unique()
    return {run for run, text in told.iter_rows() if has_counters(text)}
