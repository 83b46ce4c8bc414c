"""The tables of the results database, their version, and the migrations from every older version."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Final

from sqlalchemy import (
    Column,
    Connection,
    Double,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    bindparam,
    insert,
    inspect,
    select,
    text,
    update,
)

from stratoscope.errors import StoreError

METADATA: Final = MetaData()

META: Final = Table(
    "meta",
    METADATA,
    Column("name", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)

#: One row a run: the columns that lists and searches use, and the whole record as JSON. `created_at` is UTC as
#: ISO 8601 text of fixed width, so that its order as text is its order in time in every database.
RUNS: Final = Table(
    "runs",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("created_at", String(27), nullable=False),
    Column("command", Text, nullable=False),
    Column("status", String(16), nullable=False),
    Column("model_name", Text, nullable=False),
    Column("backend", Text, nullable=False),
    Column("scenario_kind", String(32), nullable=False),
    Column("key", String(80), nullable=False),
    Column("digest_model", String(80), nullable=False),
    Column("digest_dataset", String(80), nullable=False),
    Column("digest_software", String(80), nullable=False),
    Column("digest_hardware", String(80), nullable=False),
    Column("digest_scenario", String(80), nullable=False),
    Column("metric_name", Text),
    Column("metric_value", Double),
    Column("metric_unit", Text),
    Column("metric_low", Double),
    Column("metric_high", Double),
    Column("record", Text, nullable=False),
    Column("batch_size", Integer),
    Index("runs_key", "key"),
    Index("runs_model_name", "model_name"),
    Index("runs_created_at", "created_at"),
)

#: One row a characterised machine (`stratoscope machine`), with the whole record as JSON; `created_at` as in RUNS.
MACHINES: Final = Table(
    "machines",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("created_at", String(27), nullable=False),
    Column("hostname", Text, nullable=False),
    Column("digest_hardware", String(80), nullable=False),
    Column("record", Text, nullable=False),
    Index("machines_created_at", "created_at"),
)

#: What the keys of measurements of parts stand for, once each: a part, candidate, environment or protocol as JSON.
PART_DOCUMENTS: Final = Table(
    "part_documents",
    METADATA,
    Column("digest", String(80), primary_key=True),
    Column("kind", String(16), primary_key=True),
    Column("record", Text, nullable=False),
)

#: One row for each (part, candidate, environment, protocol), with the rest of the measurement as JSON, raw samples in
#: it. The primary key is the unique constraint: a second measurement of the same is no second row.
PART_MEASUREMENTS: Final = Table(
    "part_measurements",
    METADATA,
    Column("part", String(80), primary_key=True),
    Column("candidate", String(80), primary_key=True),
    Column("environment", String(80), primary_key=True),
    Column("protocol", String(80), primary_key=True),
    Column("status", String(16), nullable=False),
    Column("started_at", String(27), nullable=False),
    Column("record", Text, nullable=False),
    Index("part_measurements_environment", "environment", "protocol"),
)


def _add_batch_size(connection: Connection) -> None:
    """1 -> 2: the batch size becomes a column of the list, filled from the records."""
    connection.execute(text("ALTER TABLE runs ADD COLUMN batch_size INTEGER"))
    for row in connection.execute(text("SELECT id, record FROM runs")).all():
        batch_size = json.loads(row.record)["scenario"]["batch_size"]
        connection.execute(
            text("UPDATE runs SET batch_size = :batch_size WHERE id = :id"), {"batch_size": batch_size, "id": row.id}
        )


def _add_machines(connection: Connection) -> None:
    """2 -> 3: a table of characterised machines, empty."""
    connection.execute(
        text(
            "CREATE TABLE machines (id VARCHAR(64) NOT NULL PRIMARY KEY, created_at VARCHAR(27) NOT NULL, "
            "hostname TEXT NOT NULL, digest_hardware VARCHAR(80) NOT NULL, record TEXT NOT NULL)"
        )
    )
    connection.execute(text("CREATE INDEX machines_created_at ON machines (created_at)"))


def _add_part_measurements(connection: Connection) -> None:
    """3 -> 4: tables of measured parts, empty."""
    connection.execute(
        text(
            "CREATE TABLE part_documents (digest VARCHAR(80) NOT NULL, kind VARCHAR(16) NOT NULL, "
            "record TEXT NOT NULL, PRIMARY KEY (digest, kind))"
        )
    )
    connection.execute(
        text(
            "CREATE TABLE part_measurements (part VARCHAR(80) NOT NULL, candidate VARCHAR(80) NOT NULL, "
            "environment VARCHAR(80) NOT NULL, protocol VARCHAR(80) NOT NULL, status VARCHAR(16) NOT NULL, "
            "started_at VARCHAR(27) NOT NULL, record TEXT NOT NULL, "
            "PRIMARY KEY (part, candidate, environment, protocol))"
        )
    )
    connection.execute(text("CREATE INDEX part_measurements_environment ON part_measurements (environment, protocol)"))


#: `MIGRATIONS[v - 1]` takes a database from version v to v + 1. They use SQL text, not the tables above: those change.
MIGRATIONS: Final[Sequence[Callable[[Connection], None]]] = (_add_batch_size, _add_machines, _add_part_measurements)

SCHEMA_VERSION: Final = len(MIGRATIONS) + 1

#: Key of PostgreSQL's advisory lock around creation and migration ("strato" as bytes); one number for all versions.
_ADVISORY_LOCK: Final = int.from_bytes(b"strato")


def read_version(connection: Connection, place: object) -> int | None:
    """The schema's version, or None where the database is empty.

    Raises:
        StoreError: the database holds something else, or comes from a newer Stratoscope.
    """
    tables = set(inspect(connection).get_table_names())
    if META.name not in tables:
        foreign = tables if connection.dialect.name == "sqlite" else tables & {RUNS.name}
        if foreign:
            raise StoreError(
                f"{place} holds something else than results (tables: {', '.join(sorted(foreign)[:4])})",
                hint="use another --db",
            )
        return None
    columns = {column["name"] for column in inspect(connection).get_columns(META.name)}
    found = None
    if {"name", "value"} <= columns:
        found = connection.scalar(select(META.c.value).where(META.c.name == "schema_version"))
    if found is None or not found.isdecimal() or int(found) < 1:
        raise StoreError(f"{place} does not say which schema its results have", hint="use another --db")
    if int(found) > SCHEMA_VERSION:
        raise StoreError(
            f"{place} was written by a newer Stratoscope (schema {found}; this one knows {SCHEMA_VERSION})",
            hint="upgrade with `pip install -U stratoscope` or use another --db",
        )
    return int(found)


def bring_up_to_date(connection: Connection, place: object) -> None:
    """Creates the tables, or migrates them step by step, inside the caller's write transaction.

    The transaction holds a lock, so that of several processes one does the work and the others find it done.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
    version = read_version(connection, place)
    if version is None:
        METADATA.create_all(connection, checkfirst=False)
        connection.execute(insert(META).values(name="schema_version", value=str(SCHEMA_VERSION)))
        return
    for older, migrate in enumerate(MIGRATIONS[version - 1 :], start=version):
        try:
            migrate(connection)
        except (LookupError, TypeError, ValueError) as error:
            raise StoreError(
                f"{place} cannot be taken from schema {older} to {older + 1}: a record is not as expected ({error!r})",
                hint="nothing was changed; restore the record, or use another --db",
            ) from error
    connection.execute(
        update(META).where(META.c.name == bindparam("what")).values(value=str(SCHEMA_VERSION)),
        {"what": "schema_version"},
    )
