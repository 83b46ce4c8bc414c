"""Tables as Parquet: whole or absent, read only from the folder of their run, clear when damaged."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from stratoscope.errors import StoreError
from stratoscope.spec.record import RunRecord
from stratoscope.store.artifacts import artifact_path, read_artifact, write_artifacts, write_atomically
from stratoscope.store.store import Store
from stratoscope.trace.spans import SPAN_SCHEMA

MakeRecord = Callable[..., RunRecord]


def test_a_span_table_keeps_its_schema_nulls_and_the_ends_of_its_integers(tmp_path: Path, spans: pl.DataFrame) -> None:
    ends = spans.with_columns(
        start_ns=pl.lit(-(2**63), pl.Int64), end_ns=pl.lit(2**63 - 1, pl.Int64), name=pl.lit("é\0\n")
    )
    table = pl.concat([spans, ends])
    files = write_artifacts(tmp_path, "run1", {"spans": table, "samples": None})
    assert files == {"spans": "run1/spans.parquet"}
    back = read_artifact(tmp_path, "run1", files["spans"])
    assert dict(back.schema) == dict(SPAN_SCHEMA)
    assert_frame_equal(back, table)


def test_tables_are_readable_by_any_parquet_reader_with_zstandard(tmp_path: Path, samples: pl.DataFrame) -> None:
    files = write_artifacts(tmp_path, "run1", {"samples": samples})
    content = (tmp_path / files["samples"]).read_bytes()
    assert content[:4] == content[-4:] == b"PAR1"
    assert_frame_equal(pl.scan_parquet(tmp_path / files["samples"]).collect(), samples)


@pytest.mark.parametrize(
    "relative",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "run1/../../x.parquet",
        "run1/..",
        "run2/samples.parquet",
        "samples.parquet",
        "run1/deeper/samples.parquet",
        "",
        "run1/x\0.parquet",
    ],
)
def test_a_name_that_leads_out_of_the_folder_of_its_run_is_refused(tmp_path: Path, relative: str) -> None:
    with pytest.raises(StoreError, match="lies outside the folder of its run"):
        artifact_path(tmp_path, "run1", relative)


def test_links_that_lead_out_are_refused(tmp_path: Path, samples: pl.DataFrame) -> None:
    write_artifacts(tmp_path / "elsewhere", "run1", {"samples": samples})
    root = tmp_path / "root"
    root.mkdir()
    (root / "run1").symlink_to(tmp_path / "elsewhere/run1")
    with pytest.raises(StoreError, match="lies outside"):
        read_artifact(root, "run1", "run1/samples.parquet")
    (root / "run2").mkdir()
    (root / "run2/samples.parquet").symlink_to(tmp_path / "elsewhere/run1/samples.parquet")
    with pytest.raises(StoreError, match="lies outside"):
        read_artifact(root, "run2", "run2/samples.parquet")


def test_deleting_a_run_whose_folder_is_a_link_leaves_the_target(
    sqlite_store: Store, make_record: MakeRecord, tmp_path: Path
) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    saved = sqlite_store.save(make_record())
    sqlite_store.artifacts.mkdir()
    (sqlite_store.artifacts / saved.id).symlink_to(precious)
    sqlite_store.delete(saved.id)
    assert (precious / "file").exists()


def test_a_missing_table_names_its_file(sqlite_store: Store, make_record: MakeRecord, samples: pl.DataFrame) -> None:
    saved = sqlite_store.save(make_record(), samples)
    file = sqlite_store.artifacts / saved.artifacts["samples"]
    file.unlink()
    with pytest.raises(StoreError, match=r"samples\.parquet is missing") as caught:
        sqlite_store.samples(saved.id)
    assert str(file) in str(caught.value)
    assert sqlite_store.get(saved.id) == saved


@pytest.mark.parametrize("damage", ["empty", "text", "half", "tail", "folder"])
def test_a_damaged_table_is_said_and_the_record_is_still_there(
    sqlite_store: Store, make_record: MakeRecord, samples: pl.DataFrame, damage: str
) -> None:
    saved = sqlite_store.save(make_record(), samples)
    file = sqlite_store.artifacts / saved.artifacts["samples"]
    content = file.read_bytes()
    file.unlink()
    if damage == "folder":
        file.mkdir()
    else:
        damaged = {"empty": b"", "text": b"not parquet", "half": content[: len(content) // 2], "tail": content[-40:]}
        file.write_bytes(damaged[damage])
    with pytest.raises(StoreError, match=r"is not a whole Parquet file|cannot be read"):
        sqlite_store.samples(saved.id)
    assert sqlite_store.get(saved.id) == saved


def test_any_damage_is_a_clear_error_or_harmless(tmp_path: Path, spans: pl.DataFrame) -> None:
    file = tmp_path / write_artifacts(tmp_path, "run1", {"spans": spans})["spans"]
    content = file.read_bytes()
    generator = random.Random(7)
    refused = 0
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(generator.randint(1, 8)):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        file.write_bytes(damaged)
        try:
            read_artifact(tmp_path, "run1", "run1/spans.parquet")
        except StoreError:
            refused += 1
    assert refused > 50


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=200), st.binary(max_size=200))
def test_an_atomic_write_replaces_the_whole_content(
    tmp_path_factory: pytest.TempPathFactory, first: bytes, second: bytes
) -> None:
    path = tmp_path_factory.mktemp("atomic") / "file"
    for content in (first, second):
        write_atomically(path, content)
        assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]
