"""What lists show of a run: a row of the runs table, and the one figure that the run is judged by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row

from stratoscope.spec.record import RunRecord
from stratoscope.stats.quantity import Quantity
from stratoscope.store.schema import RUNS


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A run as lists show it; the metric is absent where the run has no figure with a value."""

    id: str
    created_at: datetime
    command: str
    status: str
    model_name: str
    backend: str
    scenario_kind: str
    batch_size: int | None
    key: str
    metric_name: str | None
    metric_value: float | None
    metric_unit: str | None
    metric_low: float | None
    metric_high: float | None

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {**asdict(self), "created_at": self.created_at.isoformat()}


#: The columns that make a summary, in its order.
SUMMARY_COLUMNS = tuple(RUNS.c[name] for name in RunSummary.__dataclass_fields__)


def headline(record: RunRecord) -> tuple[str, Quantity] | None:
    """The figure that a run is judged by, named by its path in the record; None where nothing was measured.

    That of the load scenario; without one the profile's model time, then the best throughput of the batch sweep, then
    the first accuracy metric, then the first inference of the cold start.
    """
    if record.load is not None:
        name = record.load.headline
        if name == "throughput":
            return "load.throughput", record.load.throughput
        missing = Quantity.unavailable("s", f"the load section has no {name}", name)
        return f"load.latency.{name}", record.load.latency.get(name, missing)
    if record.profile is not None:
        return "profile.model_time", record.profile.model_time
    if record.sweep is not None:
        known = [point.throughput for point in record.sweep.points if point.throughput.value is not None]
        if known:
            return "sweep.throughput", max(known, key=Quantity.require)
    if record.accuracy is not None and record.accuracy.metrics:
        name, metric = next(iter(record.accuracy.metrics.items()))
        return f"accuracy.{name}", metric
    if record.cold_start is not None:
        return "cold_start.first_inference_s", record.cold_start.first_inference_s
    return None


def utc_text(moment: datetime) -> str:
    """`moment` in UTC as text of fixed width, which sorts as time does; without a zone it is local time."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def row_of(record: RunRecord) -> Mapping[str, Any]:
    """The row of the runs table for a record. Only the record's JSON is exact: PostgreSQL's text holds no NUL."""
    metric = headline(record)
    name, quantity = metric if metric is not None else (None, None)
    return {
        "id": record.id,
        "created_at": utc_text(record.created_at),
        "command": record.command.replace("\0", "\ufffd"),
        "status": record.status,
        "model_name": record.model.id.replace("\0", "\ufffd"),
        "backend": record.backend.name,
        "scenario_kind": record.scenario.kind.value,
        "batch_size": record.scenario.batch_size,
        "key": record.key,
        **{f"digest_{aspect}": digest for aspect, digest in record.digests},
        "metric_name": name,
        "metric_value": quantity.value if quantity is not None else None,
        "metric_unit": quantity.unit if quantity is not None else None,
        "metric_low": quantity.ci_low if quantity is not None else None,
        "metric_high": quantity.ci_high if quantity is not None else None,
        "record": record.model_dump_json(by_alias=True),
    }


def summary_of(row: Row[Any]) -> RunSummary:
    """The summary in a row that was selected with SUMMARY_COLUMNS."""
    fields = dict(row._mapping)
    created_at = datetime.strptime(fields.pop("created_at"), "%Y-%m-%dT%H:%M:%S.%f%z")
    return RunSummary(created_at=created_at, **fields)
