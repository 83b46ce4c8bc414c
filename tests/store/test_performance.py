"""The performance database: one measurement for each key, found again, taken elsewhere and back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from stratoscope.errors import StoreError
from stratoscope.spec.performance import Candidate, Environment, Part, PartMeasurement, PartStatus, Protocol
from stratoscope.store.location import locate
from stratoscope.store.performance import PerformanceDatabase

HERE, THERE = Environment(cpu="here"), Environment(cpu="there")
ORT = Candidate(library="onnxruntime", implementation="graph=all", version="1")
TORCH = Candidate(library="pytorch", implementation="eager", version="2")
HOT, FLUSHED = Protocol(cache="hot"), Protocol(cache="flushed")


def part(name: str) -> Part:
    return Part(digest=f"sha256:{name}", kind="layer", slug=name, operators=("Relu",), flops=8, bytes=64)


def one(
    name: str = "a",
    candidate: Candidate = ORT,
    environment: Environment = HERE,
    protocol: Protocol = FLUSHED,
    status: PartStatus = "ok",
    seconds: float = 1e-3,
) -> PartMeasurement:
    return PartMeasurement(
        part=part(name),
        candidate=candidate,
        environment=environment,
        protocol=protocol,
        status=status,
        reason=None if status == "ok" else "it said no",
        samples_s=(seconds, seconds * 1.1, seconds * 1.2) if status == "ok" else (),
        started_at=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
        settings={"threads": 1},
    )


@pytest.fixture
def performance(database: str) -> Iterator[PerformanceDatabase]:
    with PerformanceDatabase(database) as opened:
        yield opened


def test_what_was_kept_is_found_as_it_was(performance: PerformanceDatabase) -> None:
    assert performance.record(one())
    assert performance.find() == [one()]
    assert performance.environments() == {HERE.digest: HERE}


def test_the_same_key_is_kept_once_and_the_first_stays(performance: PerformanceDatabase) -> None:
    assert performance.record(one(seconds=1e-3))
    assert not performance.record(one(seconds=5e-3))
    assert performance.count() == 1
    assert performance.find()[0].samples_s[0] == 1e-3
    assert performance.record(one(seconds=5e-3), replace=True)
    assert [found.samples_s[0] for found in performance.find()] == [5e-3]


def test_the_table_itself_refuses_a_second_row(performance: PerformanceDatabase, database: str) -> None:
    performance.record(one())
    with create_engine(locate(database).url).connect() as connection, pytest.raises(Exception, match=r"(?i)unique"):
        connection.execute(text("INSERT INTO part_measurements SELECT * FROM part_measurements"))


@pytest.mark.parametrize("change", ["part", "candidate", "environment", "protocol"])
def test_each_of_the_four_keys_tells_measurements_apart(performance: PerformanceDatabase, change: str) -> None:
    others = {
        "part": one("b"),
        "candidate": one(candidate=TORCH),
        "environment": one(environment=THERE),
        "protocol": one(protocol=HOT),
    }
    performance.record(one())
    assert performance.record(others[change])
    assert performance.count() == 2


def test_a_refused_measurement_is_no_result(performance: PerformanceDatabase) -> None:
    performance.record(one(status="refused"))
    assert performance.missing([part("a")], [ORT], HERE, [FLUSHED]) == [(part("a"), ORT, FLUSHED)]
    assert not performance.record(one(status="refused"))
    assert performance.record(one())
    assert [found.status for found in performance.find()] == ["ok"]
    assert not performance.record(one(status="refused"))


@pytest.mark.parametrize("status", ["failed", "wrong", "unsupported"])
def test_a_failure_is_a_result_unless_it_is_to_be_tried_again(
    performance: PerformanceDatabase, status: PartStatus
) -> None:
    performance.record(one(status=status))
    assert performance.missing([part("a")], [ORT], HERE, [FLUSHED]) == []
    assert len(performance.missing([part("a")], [ORT], HERE, [FLUSHED], retry=(status,))) == 1


def test_missing_lists_what_has_no_measurement_on_this_machine(performance: PerformanceDatabase) -> None:
    performance.record(one("a"))
    performance.record(one("b", environment=THERE))
    missing = performance.missing([part("a"), part("b"), part("a")], [ORT, TORCH], HERE, [HOT, FLUSHED])
    assert len(missing) == 2 * 2 * 2 - 1
    assert (part("a"), ORT, FLUSHED) not in missing
    assert (part("b"), ORT, FLUSHED) in missing


def test_the_table_of_measurements_has_seconds_only_where_there_is_a_time(performance: PerformanceDatabase) -> None:
    for measurement in (one("a"), one("a", TORCH, status="wrong"), one("b", environment=THERE)):
        performance.record(measurement)
    frame = performance.measured([part("a")], environment=HERE)
    assert frame["candidate"].to_list() == ["onnxruntime/graph=all", "pytorch/eager"]
    assert frame["seconds"].to_list() == [1e-3, None]
    assert frame["reason"].to_list() == [None, "it said no"]
    assert performance.measured(candidates=[TORCH], protocols=[HOT]).is_empty()
    assert performance.measured(["sha256:b"])["slug"].to_list() == ["b"]


def test_an_export_merges_into_another_database_and_twice_is_once(
    performance: PerformanceDatabase, tmp_path: Path
) -> None:
    held = [one("a"), one("b", TORCH), one("c", status="failed"), one("a", environment=THERE)]
    for measurement in held:
        performance.record(measurement)
    file = tmp_path / "parts.jsonl"
    assert performance.export(file) == 4
    with PerformanceDatabase(tmp_path / "other.db") as other:
        other.record(one("a", seconds=9.0))
        done = other.merge(file)
        assert (done.added, done.present, done.differing) == (3, 0, 1)
        done = other.merge(file)
        assert (done.added, done.present, done.differing) == (0, 3, 1)
        assert other.find(["sha256:a"], environment=HERE)[0].samples_s[0] == 9.0
        assert other.find(["sha256:b"]) == [one("b", TORCH)]


def test_an_export_of_one_environment_leaves_the_others_out(performance: PerformanceDatabase, tmp_path: Path) -> None:
    performance.record(one())
    performance.record(one(environment=THERE))
    assert performance.export(tmp_path / "here.jsonl", environment=HERE) == 1


def test_a_key_twice_in_a_file_is_added_once(performance: PerformanceDatabase, tmp_path: Path) -> None:
    file = tmp_path / "twice.jsonl"
    lines = [one(seconds=1.0).model_dump_json(by_alias=True), one(seconds=2.0).model_dump_json(by_alias=True)]
    file.write_text("\n".join([json.dumps({"schema": "stratoscope/performance/1", "measurements": 2}), *lines]))
    done = performance.merge(file)
    assert (done.added, done.differing, performance.count()) == (1, 1, 1)


def corrupted(lines: list[str], how: str) -> str:
    record = json.loads(lines[1])
    if how == "cut off":
        return "\n".join(lines[:-1])
    if how == "joined":
        return "\n".join([*lines, *lines])
    if how == "half a line":
        return "\n".join(lines)[:-40]
    if how == "a time below zero":
        record["samples_s"] = [-1.0]
    if how == "not a number":
        return "\n".join([lines[0], lines[1].replace("0.001,", "NaN,", 1), *lines[2:]])
    if how == "ok without samples":
        record["samples_s"] = []
    if how == "an unknown field":
        record["colour"] = "red"
    if how == "another schema":
        record["schema"] = "stratoscope/run/1"
    if how == "a foreign file":
        return '{"traceEvents": []}\n'
    if how == "no JSON":
        return "layer,time\nconv,3\n"
    if how == "empty":
        return ""
    return "\n".join([lines[0], json.dumps(record), *lines[2:]])


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("cut off", "holds 1 measurements where its first line announces 2"),
        ("joined", "line 4 is not the measurement"),
        ("half a line", "line 3 is not the measurement"),
        ("a time below zero", r"line 2 is not the measurement of a part: samples_s\.0"),
        ("not a number", "line 2 is not the measurement"),
        ("ok without samples", "line 2 .*has samples"),
        ("an unknown field", "line 2 .*colour"),
        ("another schema", "line 2 .*schema"),
        ("a foreign file", "is no export of measured parts"),
        ("no JSON", "is no export of measured parts"),
        ("empty", "is no export of measured parts"),
    ],
)
def test_a_damaged_or_foreign_file_is_refused_and_adds_nothing(
    performance: PerformanceDatabase, tmp_path: Path, how: str, message: str
) -> None:
    file = tmp_path / "parts.jsonl"
    with PerformanceDatabase(tmp_path / "source.db") as source:
        source.record(one("a"))
        source.record(one("b").model_copy(update={"started_at": one().started_at + timedelta(seconds=1)}))
        source.export(file)
    file.write_text(corrupted(file.read_text().splitlines(), how))
    with pytest.raises(StoreError, match=message):
        performance.merge(file)
    assert performance.count() == 0


def test_a_file_that_is_not_there_is_named(performance: PerformanceDatabase, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"nowhere\.jsonl"):
        performance.merge(tmp_path / "nowhere.jsonl")


def test_a_row_that_was_changed_by_hand_is_named(performance: PerformanceDatabase, database: str) -> None:
    performance.record(one())
    with create_engine(locate(database).url).begin() as connection:
        connection.execute(text("UPDATE part_measurements SET record = '{}'"))
    with pytest.raises(StoreError, match="sha256:a cannot be read"):
        performance.find()
