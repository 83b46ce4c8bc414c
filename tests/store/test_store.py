"""Saving, finding, listing and deleting runs, in every kind of database."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from stratoscope.errors import StoreError
from stratoscope.spec.record import Digests, RunRecord
from stratoscope.spec.scenario import ScenarioKind, ScenarioManifest
from stratoscope.stats.quantity import Quantity
from stratoscope.store.store import Store
from stratoscope.store.summary import headline, utc_text

MakeRecord = Callable[..., RunRecord]


def test_a_saved_run_comes_back_with_its_tables(
    store: Store, make_record: MakeRecord, samples: pl.DataFrame, spans: pl.DataFrame
) -> None:
    record = make_record(command="stratoscope run 'a b' \u0000 é")
    saved = store.save(record, samples, spans)
    assert saved.artifacts == {"samples": f"{record.id}/samples.parquet", "spans": f"{record.id}/spans.parquet"}
    assert saved.model_copy(update={"artifacts": {}}) == record
    assert store.get(record.id) == saved
    for table, back in ((samples, store.samples(record.id)), (spans, store.spans(record.id))):
        assert back is not None
        assert_frame_equal(back, table)


def test_what_one_store_saves_another_one_reads(database: str, make_record: MakeRecord, samples: pl.DataFrame) -> None:
    with Store.open(database) as first:
        saved = first.save(make_record(), samples)
    with Store.open(database, create=False) as second:
        assert second.get() == saved


def test_a_run_without_tables_has_none(store: Store, make_record: MakeRecord) -> None:
    saved = store.save(make_record())
    assert saved.artifacts == {}
    assert store.samples(saved.id) is None
    assert store.spans(saved.id) is None
    assert not (store.artifacts / saved.id).exists()


def test_an_empty_table_is_not_a_missing_one(store: Store, make_record: MakeRecord, samples: pl.DataFrame) -> None:
    saved = store.save(make_record(), samples.clear())
    back = store.samples(saved.id)
    assert back is not None
    assert_frame_equal(back, samples.clear())


def test_saving_twice_changes_nothing_and_another_run_of_that_id_is_refused(
    store: Store, make_record: MakeRecord, make_samples: Callable[[list[int]], pl.DataFrame]
) -> None:
    record = make_record()
    saved = store.save(record, make_samples([1, 2, 3]))
    assert store.save(record, make_samples([1, 2, 3])) == saved
    assert len(store.list()) == 1
    with pytest.raises(StoreError, match=f"another run with the id {record.id}"):
        store.save(record.model_copy(update={"command": "changed"}), make_samples([9, 9, 9]))
    assert store.get(record.id) == saved
    kept = store.samples(record.id)
    assert kept is not None
    assert_frame_equal(kept, make_samples([1, 2, 3]))


@pytest.mark.parametrize("status", ["interrupted", "failed"])
def test_a_run_that_did_not_end_is_kept_and_marked(store: Store, make_record: MakeRecord, status: str) -> None:
    store.save(make_record(status=status, status_reason="Ctrl-C during the load", profile=None))
    assert [run.status for run in store.list()] == [status]
    assert store.get().status_reason == "Ctrl-C during the load"


def test_lists_are_newest_first_whatever_the_time_zone_and_the_order_of_saving(
    store: Store, make_record: MakeRecord
) -> None:
    noon = datetime(2025, 6, 1, 12, tzinfo=UTC)
    east = timezone(timedelta(hours=9))
    moments = {
        "third": noon + timedelta(seconds=2),
        "first": noon.astimezone(east),
        "second": (noon + timedelta(seconds=1)).astimezone(east),
    }
    for name, moment in moments.items():
        store.save(make_record(id=name, created_at=moment))
    assert [run.id for run in store.list()] == ["third", "second", "first"]
    assert [run.created_at for run in store.list()] == [noon + timedelta(seconds=s) for s in (2, 1, 0)]
    assert [run.id for run in store.list(since=noon + timedelta(seconds=1))] == ["third", "second"]
    assert [run.id for run in store.list(limit=1)] == ["third"]


def test_filters_are_joined_by_and(store: Store, make_record: MakeRecord, records: object) -> None:
    offline = ScenarioManifest(kind=ScenarioKind.OFFLINE, batch_size=8)
    store.save(make_record(id="a", model="resnet50"))
    store.save(make_record(id="b", model="resnet50", scenario=offline, status="interrupted"))
    store.save(make_record(id="c", model="bert", scenario=offline))

    def ids(**filters: str) -> set[str]:
        return {run.id for run in store.list(**filters)}

    assert ids(model="resnet50") == {"a", "b"}
    assert ids(scenario="offline") == {"b", "c"}
    assert ids(scenario="offline", model="resnet50") == {"b"}
    assert ids(status="interrupted") == {"b"}
    assert ids(backend="onnxruntime") == {"a", "b", "c"}
    assert ids(backend="pytorch") == set()
    assert {run.id: run.batch_size for run in store.list()} == {"a": 1, "b": 8, "c": 8}


def test_the_same_key_finds_old_results_and_any_other_digest_does_not(store: Store, make_record: MakeRecord) -> None:
    first, again = make_record(), make_record()
    assert first.key == again.key
    for record in (first, again):
        store.save(record)
    for aspect in Digests.model_fields:
        other = first.digests.model_copy(update={aspect: "sha256:other"})
        store.save(make_record(digests=other))
    assert {run.id for run in store.find(first.key)} == {first.id, again.id}
    assert store.find("sha256:unknown") == []


def test_deleting_removes_the_run_and_its_tables_only(
    store: Store, make_record: MakeRecord, samples: pl.DataFrame
) -> None:
    kept, gone = store.save(make_record(), samples), store.save(make_record(), samples)
    assert store.delete(gone.id) == gone.id
    assert [run.id for run in store.list()] == [kept.id]
    assert sorted(path.name for path in store.artifacts.iterdir()) == [kept.id]
    with pytest.raises(StoreError, match="there is no run"):
        store.get(gone.id)


def test_a_list_shows_the_figure_that_its_scenario_is_judged_by(store: Store, make_record: MakeRecord) -> None:
    record = make_record()
    store.save(record)
    [run] = store.list()
    assert record.load is not None
    expected = record.load.latency["early_stopping_p90"]
    assert (run.metric_name, run.metric_value) == ("load.latency.early_stopping_p90", expected.value)
    assert (run.metric_unit, run.metric_low, run.metric_high) == ("s", None, None)


@pytest.mark.parametrize(
    ("left_out", "name", "value"),
    [
        ((), "load.latency.early_stopping_p90", 0.0110),
        (("load",), "profile.model_time", 0.0100),
        (("load", "profile"), "sweep.throughput", 166.0),
        (("load", "profile", "sweep"), "accuracy.top1", 0.975),
        (("load", "profile", "sweep", "accuracy"), "cold_start.first_inference_s", 0.018),
    ],
)
def test_without_a_load_the_next_best_section_gives_the_figure(
    make_record: MakeRecord, left_out: tuple[str, ...], name: str, value: float
) -> None:
    found = headline(make_record(**dict.fromkeys(left_out)))
    assert found is not None
    assert (found[0], found[1].value) == (name, value)


def test_a_figure_without_a_value_is_listed_without_one_never_as_zero(store: Store, make_record: MakeRecord) -> None:
    record = make_record()
    assert record.load is not None
    latency = {"p99": Quantity.unjustified("s", "12 samples are too few", "p99", 12)}
    store.save(make_record(load=record.load.model_copy(update={"latency": latency, "headline": "p99"})))
    [run] = store.list()
    assert (run.metric_name, run.metric_value, run.metric_low) == ("load.latency.p99", None, None)


def test_a_run_with_nothing_measured_is_listed_without_a_figure(store: Store, make_record: MakeRecord) -> None:
    sections = ("load", "profile", "sweep", "accuracy", "cold_start")
    store.save(make_record(status="interrupted", **dict.fromkeys(sections)))
    [run] = store.list()
    assert (run.metric_name, run.metric_value, run.metric_unit) == (None, None, None)


def test_a_moment_without_a_zone_is_local_time(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert utc_text(datetime(2025, 1, 1, 9)) == "2025-01-01T00:00:00.000000Z"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_the_default_database_is_made_with_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STRATOSCOPE_DB")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "new"))
    with Store.open() as store:
        assert store.list() == []
    assert (tmp_path / "new/stratoscope/results.db").is_file()
