"""Writes spans as a Perfetto trace (protobuf), the format that Perfetto itself takes for the faithful one.

Nanoseconds are kept as they are, names are interned, launches and executions are joined by flows, and what the format
has no field for goes into debug annotations. Field numbers: Perfetto's protos/perfetto/trace (trace_packet.proto,
track_event/track_event.proto, track_event/track_descriptor.proto, interned_data/interned_data.proto), of 2026-08.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import polars as pl

from stratoscope.trace.files import written_whole
from stratoscope.trace.lanes import Lane, lanes_of
from stratoscope.trace.levels import Level

_SEQUENCE: Final = 1
_PROCESS: Final = 1
_BEGIN, _END, _INSTANT = 1, 2, 3
_STATE_CLEARED, _STATE_NEEDED = 1, 2
_CATEGORIES: Final = {level.value: level.name.lower() for level in Level}
#: Columns that become debug annotations, in this order; ids count from 1.
_ANNOTATIONS: Final = ("span", "parent", "level", "kind", "track", "correlation", "run", "site", "attributes")


def write_perfetto(spans: pl.DataFrame, path: Path, track_names: Mapping[int, str] | None = None) -> None:
    """Writes spans (trace.spans.SPAN_SCHEMA) to `path`, whole or not at all.

    Tracks are those of `write_chrome`: executions, and spans that overlap without nesting, on their own. Perfetto has
    no time below 0: where spans begin before, all are shifted and the process's name says by how much.

    Raises:
        TraceError: the file cannot be written.
    """
    with written_whole(path) as file:
        for packet in _packets(spans, track_names or {}):
            file.write(packet)


def _packets(spans: pl.DataFrame, track_names: Mapping[int, str]) -> Iterator[bytes]:
    earliest = int(spans["start_ns"].min() or 0) if spans.height else 0  # type: ignore[arg-type]
    shift = max(0, -earliest)
    process = "stratoscope" + (f" (times shifted by {shift} ns)" if shift else "")
    yield _packet(_message(60, _number(1, _PROCESS) + _message(3, _number(1, _PROCESS) + _text(6, process))))
    lanes = lanes_of(spans)
    rows: dict[Lane, list[int]] = {}
    for row, lane in enumerate(lanes):
        rows.setdefault(lane, []).append(row)
    names = {name: number for number, name in enumerate(spans["name"].unique(maintain_order=True), 1)}
    levels = sorted(spans["level"].unique())
    yield _packet(_number(13, _STATE_CLEARED) + _message(12, _interned(names, levels)))
    for number, lane in enumerate(sorted(rows), 2):
        yield _packet(_message(60, _number(1, number) + _text(2, _lane_name(lane, track_names)) + _number(5, _PROCESS)))
        columns = spans[rows[lane]].sort(
            ["start_ns", "end_ns", "level", "span"], descending=[False, True, False, False]
        )
        yield from _slices(columns, number, shift, names, levels)


def _slices(
    spans: pl.DataFrame, track: int, shift: int, names: Mapping[str, int], levels: list[int]
) -> Iterator[bytes]:
    """Begin and end of each span, in an order in which they nest."""
    open_ends: list[int] = []
    for span in spans.iter_rows(named=True):
        while open_ends and open_ends[-1] <= span["start_ns"]:
            yield _event(open_ends.pop() + shift, _END, track, b"")
        instant = span["kind"] == "instant" and span["start_ns"] == span["end_ns"]
        about = _number(10, names[span["name"]]) + _number(3, levels.index(span["level"]) + 1) + _annotations(span)
        if span["correlation"] and span["kind"] in ("launch", "exec"):
            flow = (span["run"] << 48 ^ span["correlation"]) & 0xFFFFFFFFFFFFFFFF
            about += _fixed64(47 if span["kind"] == "launch" else 48, flow)
        yield _event(span["start_ns"] + shift, _INSTANT if instant else _BEGIN, track, about)
        if not instant:
            open_ends.append(span["end_ns"])
    while open_ends:
        yield _event(open_ends.pop() + shift, _END, track, b"")


def _annotations(span: Mapping[str, Any]) -> bytes:
    parts = b""
    for number, key in enumerate(_ANNOTATIONS, 1):
        value = span[key]
        if value is not None:
            field = _text(9, value) if key == "attributes" else _text(6, value) if isinstance(value, str) else None
            parts += _message(4, _number(1, number) + (_number(4, value) if field is None else field))
    return parts


def _interned(names: Mapping[str, int], levels: list[int]) -> bytes:
    categories = b"".join(
        _message(1, _number(1, number) + _text(2, _CATEGORIES.get(level, str(level))))
        for number, level in enumerate(levels, 1)
    )
    texts = b"".join(_message(2, _number(1, number) + _text(2, name)) for name, number in names.items())
    keys = b"".join(_message(3, _number(1, number) + _text(2, key)) for number, key in enumerate(_ANNOTATIONS, 1))
    return categories + texts + keys


def _lane_name(lane: Lane, track_names: Mapping[int, str]) -> str:
    name = track_names.get(lane.track, f"track {lane.track}")
    return name + (" (execution)" if lane.executed else "") + (f" ({lane.number + 1})" if lane.number else "")


def _event(time_ns: int, kind: int, track: int, about: bytes) -> bytes:
    event = _number(9, kind) + _number(11, track) + about
    return _packet(_number(8, time_ns) + _number(13, _STATE_NEEDED) + _message(11, event))


def _packet(fields: bytes) -> bytes:
    return _message(1, _number(10, _SEQUENCE) + fields)


def _varint(value: int) -> bytes:
    """Base 128, lowest group first; negative numbers in two's complement of 64 bits."""
    value &= 0xFFFFFFFFFFFFFFFF
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _fixed64(field: int, value: int) -> bytes:
    return _varint(field << 3 | 1) + value.to_bytes(8, "little")


def _message(field: int, body: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(body)) + body


def _text(field: int, value: str) -> bytes:
    return _message(field, value.encode(errors="surrogatepass"))
