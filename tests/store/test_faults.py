"""Bad places to keep results: each is one clear line, and nothing that was measured is lost."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from sqlalchemy import event

from stratoscope.errors import StoreError
from stratoscope.spec.record import RunRecord
from stratoscope.store.store import Store, save_run

MakeRecord = Callable[..., RunRecord]


@contextmanager
def unprivileged() -> Iterator[None]:
    """File permissions hold: root steps down to another user meanwhile."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def _folder_for_all() -> Iterator[Path]:
    """A folder that every user may enter and write; pytest's own are closed to others."""
    folder = Path(tempfile.mkdtemp(prefix="stratoscope-test-", dir="/tmp"))
    folder.chmod(0o777)
    yield folder
    folder.chmod(0o777)
    shutil.rmtree(folder)


open_folder = pytest.fixture(_folder_for_all)
other_open_folder = pytest.fixture(_folder_for_all)


def one_line(error: StoreError) -> str:
    text = str(error)
    assert "\n" not in text
    assert error.hint
    return text


def kept_file(folder: Path) -> Path:
    """The one run that was kept in the temporary folder."""
    [file] = folder.glob("stratoscope-run-*/run.jsonl")
    return file


def check_nothing_is_lost(
    temporary_folder: Path, tmp_path: Path, record: RunRecord, samples: pl.DataFrame, spans: pl.DataFrame
) -> None:
    """The kept run can be merged into a good store, with its tables."""
    with Store.open(tmp_path / "good.db") as store:
        assert store.merge(kept_file(temporary_folder)).added == (record.id,)
        assert store.get(record.id).model_copy(update={"artifacts": {}}) == record
        for table, back in ((samples, store.samples(record.id)), (spans, store.spans(record.id))):
            assert back is not None
            assert_frame_equal(back, table)


def test_a_full_disk_is_said_and_the_run_is_kept_elsewhere(
    sqlite_store: Store,
    make_record: MakeRecord,
    samples: pl.DataFrame,
    spans: pl.DataFrame,
    temporary_folder: Path,
    tmp_path: Path,
) -> None:
    first = sqlite_store.save(make_record())

    @event.listens_for(sqlite_store.engine, "connect")
    def no_more_pages(connection: sqlite3.Connection, _: object) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count={pages}")

    record = make_record()
    with pytest.raises(StoreError, match="the disk is full") as caught:
        sqlite_store.save(record, samples, spans)
    assert str(kept_file(temporary_folder)) in one_line(caught.value)
    assert [run.id for run in sqlite_store.list()] == [first.id]
    assert not (sqlite_store.artifacts / record.id).exists()
    check_nothing_is_lost(temporary_folder, tmp_path, record, samples, spans)


def test_a_table_that_no_longer_fits_leaves_no_half_file_and_no_row(
    sqlite_store: Store, make_record: MakeRecord, tmp_path: Path, temporary_folder: Path
) -> None:
    # A limit on the size of files stands in for the full disk: a real error of the operating system (EFBIG).
    large = pl.DataFrame({"x": pl.Series(range(50_000)).shuffle(seed=1)})
    record = make_record()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(StoreError, match="cannot write samples and spans") as caught:
            sqlite_store.save(record, spans=large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert "File too large" in one_line(caught.value)
    assert sqlite_store.list() == []
    assert list(sqlite_store.artifacts.rglob("*.p*")) == []
    assert sqlite_store.save(record, spans=large).id == record.id


def test_a_read_only_database_is_read_and_says_that_it_cannot_be_written(
    open_folder: Path,
    other_open_folder: Path,
    make_record: MakeRecord,
    samples: pl.DataFrame,
    spans: pl.DataFrame,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = open_folder / "results.db"
    with Store.open(file) as store:
        earlier = store.save(make_record())
    file.chmod(0o444)
    open_folder.chmod(0o555)
    record = make_record()
    monkeypatch.setattr(tempfile, "tempdir", str(other_open_folder))
    with unprivileged(), Store.open(file) as store:
        assert store.get() == earlier
        with pytest.raises(StoreError) as caught:
            store.save(record, samples, spans)
        with pytest.raises(StoreError, match="read-only"):
            store.delete("last")
        with pytest.raises(StoreError, match="read-only"):
            store.insert(record)
    assert "Permission denied" in one_line(caught.value)
    check_nothing_is_lost(other_open_folder, tmp_path, record, samples, spans)


def test_a_folder_that_may_not_be_written_is_said(open_folder: Path) -> None:
    open_folder.chmod(0o555)
    with unprivileged(), pytest.raises(StoreError, match="cannot be opened or made") as caught:
        Store.open(open_folder / "results.db")
    assert str(open_folder / "results.db") in one_line(caught.value)


def test_a_folder_that_may_not_be_entered_is_said(open_folder: Path) -> None:
    inner = open_folder / "closed"
    inner.mkdir(mode=0o700)
    with unprivileged(), pytest.raises(StoreError, match="cannot open the results") as caught:
        Store.open(inner / "results.db")
    one_line(caught.value)


def test_a_file_that_is_no_database_is_said_and_not_changed(tmp_path: Path) -> None:
    file = tmp_path / "results.db"
    file.write_bytes(b"these are notes, not results\n" * 100)
    before = file.read_bytes()
    with pytest.raises(StoreError, match="this file is not a results database") as caught:
        Store.open(file)
    one_line(caught.value)
    assert file.read_bytes() == before


def test_a_corrupt_page_is_said_and_the_run_is_kept_elsewhere(
    tmp_path: Path, make_record: MakeRecord, samples: pl.DataFrame, spans: pl.DataFrame, temporary_folder: Path
) -> None:
    file = tmp_path / "results.db"
    with Store.open(file) as store:
        for _ in range(5):
            store.save(make_record())
    with closing(sqlite3.connect(file)) as connection:
        page_size = connection.execute("PRAGMA page_size").fetchone()[0]
        roots = connection.execute("SELECT rootpage FROM sqlite_master WHERE tbl_name = 'runs'").fetchall()
    with file.open("r+b") as raw:
        for (page,) in roots:
            raw.seek((page - 1) * page_size)
            raw.write(b"\xa5" * page_size)
    record = make_record()
    with Store.open(file) as store:
        with pytest.raises(StoreError, match="the database is corrupt") as caught:
            store.list()
        one_line(caught.value)
        with pytest.raises(StoreError, match="the database is corrupt"):
            store.save(record, samples, spans)
    check_nothing_is_lost(temporary_folder, tmp_path, record, samples, spans)


def test_a_truncated_database_is_said(tmp_path: Path, make_record: MakeRecord) -> None:
    file = tmp_path / "results.db"
    with Store.open(file) as store:
        for _ in range(5):
            store.save(make_record())
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(StoreError, match="the database is corrupt"), Store.open(file) as store:
        store.list()


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("missing/results.db", "the folder of the results does not exist"),
        ("a_file/results.db", "the folder of the results does not exist"),
        ("a_folder", "is a folder"),
        ("x" * 300 + ".db", "cannot open the results"),
        ("nul\0.db", "holds a NUL character"),
    ],
)
def test_a_place_that_cannot_hold_a_database_is_said(tmp_path: Path, place: str, message: str) -> None:
    (tmp_path / "a_file").touch()
    (tmp_path / "a_folder").mkdir()
    with pytest.raises(StoreError, match=message) as caught:
        Store.open(str(tmp_path / place))
    one_line(caught.value)


def test_reading_makes_no_database(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there are no results yet at"):
        Store.open(tmp_path / "typo.db", create=False)
    assert list(tmp_path.iterdir()) == []


def test_names_that_sqlite_takes_for_options_are_file_names(tmp_path: Path, make_record: MakeRecord) -> None:
    file = tmp_path / "odd ?mode=memory&x#50%41.db"
    with Store.open(file) as store:
        store.save(make_record())
    assert file.is_file()
    with Store.open(file, create=False) as store:
        assert len(store.list()) == 1


def test_a_missing_driver_is_said_with_the_extra_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StoreError, match="is not installed") as caught:
        Store.open("postgresql://me:secret@localhost:1/none")
    assert "pip install 'stratoscope[postgres]'" in one_line(caught.value)
    assert "secret" not in str(caught.value)


def test_a_run_is_kept_where_not_even_the_database_can_be_opened(
    tmp_path: Path, make_record: MakeRecord, samples: pl.DataFrame, spans: pl.DataFrame, temporary_folder: Path
) -> None:
    record = make_record()
    with pytest.raises(StoreError, match="does not exist") as caught:
        save_run(tmp_path / "missing/results.db", record, samples, spans)
    assert str(kept_file(temporary_folder)) in one_line(caught.value)
    check_nothing_is_lost(temporary_folder, tmp_path, record, samples, spans)


def test_a_run_is_kept_in_the_current_folder_where_there_is_no_temporary_one(
    tmp_path: Path, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match="the run is kept in"):
        save_run(tmp_path / "missing/results.db", make_record())
    assert kept_file(tmp_path).is_file()


def test_a_run_that_can_be_kept_nowhere_says_so(
    tmp_path: Path, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    monkeypatch.setattr(os, "getcwd", lambda: str(tmp_path / "gone too"))
    with pytest.raises(StoreError, match="nor could the run be kept"):
        save_run(tmp_path / "missing/results.db", make_record())


def test_a_disk_that_fills_up_while_a_run_is_kept_leaves_no_folder(
    tmp_path: Path, make_record: MakeRecord, temporary_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: Path, content: bytes) -> None:
        file.write_bytes(content[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("stratoscope.store.store.write_atomically", full)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match="nor could the run be kept"):
        save_run(tmp_path / "missing/results.db", make_record())
    assert list(temporary_folder.iterdir()) == []
    assert [one for one in tmp_path.iterdir() if one != temporary_folder] == []


def test_an_invalid_id_does_not_lose_the_run(
    sqlite_store: Store, make_record: MakeRecord, samples: pl.DataFrame, temporary_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match="is not valid"):
        sqlite_store.save(make_record(id="../../etc"), samples)
    assert sqlite_store.list() == []
    assert len(sqlite_store.merge(kept_file(temporary_folder)).added) == 1
    assert sqlite_store.samples("last") is not None


def test_a_record_changed_by_hand_names_its_field(sqlite_store: Store, make_record: MakeRecord, tmp_path: Path) -> None:
    saved = sqlite_store.save(make_record())
    with closing(sqlite3.connect(tmp_path / "results.db")) as connection:
        connection.execute('UPDATE runs SET record = replace(record, \'"queries":310\', \'"queries":"many"\')')
        connection.commit()
    with pytest.raises(StoreError, match=r"load\.queries") as caught:
        sqlite_store.get(saved.id)
    one_line(caught.value)
