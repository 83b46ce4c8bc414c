"""Export and merge: runs reach another database unchanged, once, whatever comes between."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from stratoscope.errors import StoreError
from stratoscope.spec.record import RunRecord
from stratoscope.store import exchange
from stratoscope.store.store import Store

MakeRecord = Callable[..., RunRecord]


@pytest.fixture
def other(tmp_path: Path) -> Store:
    """A second, empty store."""
    return Store.open(tmp_path / "other.db")


def test_an_export_merged_into_another_store_gives_the_same_runs(
    store: Store, other: Store, make_record: MakeRecord, samples: pl.DataFrame, spans: pl.DataFrame, tmp_path: Path
) -> None:
    saved = [store.save(make_record(), samples, spans), store.save(make_record(status="interrupted"))]
    file = tmp_path / "export.jsonl"
    assert set(store.export(file)) == {record.id for record in saved}
    shutil.rmtree(store.artifacts)  # the export stands on its own
    result = other.merge(file)
    assert set(result.added) == {record.id for record in saved}
    assert result.without_tables == ()
    for record in saved:
        assert other.get(record.id) == record
    back = other.spans(saved[0].id)
    assert back is not None
    assert_frame_equal(back, spans)


def test_merging_twice_or_into_the_same_store_changes_nothing(
    store: Store, other: Store, make_record: MakeRecord, samples: pl.DataFrame, tmp_path: Path
) -> None:
    saved = store.save(make_record(), samples)
    file = tmp_path / "export.jsonl"
    store.export(file)
    assert store.merge(file) == exchange.MergeResult((), (saved.id,), ())
    assert other.merge(file) == exchange.MergeResult((saved.id,), (), ())
    assert other.merge(file) == exchange.MergeResult((), (saved.id,), ())
    assert len(other.list()) == 1


def test_chosen_runs_only_are_exported_each_once(store: Store, make_record: MakeRecord, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        store.save(make_record(id=name, model=f"model-{name}"))
    assert store.export(tmp_path / "x.jsonl", ["model-b", "a", "b"]) == ("b", "a")
    lines = (tmp_path / "x.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["b", "a"]
    assert json.loads(lines[0])["schema"] == "stratoscope/run/1"


def test_a_different_run_of_the_same_id_stops_the_merge_before_anything_is_added(
    store: Store, other: Store, make_record: MakeRecord, samples: pl.DataFrame, tmp_path: Path
) -> None:
    store.save(make_record(id="new"), samples)
    clash = make_record(id="same")
    store.save(clash, samples)
    other.save(clash.model_copy(update={"command": "another"}))
    file = tmp_path / "export.jsonl"
    store.export(file)
    with pytest.raises(StoreError, match=r"run same is already in .* with another content"):
        other.merge(file)
    assert [run.id for run in other.list()] == ["same"]
    assert not other.artifacts.exists()


def test_tables_that_did_not_come_along_are_said_and_filled_in_later(
    store: Store, other: Store, make_record: MakeRecord, samples: pl.DataFrame, tmp_path: Path
) -> None:
    saved = store.save(make_record(), samples)
    file, alone = tmp_path / "export.jsonl", tmp_path / "alone.jsonl"
    store.export(file)
    shutil.copy(file, alone)
    assert other.merge(alone) == exchange.MergeResult((saved.id,), (), (saved.id,))
    with pytest.raises(StoreError, match="is missing"):
        other.samples(saved.id)
    assert other.merge(file) == exchange.MergeResult((), (saved.id,), ())
    back = other.samples(saved.id)
    assert back is not None
    assert_frame_equal(back, samples)


def test_an_export_with_a_missing_table_is_not_written(
    store: Store, make_record: MakeRecord, samples: pl.DataFrame, tmp_path: Path
) -> None:
    saved = store.save(make_record(), samples)
    (store.artifacts / saved.artifacts["samples"]).unlink()
    file = tmp_path / "out" / "export.jsonl"
    file.parent.mkdir()
    with pytest.raises(StoreError, match="is missing"):
        store.export(file)
    assert not file.exists()
    assert list(file.parent.glob(".*")) == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("not json", "line 2 is not the record of a run"),
        ("{}", "line 2 is not the record of a run"),
        ("[" * 100_000, "line 2 is not the record of a run"),
        ("\xff\xfe", "line 2 is not the record of a run"),
    ],
)
def test_a_line_that_is_no_record_is_named_and_nothing_is_added(
    store: Store, make_record: MakeRecord, tmp_path: Path, line: str, message: str
) -> None:
    file = tmp_path / "export.jsonl"
    file.write_bytes(make_record().model_dump_json(by_alias=True).encode() + b"\n" + line.encode("latin-1") + b"\n")
    with pytest.raises(StoreError, match=message) as caught:
        store.merge(file)
    assert len(str(caught.value)) < 400
    assert store.list() == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": "../x"}, "run id '../x' is not valid"),
        ({"artifacts": {"samples": "../../secret"}}, "lies outside the folder"),
        ({"artifacts": {"samples": "/etc/passwd"}}, "lies outside the folder"),
    ],
)
def test_a_record_from_elsewhere_cannot_name_files_outside_its_folder(
    store: Store, make_record: MakeRecord, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    file = tmp_path / "export.jsonl"
    file.write_text(make_record(**changes).model_dump_json(by_alias=True) + "\n")
    with pytest.raises(StoreError, match=message):
        store.merge(file)
    assert store.list() == []


def test_a_file_without_line_ends_is_not_read_into_memory(
    sqlite_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "MAX_RECORD_BYTES", 1000)
    file = tmp_path / "export.jsonl"
    file.write_bytes(b"x" * 5000)
    with pytest.raises(StoreError, match="line 1 is longer than"):
        sqlite_store.merge(file)


@pytest.mark.parametrize("place", ["missing.jsonl", "folder", "missing/x.jsonl"])
def test_a_file_that_cannot_be_read_or_written_is_said(sqlite_store: Store, tmp_path: Path, place: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match="cannot read the export"):
        sqlite_store.merge(tmp_path / place)
    if place != "missing.jsonl":
        with pytest.raises(StoreError, match="cannot write the export"):
            sqlite_store.export(tmp_path / place)
