from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratoscope.errors import TraceError
from stratoscope.trace.importers import json_events, source
from stratoscope.trace.importers.imported import ImportReport
from stratoscope.trace.importers.json_events import EventStream
from stratoscope.trace.importers.source import Source

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text('}{][",: \\x\n', max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('}{,"', max_size=3), inner, max_size=3),
    max_leaves=6,
)
events = st.lists(st.dictionaries(st.text("abc}{", min_size=1, max_size=3), values, max_size=3), max_size=12)
pads = st.text(" \n", max_size=3)


def read(path: Path) -> tuple[list[Any], EventStream, ImportReport]:
    report = ImportReport("test")
    stream = EventStream(Source(path), dict[str, Any], report)
    found = [one for many in stream for one in many]
    return found, stream, report


@settings(deadline=None, max_examples=150)
@given(events, values, st.integers(1, 40), st.integers(1, 60), st.sampled_from([None, 1]), st.booleans())
def test_any_division_into_blocks_gives_what_a_json_parser_gives(
    tmp_path_factory: pytest.TempPathFactory,
    items: list[dict[str, Any]],
    other: Any,
    block: int,
    piece: int,
    indent: int | None,
    bare: bool,
) -> None:
    path = tmp_path_factory.mktemp("events") / "t.json"
    whole = {"before": [{"traceEvents": [1]}, other], "traceEvents": items, "after": other}
    path.write_text(json.dumps(items if bare else whole, indent=indent))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "BLOCK", block)
        patch.setattr(json_events, "_PIECE", piece)
        found, stream, report = read(path)
    assert found == items
    assert stream.metadata == ({} if bare else {"before": whole["before"], "after": other})
    assert (report.records, dict(report.dropped), report.notes) == (len(items), {}, [])


@settings(deadline=None, max_examples=100)
@given(events, st.floats(0, 1), st.integers(1, 40))
def test_a_file_cut_anywhere_gives_the_events_before_the_cut(
    tmp_path_factory: pytest.TempPathFactory, items: list[dict[str, Any]], where: float, block: int
) -> None:
    path = tmp_path_factory.mktemp("events") / "t.json"
    start = '{"traceEvents": ['
    text = start + ", ".join(map(json.dumps, items))
    cut = len(start) + int((len(text) - len(start)) * where)
    path.write_text(text[:cut])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "BLOCK", block)
        found, _, report = read(path)
    whole, place = 0, len(start)
    for item in items:
        place += len(json.dumps(item))
        whole += place <= cut
        place += 2
    assert found == items[:whole]
    assert any("cut off" in note for note in report.notes)
    assert sum(report.dropped.values()) in (0, 1)


def test_a_broken_event_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    good = [{"n": number} for number in range(50)]
    texts = [json.dumps(one) for one in good]
    texts[20] = '{"n": 20 20}'
    texts[30] = "17"
    path.write_text('{"traceEvents": [' + ",\n".join(texts) + "]}")
    found, _, report = read(path)
    assert found == [one for one in good if one["n"] not in (20, 30)]
    assert dict(report.dropped) == {"not JSON": 1, "not an object": 1}
    assert report.records == 50


def test_not_a_number_is_read_as_none_and_half_a_character_as_a_sign(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_bytes(b'[{"a": NaN, "b": -Infinity, "c": 1}, {"a": "\xe4\xb8"}]')
    found, _, report = read(path)
    assert found == [{"a": None, "b": None, "c": 1}, {"a": "\ufffd"}]
    assert not report.dropped


def test_a_cut_gzip_file_gives_what_unpacks(tmp_path: Path) -> None:
    path = tmp_path / "t.json.gz"
    items = [{"n": number * 7919 % 104729} for number in range(20000)]
    packed = gzip.compress(json.dumps({"traceEvents": items}).encode())
    path.write_bytes(packed[: len(packed) // 2])
    found, _, report = read(path)
    assert 5000 < len(found) < 15000
    assert found == items[: len(found)]
    assert report.notes == ["the file is cut off: gzip data that end too early"]


def test_gzip_data_with_a_flipped_byte_are_called_damaged(tmp_path: Path) -> None:
    path = tmp_path / "t.json.gz"
    packed = bytearray(gzip.compress(json.dumps({"traceEvents": [{"n": k * k} for k in range(9000)]}).encode()))
    packed[len(packed) // 2] ^= 0xFF
    path.write_bytes(packed)
    found, _, report = read(path)
    assert 3000 < len(found) < 6000
    assert found[:3000] == [{"n": k * k} for k in range(3000)]
    assert len(report.notes) == 1


def test_gzip_members_one_after_the_other_are_one_file(tmp_path: Path) -> None:
    path = tmp_path / "t.json.gz"
    path.write_bytes(gzip.compress(b'{"traceEvents": [{"a": 1},') + gzip.compress(b'{"a": 2}]}') + b"\0\0\0")
    assert read(path)[0] == [{"a": 1}, {"a": 2}]


def test_a_bomb_is_stopped_at_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "t.json.gz"
    path.write_bytes(gzip.compress(b'{"traceEvents": [' + b" " * 50_000_000))
    assert path.stat().st_size < 100_000
    with pytest.raises(TraceError, match="holds more than 16 MiB"):
        list(Source(path, 16 << 20))


def test_an_endless_event_is_stopped_at_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_events, "MAX_EVENT_BYTES", 1 << 20)
    path = tmp_path / "t.json.gz"
    path.write_bytes(gzip.compress(b'{"traceEvents": [{"a": "' + b"x" * 20_000_000))
    with pytest.raises(TraceError, match="event of more than 1 MiB"):
        read(path)


@pytest.mark.parametrize("opening", ["[", '{"a":', '"['])
def test_a_nesting_bomb_costs_one_event(tmp_path: Path, opening: str) -> None:
    path = tmp_path / "t.json"
    closing = {"[": "]", '{"a":': "}"}.get(opening)
    deep = opening * 100_000 + "1" + closing * 100_000 if closing else '"' + "[" * 100_000 + '"'
    path.write_text('{"traceEvents": [{"a": 1}, {"b": ' + deep + '}, {"c": 3}]}')
    report = ImportReport("test")
    stream = EventStream(Source(path), dict[str, Any], report)
    found = [one for many in stream for one in many]
    assert [found[0], found[-1]] == [{"a": 1}, {"c": 3}]
    assert dict(report.dropped) == ({"nested too deep": 1} if closing else {})


@pytest.mark.parametrize(
    "text", ["", "   ", "{}", "{", "null", '"x"', '{"traceEvents": 5}', '{"traceEvents": {}}', "\0\1"]
)
def test_a_file_without_events_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "t.json"
    path.write_text(text)
    with pytest.raises(TraceError, match="no trace events"):
        read(path)
