"""The schema has a version: old databases are migrated in one step that loses nothing, newer ones are refused."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Connection, create_engine, inspect, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from stratoscope.errors import StoreError
from stratoscope.spec.record import RunRecord
from stratoscope.spec.scenario import ScenarioManifest
from stratoscope.store import schema
from stratoscope.store.location import locate
from stratoscope.store.store import Store
from stratoscope.store.summary import row_of

MakeRecord = Callable[..., RunRecord]

#: The first schema, as it was written: without the column `batch_size`.
VERSION_1 = (
    "CREATE TABLE meta (name VARCHAR(64) NOT NULL PRIMARY KEY, value TEXT NOT NULL)",
    """CREATE TABLE runs (
        id VARCHAR(64) NOT NULL PRIMARY KEY, created_at VARCHAR(27) NOT NULL, command TEXT NOT NULL,
        status VARCHAR(16) NOT NULL, model_name TEXT NOT NULL, backend TEXT NOT NULL,
        scenario_kind VARCHAR(32) NOT NULL, key VARCHAR(80) NOT NULL, digest_model VARCHAR(80) NOT NULL,
        digest_dataset VARCHAR(80) NOT NULL, digest_software VARCHAR(80) NOT NULL,
        digest_hardware VARCHAR(80) NOT NULL, digest_scenario VARCHAR(80) NOT NULL, metric_name TEXT,
        metric_value DOUBLE PRECISION, metric_unit TEXT, metric_low DOUBLE PRECISION,
        metric_high DOUBLE PRECISION, record TEXT NOT NULL)""",
    "CREATE INDEX runs_key ON runs (key)",
    "CREATE INDEX runs_model_name ON runs (model_name)",
    "CREATE INDEX runs_created_at ON runs (created_at)",
    "INSERT INTO meta (name, value) VALUES ('schema_version', '1')",
)


def connect(database: str) -> Connection:
    """A plain connection, beside the store."""
    return create_engine(locate(database).url).connect()


def fill_version_1(database: str, *records: RunRecord) -> None:
    with connect(database) as connection:
        for statement in VERSION_1:
            connection.execute(text(statement))
        for record in records:
            row = {name: value for name, value in row_of(record).items() if name != "batch_size"}
            names = ", ".join(row)
            values = ", ".join(f":{name}" for name in row)
            connection.execute(text(f"INSERT INTO runs ({names}) VALUES ({values})"), row)
        connection.commit()


def _kind(column_type: object) -> str:
    """A type's name; SQLite has several for the same 8-byte float."""
    name = str(column_type)
    return "DOUBLE" if name in {"DOUBLE", "DOUBLE PRECISION", "REAL", "DOUBLE_PRECISION"} else name


def shape_of(database: str) -> tuple[set[tuple[str, str, bool]], set[tuple[str, tuple[str, ...]]], str]:
    """Columns with type and whether they may be null, indexes with their columns, and the version."""
    with connect(database) as connection:
        inspector = inspect(connection)
        tables = {"runs", "machines", "part_documents", "part_measurements"} & set(inspector.get_table_names())
        columns = {(c["name"], _kind(c["type"]), c["nullable"]) for t in tables for c in inspector.get_columns(t)}
        indexes = {(i["name"], tuple(i["column_names"])) for t in tables for i in inspector.get_indexes(t)}
        version = connection.scalar(text("SELECT value FROM meta WHERE name = 'schema_version'"))
    return columns, indexes, version


def test_version_1_is_migrated_with_all_its_runs(database: str, make_record: MakeRecord) -> None:
    one, four = make_record(), make_record(scenario=ScenarioManifest(batch_size=4))
    fill_version_1(database, one, four)
    with Store.open(database) as store:
        assert {run.id: run.batch_size for run in store.list()} == {one.id: 1, four.id: 4}
        assert store.get(four.id) == four
        store.save(make_record(scenario=ScenarioManifest(batch_size=16)))
        assert store.list()[0].batch_size is not None
    columns, _, version = shape_of(database)
    assert ("batch_size", "INTEGER", True) in columns
    assert version == str(schema.SCHEMA_VERSION)


def test_a_migrated_database_has_the_same_tables_as_a_new_one(database: str, make_record: MakeRecord) -> None:
    Store.open(database).close()
    new = shape_of(database)
    with connect(database) as connection:
        connection.execute(text("DROP TABLE runs"))
        connection.execute(text("DROP TABLE machines"))
        connection.execute(text("DROP TABLE part_documents"))
        connection.execute(text("DROP TABLE part_measurements"))
        connection.execute(text("DROP TABLE meta"))
        connection.commit()
    fill_version_1(database, make_record())
    assert shape_of(database) != new
    Store.open(database).close()
    assert shape_of(database) == new


def test_a_migration_that_fails_leaves_the_old_database_as_it_was(database: str, make_record: MakeRecord) -> None:
    broken = make_record()
    fill_version_1(database, broken)
    with connect(database) as connection:
        connection.execute(text("UPDATE runs SET record = '{}'"))
        connection.commit()
    before = shape_of(database)
    with pytest.raises(StoreError, match="schema 1 to 2"):
        Store.open(database)
    assert shape_of(database) == before


def test_a_newer_database_is_refused_and_not_touched(database: str) -> None:
    Store.open(database).close()
    with connect(database) as connection:
        connection.execute(text("UPDATE meta SET value = '99' WHERE name = 'schema_version'"))
        connection.commit()
    before = shape_of(database)
    with pytest.raises(StoreError, match=r"newer Stratoscope \(schema 99; this one knows 4\)") as caught:
        Store.open(database)
    assert "upgrade" in str(caught.value)
    assert shape_of(database) == before


@pytest.mark.parametrize("value", ["", "x", "-1", "0", "1.5"])
def test_a_schema_version_that_is_no_number_is_refused(database: str, value: str) -> None:
    Store.open(database).close()
    with connect(database) as connection:
        connection.execute(text("UPDATE meta SET value = :value"), {"value": value})
        connection.commit()
    with pytest.raises(StoreError, match="does not say which schema"):
        Store.open(database)


def test_an_sqlite_file_of_something_else_is_refused_and_not_touched(tmp_path: Path) -> None:
    file = tmp_path / "places.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
        connection.commit()
    before = file.read_bytes()
    with pytest.raises(StoreError, match=r"holds something else than results \(tables: bookmarks\)"):
        Store.open(file)
    assert file.read_bytes() == before


def test_a_foreign_meta_table_is_refused(database: str) -> None:
    with connect(database) as connection:
        connection.execute(text("CREATE TABLE meta (answer INTEGER)"))
        connection.commit()
    with pytest.raises(StoreError, match="does not say which schema"):
        Store.open(database)


def test_the_tables_and_indexes_as_postgresql_gets_them() -> None:
    dialect = postgresql.dialect()
    runs = str(CreateTable(schema.RUNS).compile(dialect=dialect))
    assert "id VARCHAR(64) NOT NULL" in runs
    assert "metric_value DOUBLE PRECISION" in runs
    assert "record TEXT NOT NULL" in runs
    assert "PRIMARY KEY (id)" in runs
    indexes = {str(CreateIndex(index).compile(dialect=dialect)) for index in schema.RUNS.indexes}
    assert indexes == {
        "CREATE INDEX runs_key ON runs (key)",
        "CREATE INDEX runs_model_name ON runs (model_name)",
        "CREATE INDEX runs_created_at ON runs (created_at)",
    }
