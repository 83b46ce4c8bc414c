"""A load whose requests are traced: each request is a span, with its inference and the layers of that inside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, cast

import numpy as np
import polars as pl

from stratoscope.backends.base import Session, TracingBackend
from stratoscope.errors import MeasurementError
from stratoscope.measure.call_waits import WaitingSession
from stratoscope.measure.load import LoadResult, run_load
from stratoscope.spec.model import LoadableModel
from stratoscope.spec.options import BackendOptions
from stratoscope.spec.scenario import ScenarioKind, ScenarioManifest
from stratoscope.trace.correlate import assign_sites
from stratoscope.trace.levels import Level
from stratoscope.trace.spans import SPAN_SCHEMA

#: Name of the span of a request, from when it was due to its answer; it holds that of its wait for its inference.
REQUEST: Final = "request"
QUEUED: Final = "queued"
TRACED_NOTE: Final = "the layers of every request were traced: latencies include what that costs"

_SEVERAL: Final = frozenset({ScenarioKind.OFFLINE, ScenarioKind.MULTI_STREAM})


def run_traced_load(
    backend: TracingBackend,
    model: LoadableModel,
    options: BackendOptions,
    scenario: ScenarioManifest,
    *,
    on_progress: Callable[[str], None] | None = None,
    log_dir: Path | None = None,
) -> tuple[LoadResult, pl.DataFrame]:
    """`run_load` on a traced session: its result, and spans whose `run` is the number of the query.

    One worker answers, whatever the scenario's `concurrency`, since a traced session is of one thread.

    Raises:
        MeasurementError: requests would overlap or hold several inferences, or the spans do not fit the requests.
        BackendError: the model failed, or the back end's profiler could not hold so many inferences.
    """
    if scenario.kind in _SEVERAL or (scenario.kind is ScenarioKind.CONCURRENCY and scenario.concurrency > 1):
        raise MeasurementError(
            f"a load of kind {scenario.kind} cannot be traced: its inferences overlap, or a query holds several",
            hint="--scenario single-stream, server or constant-rate",
        )
    scenario = scenario.model_copy(update={"concurrency": 1})
    session = backend.open_trace(model, options)
    watched = WaitingSession(cast(Session, session))
    try:
        result = run_load(watched, model, scenario, on_progress=on_progress, log_dir=log_dir)
        spans = session.finish()
    finally:
        watched.close()
        session.close()
    notes = (*result.section.notes, TRACED_NOTE)
    layers = spans.filter(pl.col("level") == Level.LAYER)["attributes"]
    if not layers.fill_null("").str.contains('"synthetic": true', literal=True).not_().any():
        notes = (*notes, f"back end {backend.name} has no layers: the trace tells of requests and inferences only")
    section = result.section.model_copy(update={"notes": notes})
    requests = request_spans(spans, result.samples)
    samples = with_waits(result.samples, spans, watched.waits_ns)
    return LoadResult(section, samples, result.interrupted), requests


def with_waits(samples: pl.DataFrame, spans: pl.DataFrame, waits_ns: Sequence[int | None]) -> pl.DataFrame:
    """`samples` with the run-queue wait of each request's inference; as they are where a wait is not known.

    Args:
        samples: as `request_spans` takes them.
        spans: of all inferences, `run` counting them as `waits_ns` does.
    """
    calls = spans.filter(pl.col("level") == Level.MODEL).sort("start_ns").tail(samples.height)
    found = [waits_ns[run] if run < len(waits_ns) else None for run in calls["run"].to_list()]
    if None in found or len(found) != samples.height:
        return samples
    queries = samples.sort("issued_ns", "query")["query"]
    waits = pl.DataFrame({"query": queries, "run_queue_wait_ns": pl.Series(found, dtype=pl.Int64)})
    return samples.join(waits, on="query", how="left", maintain_order="left")


def request_spans(spans: pl.DataFrame, samples: pl.DataFrame) -> pl.DataFrame:
    """The spans of the inferences that answered `samples`, each under the span of its request.

    Args:
        spans: of all inferences one after another, the load's being the last (`run` counts them).
        samples: as `Timeline.frame` has them; one a query.

    The two are matched by order. Their clocks differ by a constant, which is taken so that no inference starts before
    its request was sent; an inference that lasts longer than its request's service proves the match wrong.

    Raises:
        MeasurementError: several samples a query, fewer inferences than samples, or a match that is wrong.
    """
    if samples["query"].n_unique() != samples.height:
        raise MeasurementError(
            "a query of this scenario holds several inferences", hint="trace a scenario of single ones: --scenario"
        )
    calls = spans.filter(pl.col("level") == Level.MODEL).sort("start_ns").tail(samples.height)
    requests = samples.sort("issued_ns", "query")
    if calls.height < requests.height:
        raise MeasurementError(f"the trace has {calls.height} inferences for {requests.height} requests")
    began, ended = calls["start_ns"].to_numpy(), calls["end_ns"].to_numpy()
    issued, completed = requests["issued_ns"].to_numpy(), requests["completed_ns"].to_numpy()
    if (ended - began > completed - issued).any():
        raise MeasurementError("the traced inferences do not fit their requests", hint="run it again")
    offset = int((began - issued).min()) if calls.height else 0
    queries = requests["query"].to_numpy()
    due = requests["scheduled_ns"].to_numpy() + offset
    first = int(spans["span"].max() or 0) + 1  # type: ignore[arg-type]
    number = np.arange(calls.height, dtype=np.int64) + first
    tracks = calls["track"].to_numpy()
    outer = _frame(REQUEST, number, None, due, np.maximum(completed + offset, ended), tracks, queries)
    waits = _frame(QUEUED, number + calls.height, number, due, began, tracks, queries)
    inside = spans.join(pl.DataFrame({"run": calls["run"], "query": queries, "request": number}), on="run", how="inner")
    parent = pl.when(pl.col("level") == Level.MODEL).then("request").otherwise("parent")
    moved = inside.with_columns(parent=parent, run=pl.col("query").cast(SPAN_SCHEMA["run"])).select(list(SPAN_SCHEMA))
    together = pl.concat((outer, waits.filter(pl.col("end_ns") > pl.col("start_ns")), moved))
    return assign_sites(together.sort("start_ns", "level", "span"))


def _frame(
    name: str,
    span: np.ndarray,
    parent: np.ndarray | None,
    start_ns: np.ndarray,
    end_ns: np.ndarray,
    track: np.ndarray,
    run: np.ndarray,
) -> pl.DataFrame:
    """Application spans of one name, one a request."""
    columns = {"span": span, "parent": parent, "track": track, "start_ns": start_ns, "end_ns": end_ns, "run": run}
    constants = {"level": int(Level.APPLICATION), "kind": "sync", "name": name, "correlation": 0}
    empty = dict.fromkeys(("site", "attributes"))
    frame = pl.DataFrame(columns).with_columns(**{key: pl.lit(value) for key, value in {**constants, **empty}.items()})
    return frame.select(pl.col(key).cast(kind) for key, kind in SPAN_SCHEMA.items())
