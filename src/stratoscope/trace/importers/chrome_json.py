"""Imports Chrome trace JSON: PyTorch's (Kineto), ONNX Runtime's, our own, and that of any other software."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stratoscope.trace.importers import chrome_own, kineto, onnxruntime_profile
from stratoscope.trace.importers.build import INSTANT, SYNC, coded, span_frame, track_frame
from stratoscope.trace.importers.chrome_columns import ChromeColumns, Rare, phase_of, read_columns, whole_number
from stratoscope.trace.importers.chrome_pairs import pair_up
from stratoscope.trace.importers.imported import ImportedTrace, ImportReport
from stratoscope.trace.importers.roles import Roles
from stratoscope.trace.importers.source import Source
from stratoscope.trace.levels import Level

_LEVELS: Final = {level.name.lower(): level.value for level in Level}


def import_chrome(source: Source, *, attributes: bool = True) -> ImportedTrace:
    """The spans of a Chrome trace file, plain or gzip; `attributes` keeps the events' arguments.

    Which software wrote it is told by its content. Complete events, begin/end pairs (asynchronous ones on tracks of
    their own), instants and counters become spans; arrows between spans are passed over, since correlation ids say the
    same of launches. Times stay on the file's clock; `report.clock` says what that is.

    Raises:
        TraceError: the file is no Chrome trace, or too large.
    """
    report = ImportReport("chrome")
    own = chrome_own.is_own(source.head(4096))
    columns = read_columns(source, report, attributes or own)
    if own and chrome_own.BASE in columns.metadata.get("otherData", {}):
        return chrome_own.to_spans(columns, report)
    instant = pair_up(columns, report)
    dialect = next((one for one in _DIALECTS if one.speaks(columns)), _GENERIC)
    report.format = dialect.name
    roles = dialect.roles(columns)
    spans = span_frame(
        name=roles.name if roles.name is not None else coded(columns.names, columns.name),
        level=roles.level,
        kind=np.where(instant, INSTANT, roles.kind),
        track=columns.place + 1,
        start_ns=columns.start_ns,
        end_ns=columns.end_ns,
        correlation=roles.correlation,
        run=roles.run,
        attributes=_with_category(columns),
    )
    report.spans = spans.height
    report.clock.update({"unit": "us", "resolution_ns": 1000 if _whole_microseconds(columns) else 1})
    report.clock.update(dialect.clock(columns))
    return ImportedTrace(spans, _tracks(columns, roles.device), report)


@dataclass(frozen=True, slots=True)
class _Dialect:
    name: str
    speaks: Callable[[ChromeColumns], bool]
    roles: Callable[[ChromeColumns], Roles]
    clock: Callable[[ChromeColumns], dict[str, str | int]]


def _generic_roles(columns: ChromeColumns) -> Roles:
    """Levels from categories that are called like ours; whatever else there is counts as an operator."""
    levels = [_LEVELS.get(category.split(",")[0].lower(), int(Level.OPERATOR)) for category in columns.categories]
    return Roles(
        level=np.array([*levels, 0], np.uint8)[columns.category],
        kind=np.full(columns.name.size, SYNC),
        correlation=columns.correlation,
        device=np.zeros(len(columns.places), np.bool_),
    )


_GENERIC: Final = _Dialect("chrome", lambda columns: True, _generic_roles, lambda columns: {})
_DIALECTS: Final = (
    _Dialect("onnxruntime", onnxruntime_profile.speaks, onnxruntime_profile.roles, onnxruntime_profile.clock),
    _Dialect("kineto", kineto.speaks, kineto.roles, kineto.clock),
)


def _whole_microseconds(columns: ChromeColumns) -> bool:
    return not ((columns.start_ns % 1000).any() or (columns.end_ns % 1000).any())


def _with_category(columns: ChromeColumns) -> pl.Series | None:
    """The arguments with the event's category in front, since a level does not tell all of it."""
    if columns.attributes is None:
        return None
    starts = ["{" + f'"category":{json.dumps(one)}' if one else "{" for one in columns.categories]
    start = coded(starts, columns.category)
    frame = pl.DataFrame({"start": start, "rest": columns.attributes.str.slice(1)})
    comma = pl.when(pl.col("start") == "{").then(pl.lit("")).otherwise(pl.lit(","))
    bare = pl.when(pl.col("start") == "{").then(None).otherwise(pl.col("start") + "}")
    whole = pl.when(pl.col("rest").is_null()).then(bare).otherwise(pl.concat_str("start", comma, "rest"))
    return frame.select(whole).to_series()


def _tracks(columns: ChromeColumns, device: NDArray[np.bool_]) -> pl.DataFrame:
    """What each (process, thread) pair is called; device tracks with their numbers."""
    processes: dict[Any, str] = {}
    threads: dict[Any, str] = {}
    for event in columns.others:
        if phase_of(event) == "M" and event.name in ("process_name", "thread_name"):
            name = _named(event)
            if event.name == "process_name":
                processes[event.pid] = name
            else:
                threads[event.pid, event.tid] = name
    rows = []
    for number, (pid, tid) in enumerate(columns.places, 1):
        on_device = bool(device[number - 1])
        thread = threads.get((pid, tid)) or (f"stream {tid}" if on_device else f"thread {tid}")
        process = processes.get(pid) or f"process {pid}"
        label = f"device {pid} {thread}" if on_device else f"{process} {thread}"
        numbers = (whole_number(pid), whole_number(tid)) if on_device else (None, None)
        rows.append((number, label, str(pid), str(tid), *numbers))
    return track_frame(rows)


def _named(event: Rare) -> str:
    try:
        arguments = json.loads(bytes(event.args) or b"{}")
    except (ValueError, RecursionError):
        return ""
    return str(arguments.get("name", "")).strip() if isinstance(arguments, dict) else ""
