"""Takes the leveled trace of a stored run out of the results database."""

from __future__ import annotations

import os
from dataclasses import dataclass

import polars as pl

from stratoscope.explain.analyses.leveled_trace import LeveledTrace
from stratoscope.spec.record import RunRecord
from stratoscope.store.store import Store


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run of the database with what analyses read: spans and samples are None where it has none."""

    record: RunRecord
    trace: LeveledTrace
    spans: pl.DataFrame | None
    samples: pl.DataFrame | None


def stored_run(selector: str, database: str | os.PathLike[str] | None = None) -> StoredRun:
    """A run: an id or its beginning, `last`, a model's name, as `Store.get` takes it, with its leveled trace.

    A run without spans is a trace without any, of which some analyses still tell what the record holds.

    Raises:
        StoreError: there is no such run or database.
    """
    with Store.open(database, create=False) as store:
        record = store.get(selector)
        spans, samples = store.spans(record.id), store.samples(record.id)
    return StoredRun(record, LeveledTrace.of_record(record, spans, samples), spans, samples)
