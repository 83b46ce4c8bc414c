"""Imports the SQLite export of Nsight Systems (`nsys export --type sqlite`): kernels, copies, CUDA calls, NVTX ranges.

The schema differs by version, so each table's columns are asked for first and those that are not there left out. Times
are nanoseconds since the session's start. A globalTid holds the process in bits 24 to 47 and the thread below (NVIDIA,
"Exporter reference").
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import polars as pl

from stratoscope.errors import TraceError
from stratoscope.trace.importers.build import EXEC, INSTANT, LAUNCH, PROFILER_LEVEL, SYNC, span_frame, track_frame
from stratoscope.trace.importers.chrome_columns import MAX_SPANS, Codes
from stratoscope.trace.importers.imported import ImportedTrace, ImportReport
from stratoscope.trace.importers.source import Source
from stratoscope.trace.importers.times import LIMIT_NS
from stratoscope.trace.levels import Level

#: A file that begins so is an SQLite database.
MAGIC: Final = b"SQLite format 3\x00"
_COPIES: Final = {
    **{0: "Unknown", 1: "HtoD", 2: "DtoH", 3: "HtoA", 4: "AtoH", 5: "AtoA", 6: "AtoD", 7: "DtoA", 8: "DtoD"},
    **{9: "HtoH", 10: "PtoP"},
}


@dataclass(frozen=True, slots=True)
class _Table:
    """A table of the export, and what its rows are."""

    name: str
    level: int
    device: bool
    #: Columns with the name: a text, or the id of one; the first that is there counts.
    names: tuple[str, ...]
    label: str = ""
    attributes: tuple[str, ...] = ()


_GRID: Final = tuple(f"{what}{axis}" for what in ("grid", "block") for axis in "XYZ")
_TABLES: Final = (
    _Table(
        *("CUPTI_ACTIVITY_KIND_KERNEL", int(Level.KERNEL), True, ("demangledName", "shortName", "mangledName")),
        *("kernel", (*_GRID, "registersPerThread", "staticSharedMemory", "dynamicSharedMemory")),
    ),
    _Table("CUPTI_ACTIVITY_KIND_MEMCPY", int(Level.KERNEL), True, (), "Memcpy", ("bytes", "copyKind")),
    _Table("CUPTI_ACTIVITY_KIND_MEMSET", int(Level.KERNEL), True, (), "Memset", ("bytes", "value")),
    _Table("CUPTI_ACTIVITY_KIND_RUNTIME", int(Level.KERNEL), False, ("nameId",), "CUDA call", ("returnValue",)),
    _Table("CUPTI_ACTIVITY_KIND_DRIVER", int(Level.KERNEL), False, ("nameId",), "CUDA call", ("returnValue",)),
    _Table("NVTX_EVENTS", int(Level.APPLICATION), False, ("text", "textId"), "range", ("eventType", "domainId")),
    _Table("CUDNN_EVENTS", int(Level.LIBRARY), False, ("nameId",), "cuDNN call"),
    _Table("CUBLAS_EVENTS", int(Level.LIBRARY), False, ("nameId",), "cuBLAS call"),
    _Table("PROFILER_OVERHEAD", PROFILER_LEVEL, False, ("nameId",), "profiler overhead"),
)


@dataclass(slots=True)
class _Rows:
    """Spans as they are collected."""

    report: ImportReport
    attributes: bool
    columns: dict[str, list[Any]] = field(
        default_factory=lambda: {
            key: [] for key in ("name", "level", "kind", "track", "start", "end", "correlation", "attributes")
        }
    )
    tracks: Codes = field(default_factory=Codes)

    def add(self, table: _Table, row: dict[str, Any], strings: dict[int, str]) -> None:
        self.report.records += 1
        start, end = row.get("start"), row.get("end")
        instant = end is None and table.name == "NVTX_EVENTS"
        end = start if instant else end
        if not (isinstance(start, int) and isinstance(end, int) and abs(start) < LIMIT_NS and abs(end) < LIMIT_NS):
            self.report.dropped["no usable time"] += 1
            return
        if end < start:
            self.report.dropped["ends before it starts"] += 1
            return
        told = {key: row[key] for key in table.attributes if isinstance(row.get(key), int | float | str)}
        kind = EXEC if table.device else INSTANT if instant else SYNC
        values = (
            *(_name(table, row, strings), table.level, kind, self.tracks[_place(table, row)] + 1, start, end),
            *(_correlation(row), json.dumps(told) if told and self.attributes else None),
        )
        for column, value in zip(self.columns.values(), values, strict=True):
            column.append(value)


def import_nsys(source: Source, *, attributes: bool = True) -> ImportedTrace:
    """Kernels and copies (executions), CUDA calls (launches where work has their correlation id), NVTX, cuDNN, cuBLAS.

    Raises:
        TraceError: the file is no such export, is damaged, or has more than `MAX_SPANS` records.
    """
    report = ImportReport("nsys")
    rows = _Rows(report, attributes)
    try:
        with contextlib.closing(_connect(source)) as database:
            tables = {str(name) for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            there = [table for table in _TABLES if table.name in tables]
            if not there:
                raise TraceError(
                    f"{source.path} is no export of Nsight Systems", hint="make one with nsys export --type sqlite"
                )
            strings = _strings(database) if "StringIds" in tables else {}
            threads = _threads(database, strings) if "ThreadNames" in tables else {}
            for table in there:
                for row in _rows(database, table):
                    rows.add(table, row, strings)
                    if report.records > MAX_SPANS:
                        raise TraceError(f"{source.path} has more than {MAX_SPANS} records", hint="export a part of it")
    except sqlite3.Error as error:
        raise TraceError(f"cannot read {source.path}: {error}", hint="export it again") from error
    return _trace(rows, threads)


def _connect(source: Source) -> sqlite3.Connection:
    """The file, read only; nothing in its schema is trusted."""
    database = sqlite3.connect(f"{source.path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)
    database.execute("PRAGMA trusted_schema = OFF")
    database.execute("PRAGMA cell_size_check = ON")
    database.text_factory = lambda data: data.decode(errors="replace")
    return database


def _strings(database: sqlite3.Connection) -> dict[int, str]:
    return {number: str(text) for number, text in database.execute("SELECT id, value FROM StringIds")}


def _threads(database: sqlite3.Connection, strings: dict[int, str]) -> dict[int, str]:
    if not {"nameId", "globalTid"} <= _columns(database, "ThreadNames"):
        return {}
    rows = database.execute("SELECT globalTid, nameId FROM ThreadNames")
    return {thread: strings[name] for thread, name in rows if name in strings}


def _columns(database: sqlite3.Connection, table: str) -> set[str]:
    return {str(row[1]) for row in database.execute(f"PRAGMA table_info('{table}')")}


def _rows(database: sqlite3.Connection, table: _Table) -> Iterator[dict[str, Any]]:
    wanted = ("start", "end", "correlationId", "deviceId", "streamId", "globalPid", "globalTid")
    there = _columns(database, table.name)
    columns = [name for name in (*wanted, *table.names, *table.attributes) if name in there]
    quoted = ", ".join(f'"{name}"' for name in columns)
    for row in database.execute(f'SELECT {quoted} FROM "{table.name}"') if columns else ():
        yield dict(zip(columns, row, strict=True))


def _name(table: _Table, row: dict[str, Any], strings: dict[int, str]) -> str:
    if table.label == "Memcpy":
        return f"Memcpy {_COPIES.get(_number(row, 'copyKind'), 'Unknown')}"
    for column in table.names:
        value = row.get(column)
        if isinstance(value, str):
            return value
        if isinstance(value, int) and value in strings:
            return strings[value]
    return table.label


def _place(table: _Table, row: dict[str, Any]) -> tuple[Any, ...]:
    if table.device:
        return ("device", _number(row, "deviceId"), _number(row, "streamId"), _number(row, "globalPid") >> 24)
    return ("thread", _number(row, "globalTid"))


def _number(row: dict[str, Any], key: str) -> int:
    value = row.get(key)
    return value if isinstance(value, int) else 0


def _correlation(row: dict[str, Any]) -> tuple[int, int]:
    """Correlation ids are unique in a process only."""
    process = (_number(row, "globalPid") or _number(row, "globalTid")) >> 24 & 0xFFFFFF
    return process, _number(row, "correlationId")


def _trace(rows: _Rows, threads: dict[int, str]) -> ImportedTrace:
    columns, report = rows.columns, rows.report
    processes = Codes()
    correlation = np.array(
        [number and number + (processes[process] << 40) for process, number in columns["correlation"]], np.int64
    )
    level, kind = np.array(columns["level"], np.int64), np.array(columns["kind"], np.int64)
    calls = (level == Level.KERNEL) & (kind == SYNC) & (correlation != 0)
    kind[calls & np.isin(correlation, correlation[kind == EXEC])] = LAUNCH
    spans = span_frame(
        name=pl.Series(columns["name"], dtype=pl.String),
        level=level,
        kind=kind,
        track=np.array(columns["track"], np.int64),
        start_ns=np.array(columns["start"], np.int64),
        end_ns=np.array(columns["end"], np.int64),
        correlation=correlation,
        attributes=pl.Series(columns["attributes"], dtype=pl.String) if rows.attributes else None,
    )
    report.spans = spans.height
    report.clock.update({"unit": "ns", "resolution_ns": 1, "origin": "start of the session"})
    tracks: list[tuple[int, str | None, str | None, str | None, int | None, int | None]] = []
    for number, place in enumerate(rows.tracks, 1):
        if place[0] == "device":
            _, device, stream, process = place
            tracks.append((number, f"device {device} stream {stream}", str(process), None, device, stream))
        else:
            process, thread = place[1] >> 24 & 0xFFFFFF, place[1] & 0xFFFFFF
            name = threads.get(place[1], f"thread {thread}")
            tracks.append((number, f"process {process} {name}", str(process), str(thread), None, None))
    return ImportedTrace(spans, track_frame(tracks), report)
