"""Several processes write at once and lose nothing; a process killed at any moment leaves a readable database."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from stratoscope.spec.record import RunRecord
from stratoscope.store.location import locate
from stratoscope.store.store import Store

WORKER = Path(__file__).with_name("worker.py")
MakeRecord = Callable[..., RunRecord]
Start = Callable[[str, str, int], subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """`start(mode, database, count)`: a worker that is ready and waits for a line to begin; ended after the test."""
    with ExitStack() as stack:

        def begin(mode: str, database: str, count: int) -> subprocess.Popen[str]:
            command = [sys.executable, str(WORKER), mode, database, str(count)]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield begin


def go(process: subprocess.Popen[str]) -> None:
    """Lets a worker begin, once it is ready."""
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("go\n")
    process.stdin.flush()


def check_whole(database: str, run_ids: set[str]) -> None:
    """All of these runs are there with their tables, and SQLite finds no fault in the file."""
    with Store.open(database, create=False) as store:
        assert run_ids <= {run.id for run in store.list()}
        for run in store.list():
            assert store.get(run.id).id == run.id
            for table in (store.samples(run.id), store.spans(run.id)):
                assert table is None or table.height == 1000
    file = locate(database).file
    if file is not None:
        with closing(sqlite3.connect(file)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_processes_that_make_the_database_and_write_at_once_lose_nothing(database: str, start: Start) -> None:
    workers = [start("save", database, 15) for _ in range(3)]
    for worker in workers:
        go(worker)
    outputs = [worker.communicate(timeout=120)[0].split() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0, 0]
    saved = {run_id for output in outputs for run_id in output}
    assert len(saved) == 45
    check_whole(database, saved)
    with Store.open(database) as store:
        assert len(store.list()) == 45


def test_readers_do_not_wait_for_a_writer_and_never_see_half_of_its_work(
    database: str, start: Start, make_record: MakeRecord
) -> None:
    with Store.open(database) as store:
        store.save(make_record())
        writer = start("hold", database, 3)
        go(writer)
        assert writer.stdout is not None
        assert writer.stdout.readline() == "holding\n"
        assert len(store.list()) == 1
        with Store.open(database) as second:
            assert len(second.list()) == 1


def test_a_writer_killed_before_its_commit_leaves_nothing_and_does_not_block_the_next(
    database: str, start: Start, make_record: MakeRecord
) -> None:
    with Store.open(database) as store:
        store.save(make_record())
    writer = start("hold", database, 3)
    go(writer)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "holding\n"
    writer.kill()
    writer.wait()
    with Store.open(database) as store:
        assert len(store.list()) == 1
        store.save(make_record())
        assert len(store.list()) == 2
    check_whole(database, set())


@pytest.mark.parametrize("acknowledged", [1, 5, 12])
def test_a_killed_writer_loses_no_run_that_it_reported_as_saved(
    database: str, start: Start, make_record: MakeRecord, acknowledged: int
) -> None:
    writer = start("save", database, 100_000)
    go(writer)
    assert writer.stdout is not None
    saved = {writer.stdout.readline().strip() for _ in range(acknowledged)}
    writer.kill()
    rest = writer.stdout.read()
    saved |= {line for line in rest.split("\n")[:-1] if line}
    writer.wait()
    check_whole(database, saved)
    with Store.open(database) as store:
        later = store.save(make_record())
        assert store.get(later.id) == later
