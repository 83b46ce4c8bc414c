"""The connection to a results database: short transactions that several processes may make at once."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.pool import NullPool

from stratoscope.errors import StoreError
from stratoscope.store.faults import clear_errors
from stratoscope.store.location import Location, data_dir
from stratoscope.store.schema import SCHEMA_VERSION, bring_up_to_date, read_version

#: How long a writer waits for the others before it gives up. A transaction takes milliseconds.
BUSY_TIMEOUT_S: Final = 30.0


class Database:
    """A results database at its current schema. Every transaction has a connection of its own, so forks are safe."""

    def __init__(self, location: Location, *, create: bool = True) -> None:
        """Opens the database; makes it where `create` is set, and migrates it where its schema is older.

        Raises:
            StoreError: it cannot be opened, is not ours, is corrupt, or comes from a newer Stratoscope.
        """
        self.location = location
        if location.file is not None:
            _check_file(location.file, create=create)
        self.engine = _engine(location, create=create)
        with self.reading("open the results") as connection:
            version = read_version(connection, location)
        if location.file is not None and not _readonly(location.file):
            with clear_errors(location, "open the results"):
                _enable_wal(self.engine)
        if version != SCHEMA_VERSION:
            with self.writing("prepare the tables") as connection:
                bring_up_to_date(connection, location)

    @contextmanager
    def reading(self, action: str) -> Iterator[Connection]:
        """A transaction that sees one state of the database and changes nothing."""
        with clear_errors(self.location, action), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self, action: str) -> Iterator[Connection]:
        """A transaction that is committed at its end, or rolled back where it fails."""
        # IMMEDIATE takes SQLite's write lock now: a later upgrade from reading could not wait, only fail.
        engine = self.engine.execution_options(sqlite_begin="IMMEDIATE")
        with clear_errors(self.location, action), engine.begin() as connection:
            yield connection

    def close(self) -> None:
        """Gives connections back."""
        self.engine.dispose()


def _check_file(file: Path, *, create: bool) -> None:
    with clear_errors(file, "open the results"):
        if file.is_dir():
            raise StoreError(f"{file} is a folder", hint="name a file with --db")
        if file.exists():
            return
        if not create:
            raise StoreError(f"there are no results yet at {file}", hint="measure first, or name a database with --db")
        if file.parent == data_dir():
            file.parent.mkdir(parents=True, exist_ok=True)
        if not file.parent.is_dir():
            raise StoreError(f"the folder of the results does not exist: {file.parent}", hint="create it")


def _engine(location: Location, *, create: bool) -> Engine:
    file = location.file
    if file is None:
        try:
            return create_engine(location.url, poolclass=NullPool)
        except ModuleNotFoundError as error:
            raise StoreError(
                f"the driver of {location} is not installed ({error.name})",
                hint="pip install 'stratoscope[postgres]'",
            ) from error
    engine = create_engine("sqlite://", creator=lambda: _connect(file, create=create), poolclass=NullPool)
    # The driver's own transactions leave out DDL and cannot begin IMMEDIATE: BEGIN is ours.
    event.listen(engine, "begin", _begin)
    return engine


def _connect(file: Path, *, create: bool) -> sqlite3.Connection:
    mode = "ro" if _readonly(file) else "rwc" if create else "rw"
    if mode == "ro" and not _writable(file.parent) and not file.with_name(file.name + "-wal").exists():
        mode = "ro&immutable=1"  # a WAL database in a read-only folder: SQLite could not make its shared-memory file
    return sqlite3.connect(
        f"file:{quote(str(file))}?mode={mode}", uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None
    )


def _begin(connection: Connection) -> None:
    options: dict[str, Any] = dict(connection.get_execution_options())
    connection.exec_driver_sql(f"BEGIN {options.get('sqlite_begin', 'DEFERRED')}")


def _enable_wal(engine: Engine) -> None:
    """Write-ahead log: readers and the one writer do not wait for each other. It is kept in the file, so set once.

    The change needs the file for itself and does not wait for it (SQLite's busy timeout is not honoured here), so
    several processes that make the database together take turns. Where the file system does not offer it, SQLite
    keeps its rollback journal, which is as safe and lets readers wait.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    raw = engine.raw_connection()
    try:
        while raw.cursor().execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            try:
                raw.cursor().execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError as error:
                if not error.sqlite_errorname.startswith("SQLITE_BUSY") or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
    finally:
        raw.close()


def _writable(path: Path) -> bool:
    return os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


def _readonly(file: Path) -> bool:
    return file.exists() and not _writable(file)
