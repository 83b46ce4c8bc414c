"""Finds the leveled trace that somebody named: a stored run of the results database, or a trace file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from stratoscope.errors import StoreError
from stratoscope.explain.analyses.leveled_trace import LeveledTrace
from stratoscope.spec.record import RunRecord
from stratoscope.store.store import Store
from stratoscope.trace.importers import ImportedTrace, import_nonempty


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


@dataclass(frozen=True, slots=True)
class NamedTrace:
    """A trace with what it is called: `run` of one from the database, `file` (as it was read) of one from a file."""

    name: str
    trace: LeveledTrace
    run: StoredRun | None = None
    file: ImportedTrace | None = None


def named_trace(name: str, database: str | os.PathLike[str] | None = None, *, format: str | None = None) -> NamedTrace:
    """The trace in the file of that name, else that of the stored run (`stored_run`).

    A file of other software is one run that goes down to the deepest level of which it has a span: it tells the times
    of that level, and none of those above, which its profiler slowed down.

    Raises:
        StoreError: there is no such file, run or database.
        TraceError: the file cannot be read.
    """
    path = Path(name)
    if format is not None or path.is_file():
        found = import_nonempty(path, format=format)
        return NamedTrace(path.name, LeveledTrace.of(found.spans), file=found)
    if path.suffix in (".json", ".gz", ".sqlite", ".parquet") or len(path.parts) > 1:
        raise StoreError(f"there is no trace file {name}", hint="give a file, a run's id, 'last', or a model's name")
    run = stored_run(name, database)
    return NamedTrace(run.record.id, run.trace, run=run)
