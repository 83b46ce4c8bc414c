"""Two stored runs: the ratio of their query latencies, what else differs, and what the verdict does not cover."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import ModuleType

import numpy as np
import polars as pl
import pytest

from stratoscope.errors import StoreError
from stratoscope.spec.record import BackendRecord, RunRecord, Validity
from stratoscope.spec.scenario import ScenarioKind, ScenarioManifest
from stratoscope.store.comparison import compare_runs, latencies_s
from stratoscope.store.store import Store

MakeRecord = Callable[..., RunRecord]
MakeSamples = Callable[[list[int]], pl.DataFrame]


def noisy_ns(median_ms: float, seed: int, count: int = 400) -> list[int]:
    """Latencies around a median, with 5 % noise of a log-normal law."""
    values = median_ms * 1e6 * np.exp(0.05 * np.random.default_rng(seed).standard_normal(count))
    return [int(value) for value in values]


@pytest.fixture
def save(sqlite_store: Store, make_record: MakeRecord, make_samples: MakeSamples) -> Callable[..., RunRecord]:
    """`save(latencies_ns, **fields)`: a stored run with these latencies."""

    def keep(latencies_ns: list[int], **fields: object) -> RunRecord:
        return sqlite_store.save(make_record(**fields), make_samples(latencies_ns))

    return keep


def test_a_run_that_takes_twice_as_long_is_slower_by_two(sqlite_store: Store, save: Callable[..., RunRecord]) -> None:
    a, b = save(noisy_ns(10, 1)), save(noisy_ns(20, 2))
    found = compare_runs(sqlite_store, a.id, b.id)
    ratio = found.latency.ratio
    assert found.latency.verdict == "slower"
    assert ratio.value == pytest.approx(2, rel=0.02)
    assert ratio.ci_low is not None
    assert ratio.ci_high is not None
    assert 1.9 < ratio.ci_low < ratio.ci_high < 2.1
    back = compare_runs(sqlite_store, b.id, a.id)
    assert back.latency.verdict == "faster"
    assert back.latency.ratio.value == pytest.approx(1 / ratio.require())


def test_two_runs_of_the_same_law_show_no_difference(sqlite_store: Store, save: Callable[..., RunRecord]) -> None:
    a, b = save(noisy_ns(10, 3)), save(noisy_ns(10, 4))
    found = compare_runs(sqlite_store, a.id, b.id)
    assert found.latency.verdict == "no difference seen"
    assert found.aspects == ()
    assert found.differences == ()


def test_the_runs_were_not_interleaved_and_that_is_always_said(
    sqlite_store: Store, save: Callable[..., RunRecord]
) -> None:
    a, b = save(noisy_ns(10, 3)), save(noisy_ns(10, 4))
    [caveat] = compare_runs(sqlite_store, a.id, b.id).caveats
    assert "not interleaved" in caveat
    assert "drift" in caveat


def test_a_querys_latency_runs_from_its_intended_send_time_to_its_last_sample(
    sqlite_store: Store, make_record: MakeRecord
) -> None:
    rows = {
        "query": [1, 0, 0, 1],
        "sample": [0, 1, 2, 3],
        "scheduled_ns": [1_000, 0, 0, 1_000],
        "issued_ns": [1_500, 10, 10, 1_500],
        "completed_ns": [3_000, 400, 700, 2_000],
    }
    multi = ScenarioManifest(kind=ScenarioKind.MULTI_STREAM, samples_per_query=2)
    record = sqlite_store.save(make_record(scenario=multi), pl.DataFrame(rows))
    assert latencies_s(sqlite_store, record).tolist() == pytest.approx([700e-9, 2_000e-9])


def test_fields_that_differ_are_named_within_the_aspects_that_differ(
    sqlite_store: Store, save: Callable[..., RunRecord], records: ModuleType
) -> None:
    hardware = copy.deepcopy(records.HARDWARE)
    hardware["cpu"]["isa"] = ["avx2", "fma", "avx512f"]
    hardware["cpu"]["l3_bytes"] = None
    software = copy.deepcopy(records.SOFTWARE)
    software["packages"]["onnxruntime"] = "1.20.0"
    a = save(noisy_ns(10, 1), hardware={**records.HARDWARE, "state": {"load_average": 0.1}, "hostname": "one"})
    b = save(
        noisy_ns(10, 2),
        hardware={**hardware, "state": {"load_average": 7.5}, "hostname": "two"},
        software=software,
        scenario=ScenarioManifest(min_duration_s=9.0, description="a longer one"),
        backend=BackendRecord(name="onnxruntime", version="1.20.0", options={"threads": 4}),
    )
    found = compare_runs(sqlite_store, a.id, b.id)
    assert found.aspects == ("software", "hardware", "scenario")
    assert {(item.aspect, item.path): (item.a, item.b) for item in found.differences} == {
        ("software", "packages.onnxruntime"): ("1.31.1", "1.20.0"),
        ("software", "backend.version"): ("1.31.1", "1.20.0"),
        ("software", "backend.options.threads"): (2, 4),
        ("software", "backend.options.graph_optimization"): ("all", None),
        ("software", "backend.levels"): (["MODEL", "LAYER"], []),
        ("hardware", "cpu.isa"): ([], ["avx512f"]),
        ("hardware", "cpu.l3_bytes"): (33554432, None),
        ("scenario", "min_duration_s"): (3.0, 9.0),
    }
    assert any("different loads" in caveat for caveat in found.caveats)


def test_lists_in_another_order_are_shown_whole(
    sqlite_store: Store, save: Callable[..., RunRecord], records: ModuleType
) -> None:
    a, b = (
        save(noisy_ns(10, 1), hardware={**records.HARDWARE, "caches": [{"level": 1}, {"level": 2}], "isa": isa})
        for isa in (["avx2", "fma"], ["fma", "avx2"])
    )
    [only] = compare_runs(sqlite_store, a.id, b.id).differences
    assert (only.path, only.a, only.b) == ("isa", ["avx2", "fma"], ["fma", "avx2"])


def test_other_inputs_are_a_difference_of_the_data_and_the_model(
    sqlite_store: Store, save: Callable[..., RunRecord]
) -> None:
    a = save(noisy_ns(10, 1))
    b = save(noisy_ns(10, 2), model="bert", dataset={"id": "generated", "seed": 1})
    found = compare_runs(sqlite_store, a.id, b.id)
    assert found.aspects == ("model", "dataset")
    assert {(item.aspect, item.path) for item in found.differences} == {
        ("model", "id"),
        ("model", "sha256"),
        ("dataset", "dataset.seed"),
    }


def test_what_weakens_the_verdict_is_said(
    sqlite_store: Store, save: Callable[..., RunRecord], make_record: MakeRecord, records: ModuleType
) -> None:
    server = ScenarioManifest(kind=ScenarioKind.SERVER)
    load = records.load_section(server.model_copy(update={"target_qps": 70.0}))
    invalid = load.model_copy(
        update={
            "scenario": server.model_copy(update={"target_qps": 68.5}),
            "validity": Validity(valid=False, reasons=("only 12 queries",)),
            "noise": load.noise.model_copy(update={"quiet": False, "reason": "steal of 12 %"}),
        }
    )
    a = save(noisy_ns(10, 1), scenario=server, load=load)
    b = save(noisy_ns(10, 2), scenario=server, load=invalid, status="interrupted")
    caveats = compare_runs(sqlite_store, a.id, b.id).caveats
    for words in (
        "target_qps 70.0 and 68.5",
        f"run {b.id} is interrupted",
        f"run {b.id} is INVALID: only 12 queries",
        f"run {b.id} was disturbed: steal of 12 %",
        "not independent",
    ):
        assert any(words in caveat for caveat in caveats), words
    assert not any(a.id in caveat for caveat in caveats)


def test_a_run_is_not_compared_with_itself(sqlite_store: Store, save: Callable[..., RunRecord]) -> None:
    save(noisy_ns(10, 1))
    with pytest.raises(StoreError, match="are the same run"):
        compare_runs(sqlite_store, "last", "resnet50")


def test_offline_runs_have_no_latencies_to_compare(sqlite_store: Store, save: Callable[..., RunRecord]) -> None:
    offline = save(noisy_ns(10, 1), scenario=ScenarioManifest(kind=ScenarioKind.OFFLINE))
    other = save(noisy_ns(10, 1))
    with pytest.raises(StoreError, match="is offline"):
        compare_runs(sqlite_store, offline.id, other.id)


@pytest.mark.parametrize("latencies", [[], [5, 0, 7], [5, -3, 7]])
def test_latencies_that_cannot_be_are_refused(
    sqlite_store: Store, save: Callable[..., RunRecord], latencies: list[int]
) -> None:
    record = save(latencies)
    with pytest.raises(StoreError, match="latency above zero"):
        latencies_s(sqlite_store, record)


def test_a_run_without_samples_says_how_to_get_them(sqlite_store: Store, make_record: MakeRecord) -> None:
    record = sqlite_store.save(make_record())
    with pytest.raises(StoreError, match="no latencies to compare") as caught:
        latencies_s(sqlite_store, record)
    assert "stratoscope run" in str(caught.value)


def test_samples_without_their_columns_are_refused(sqlite_store: Store, make_record: MakeRecord) -> None:
    record = sqlite_store.save(make_record(), pl.DataFrame({"query": [1], "completed_ns": [5]}))
    with pytest.raises(StoreError, match="no column scheduled_ns"):
        latencies_s(sqlite_store, record)
