"""Stores to test on: SQLite always, and a PostgreSQL server of our own where its programs and driver are installed."""

from __future__ import annotations

import glob
import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest

from stratoscope.store.store import Store
from stratoscope.trace.levels import Level
from stratoscope.trace.spans import SPAN_SCHEMA


def _postgresql_programs() -> Path | None:
    """The folder of initdb and pg_ctl, where a server and the driver are installed."""
    if importlib.util.find_spec("psycopg") is None:
        return None
    on_path = shutil.which("initdb")
    found = [on_path] if on_path else sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))
    return Path(found[-1]).resolve().parent if found else None


PROGRAMS = _postgresql_programs()
DATABASES = ["sqlite", *(["postgresql"] if PROGRAMS else [])]


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's temporary folder, where runs that could not be saved are kept, for one test."""
    folder = tmp_path_factory.mktemp("tmp")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """The URL of a fresh server that listens on a socket in a temporary folder only."""
    assert PROGRAMS is not None
    account = {"user": "nobody"} if os.geteuid() == 0 else {}  # the server refuses to run as root
    folder = Path(
        tempfile.mkdtemp(prefix="pg", dir="/tmp")
    )  # a socket's path is at most 107 characters, pytest's are longer
    if account:
        shutil.chown(folder, "nobody")
    data, log = folder / "data", folder / "log"
    initdb = [PROGRAMS / "initdb", "-D", data, "-A", "trust", "-U", "tester", "-E", "UTF8", "--locale=C", "--no-sync"]
    subprocess.run(initdb, check=True, capture_output=True, **account)
    options = f"-k {folder} -c listen_addresses= -c fsync=off"
    control = [PROGRAMS / "pg_ctl", "-D", data, "-w"]
    try:
        subprocess.run([*control, "-l", log, "-o", options, "start"], check=True, stdout=subprocess.DEVNULL, **account)
        yield f"postgresql://tester@/postgres?host={folder}"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], check=True, stdout=subprocess.DEVNULL, **account)
        shutil.rmtree(folder)


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty database of each kind, as `--db` takes it."""
    if request.param == "sqlite":
        yield str(tmp_path / "results.db")
        return
    from sqlalchemy import create_engine, text

    monkeypatch.setenv("STRATOSCOPE_ARTIFACTS", str(tmp_path / "artifacts"))
    url = request.getfixturevalue("postgresql_server")
    yield url
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()


@pytest.fixture
def store(database: str) -> Iterator[Store]:
    """An open, empty store of each kind."""
    with Store.open(database) as opened:
        yield opened


@pytest.fixture
def sqlite_store(tmp_path: Path) -> Iterator[Store]:
    """An open, empty store in `results.db`."""
    with Store.open(tmp_path / "results.db") as opened:
        yield opened


def sample_table(latencies_ns: list[int]) -> pl.DataFrame:
    """One row a query, sent every 20 ms."""
    scheduled = [20_000_000 * index for index in range(len(latencies_ns))]
    completed = [start + latency for start, latency in zip(scheduled, latencies_ns, strict=True)]
    return pl.DataFrame(
        {"query": range(len(latencies_ns)), "scheduled_ns": scheduled, "completed_ns": completed},
        schema={"query": pl.Int64, "scheduled_ns": pl.Int64, "completed_ns": pl.Int64},
    )


@pytest.fixture
def samples() -> pl.DataFrame:
    """Three queries."""
    return sample_table([10_000_000, 10_500_000, 9_800_000])


@pytest.fixture
def make_samples() -> Callable[[list[int]], pl.DataFrame]:
    """`make_samples(latencies_ns)`: a table with one row a query."""
    return sample_table


@pytest.fixture
def spans() -> pl.DataFrame:
    """A model span around two layer spans."""
    rows = [
        (0, None, Level.MODEL, "sync", "resnet50", 1, 0, 10_000_000, 0, 0, "model:resnet50#0", None),
        (1, 0, Level.LAYER, "sync", "conv1", 1, 100_000, 6_000_000, 0, 0, "layer:conv1#0", '{"op": "Conv"}'),
        (2, 0, Level.LAYER, "sync", "fc", 1, 6_100_000, 9_900_000, 0, 0, "layer:fc#0", '{"op": "Gemm"}'),
    ]
    return pl.DataFrame(rows, schema=dict(SPAN_SCHEMA), orient="row")
