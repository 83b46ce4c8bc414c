"""The store of results: save a run with its samples and spans, find it again, take it elsewhere."""

from __future__ import annotations

import builtins
import os
import shutil
import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import polars as pl
from pydantic import ValidationError
from sqlalchemy import Engine, delete, insert, select
from sqlalchemy.exc import IntegrityError

from stratoscope.errors import StoreError
from stratoscope.spec.record import RunRecord
from stratoscope.store.artifacts import read_artifact, remove_artifacts, write_artifacts, write_atomically
from stratoscope.store.database import Database
from stratoscope.store.exchange import MergeResult, export_runs, merge_runs
from stratoscope.store.ids import check_run_id, is_run_id, new_run_id
from stratoscope.store.location import locate
from stratoscope.store.schema import RUNS
from stratoscope.store.selection import newest_first, resolve_id
from stratoscope.store.summary import SUMMARY_COLUMNS, RunSummary, row_of, summary_of, utc_text


class Store:
    """A results database with the folder of its artefacts. Use `Store.open`, in a `with` block or with `close`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(cls, database: str | os.PathLike[str] | None = None, *, create: bool = True) -> Self:
        """Opens `database` (a file or URL), else STRATOSCOPE_DB, else the default file.

        It is made where it does not exist, unless `create` is false, and migrated where its schema is older.

        Raises:
            StoreError: it cannot be opened or made, is not a results database, is corrupt, or is newer than this code.
        """
        return cls(Database(locate(database), create=create))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __str__(self) -> str:
        return str(self._database.location)

    def close(self) -> None:
        """Gives the connections back."""
        self._database.close()

    @property
    def engine(self) -> Engine:
        """SQLAlchemy's engine, for queries of your own."""
        return self._database.engine

    @property
    def artifacts(self) -> Path:
        """The folder of the artefacts: one folder a run."""
        return self._database.location.artifacts

    def save(
        self, record: RunRecord, samples: pl.DataFrame | None = None, spans: pl.DataFrame | None = None
    ) -> RunRecord:
        """Keeps a run and returns its record with `artifacts` filled. Saving the same run again changes nothing.

        Tables come first, each written atomically, then the record in one transaction: a run that is listed is whole.

        Raises:
            StoreError: it cannot be saved (full or read-only disk, corrupt database), or another run has this id. The
                run is then kept as a file of its own, named in the message, which `merge` takes in.
        """
        try:
            return self._save(record, samples, spans)
        except StoreError as error:
            raise rescue(record, samples, spans, error) from error

    def _save(self, record: RunRecord, samples: pl.DataFrame | None, spans: pl.DataFrame | None) -> RunRecord:
        run_id = check_run_id(record.id)
        names = [name for name, table in (("samples", samples), ("spans", spans)) if table is not None]
        record = record.model_copy(update={"artifacts": {name: f"{run_id}/{name}.parquet" for name in names}})
        if self._known(record):
            return record
        write_artifacts(self.artifacts, run_id, {"samples": samples, "spans": spans})
        try:
            self.insert(record)
        except StoreError:
            remove_artifacts(self.artifacts, run_id)
            raise
        return record

    def insert(self, record: RunRecord) -> None:
        """Adds the row of a record whose artefacts are in their place. Raises StoreError, also for an id in use."""
        with self._database.writing(f"save run {record.id}") as connection:
            try:
                connection.execute(insert(RUNS).values(**row_of(record)))
            except IntegrityError as error:
                raise _conflict(record.id, self) from error

    def _known(self, record: RunRecord) -> bool:
        """Whether this very run is kept already; raises StoreError where its id belongs to another."""
        found = self.record_json(record.id)
        if found is None:
            return False
        if _parse(record.id, found) != RunRecord.model_validate_json(record.model_dump_json(by_alias=True)):
            raise _conflict(record.id, self)
        return True

    def record_json(self, run_id: str) -> str | None:
        """The JSON text of the record with exactly this id, or None."""
        with self._database.reading(f"read run {run_id}") as connection:
            return connection.scalar(select(RUNS.c.record).where(RUNS.c.id == run_id))

    def get(self, selector: str = "last") -> RunRecord:
        """The record of a run: its id, the unique beginning of one, `last`, `last~N`, a model's name, or `NAME~N`.

        Raises:
            StoreError: there is no such run or several (the message names the nearest), or its record cannot be read.
        """
        run_id = self.resolve(selector)
        text = self.record_json(run_id)
        if text is None:
            raise StoreError(f"run {run_id} was deleted meanwhile")
        return _parse(run_id, text)

    def resolve(self, selector: str) -> str:
        """The id of the run that `selector` means; as `get`, without reading the record."""
        with self._database.reading(f"find run {selector[:80]!r}") as connection:
            return resolve_id(connection, selector, self)

    def list(
        self,
        *,
        model: str | None = None,
        backend: str | None = None,
        scenario: str | None = None,
        status: str | None = None,
        key: str | None = None,
        since: datetime | None = None,
        limit: int | None = None,
    ) -> builtins.list[RunSummary]:
        """Summaries of the runs that match all filters given, the newest first, at most `limit`."""
        query = select(*SUMMARY_COLUMNS).order_by(*newest_first()).limit(limit)
        filters = {"model_name": model, "backend": backend, "scenario_kind": scenario, "status": status, "key": key}
        for column, wanted in filters.items():
            if wanted is not None:
                query = query.where(RUNS.c[column] == wanted)
        if since is not None:
            query = query.where(RUNS.c.created_at >= utc_text(since))
        with self._database.reading("list the runs") as connection:
            return [summary_of(row) for row in connection.execute(query)]

    def find(self, key: str) -> builtins.list[RunSummary]:
        """Earlier runs of the same thing on the same machine: those whose five digests make this key, newest first."""
        return self.list(key=key)

    def samples(self, selector: str) -> pl.DataFrame | None:
        """One row a query, or None where the run has no samples. Raises StoreError where their file cannot be read."""
        return self._table(selector, "samples")

    def spans(self, selector: str) -> pl.DataFrame | None:
        """The span table, or None where the run has no spans. Raises StoreError where their file cannot be read."""
        return self._table(selector, "spans")

    def _table(self, selector: str, name: str) -> pl.DataFrame | None:
        record = self.get(selector)
        relative = record.artifacts.get(name)
        return None if relative is None else read_artifact(self.artifacts, record.id, relative)

    def delete(self, selector: str) -> str:
        """Removes a run with its tables and returns its id. Raises StoreError where there is none or it cannot be."""
        run_id = self.resolve(selector)
        with self._database.writing(f"delete run {run_id}") as connection:
            connection.execute(delete(RUNS).where(RUNS.c.id == run_id))
        remove_artifacts(self.artifacts, run_id)
        return run_id

    def export(self, file: Path, selectors: Sequence[str] | None = None) -> tuple[str, ...]:
        """Writes runs (None: all) to a JSONL file with their tables beside it; returns their ids. See `export_runs`."""
        return export_runs(self, file, selectors)

    def merge(self, file: Path) -> MergeResult:
        """Adds the runs of an export or of a kept run; those that are here already stay. See `merge_runs`."""
        return merge_runs(self, file)


def save_run(
    database: str | os.PathLike[str] | None,
    record: RunRecord,
    samples: pl.DataFrame | None = None,
    spans: pl.DataFrame | None = None,
) -> RunRecord:
    """Opens the database and saves a measured run: `Store.save` that keeps the run even where opening fails.

    Raises:
        StoreError: as `Store.open` and `Store.save`; the message names the file in which the run is kept.
    """
    try:
        store = Store.open(database)
    except StoreError as error:
        raise rescue(record, samples, spans, error) from error
    with store:
        return store.save(record, samples, spans)


def rescue(
    record: RunRecord, samples: pl.DataFrame | None, spans: pl.DataFrame | None, error: StoreError
) -> StoreError:
    """Keeps a run that the store could not take in a folder of its own, and returns the error that names it.

    The folder, in the system's temporary folder or else the current one, has the layout of an export: `run.jsonl` with
    its tables in `run.artifacts`.
    """
    if not is_run_id(record.id):
        record = record.model_copy(update={"id": new_run_id()})
    for parent in dict.fromkeys((tempfile.gettempdir(), os.getcwd())):
        folder = None
        try:
            folder = Path(tempfile.mkdtemp(prefix="stratoscope-run-", dir=parent))
            artifacts = write_artifacts(folder / "run.artifacts", record.id, {"samples": samples, "spans": spans})
            kept = record.model_copy(update={"artifacts": artifacts})
            file = folder / "run.jsonl"
            write_atomically(file, (kept.model_dump_json(by_alias=True) + "\n").encode())
        except (OSError, StoreError):
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
            continue
        way_out = f"; then `stratoscope results merge {file}`" if error.hint else f"`stratoscope results merge {file}`"
        return StoreError(f"{error.message}; the run is kept in {file}", hint=f"{error.hint or ''}{way_out}")
    return StoreError(f"{error.message}; nor could the run be kept in a temporary file", hint=error.hint)


def _parse(run_id: str, text: str) -> RunRecord:
    try:
        return RunRecord.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise StoreError(
            f"the record of run {run_id} cannot be read: {where}: {first['msg']}",
            hint="it was written by another version of Stratoscope, or changed by hand",
        ) from None


def _conflict(run_id: str, place: object) -> StoreError:
    return StoreError(f"another run with the id {run_id} is already in {place}", hint="delete one of them first")
