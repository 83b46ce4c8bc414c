"""Adds the rarer events of a Chrome trace to its columns: begin/end pairs, asynchronous pairs, instants, counters."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stratoscope.trace.importers.chrome_columns import ChromeColumns, Codes, Rare, phase_of
from stratoscope.trace.importers.imported import ImportReport
from stratoscope.trace.importers.times import nanoseconds

_INSTANTS: Final = "iIRnC"


class _Found(NamedTuple):
    """A span made of one or two events."""

    event: Rare
    place: tuple[Any, Any]
    start_ns: int
    end_ns: int
    instant: bool


def pair_up(columns: ChromeColumns, report: ImportReport) -> NDArray[np.bool_]:
    """Extends `columns` by what their `others` hold; returns which of all events are instants.

    An end takes the last open begin of its thread; asynchronous ones (`b`, `e`) go by category and id, each on a track
    of its own, as they overlap freely. Counters are instants with their values as attributes.
    """
    events = [event for event in columns.others if phase_of(event) != "M"]
    report.skipped["metadata"] += len(columns.others) - len(events)
    if not report.skipped["metadata"]:
        del report.skipped["metadata"]
    before = columns.name.size
    if not events:
        return np.zeros(before, np.bool_)
    times, timed = nanoseconds([event.ts for event in events])
    if not timed.all():
        report.dropped["no usable time"] += int((~timed).sum())
    # In order of time, and of the file where times are equal: files need not be sorted.
    order = [row for row in np.argsort(times, kind="stable").tolist() if timed[row]]
    found = _pairs([(events[row], int(times[row])) for row in order], report)
    _append(columns, found)
    return np.concatenate((np.zeros(before, np.bool_), np.array([one.instant for one in found], np.bool_)))


def _pairs(events: list[tuple[Rare, int]], report: ImportReport) -> list[_Found]:
    found: list[_Found] = []
    begun: dict[tuple[Any, ...], list[tuple[Rare, int]]] = {}
    for event, time in events:
        phase = phase_of(event)
        if phase in _INSTANTS:
            found.append(_Found(event, (event.pid, event.tid), time, time, True))
            continue
        synchronous = phase in "BE"
        key = (event.pid, event.tid) if synchronous else (event.pid, event.cat, event.id, event.name)
        if phase in "Bb":
            begun.setdefault(key, []).append((event, time))
        elif begun.get(key):
            report.records -= 1
            first, start = begun[key].pop()
            place = key if synchronous else (event.pid, f"async {event.cat} {event.id}")
            found.append(_Found(first, place, start, time, False))  # type: ignore[arg-type]
        else:
            report.dropped["an end without a begin"] += 1
    unfinished = sum(map(len, begun.values()))
    if unfinished:
        report.dropped["a begin without an end"] += unfinished
    return found


def _append(columns: ChromeColumns, found: list[_Found]) -> None:
    names, categories, places = (
        Codes({value: code for code, value in enumerate(values)})
        for values in (columns.names, columns.categories, columns.places)
    )
    columns.name = np.concatenate((columns.name, np.array([names[one.event.name] for one in found], np.int32)))
    columns.category = np.concatenate(
        (columns.category, np.array([categories[one.event.cat] for one in found], np.int32))
    )
    columns.place = np.concatenate((columns.place, np.array([places[one.place] for one in found], np.int32)))
    columns.start_ns = np.concatenate((columns.start_ns, np.array([one.start_ns for one in found], np.int64)))
    columns.end_ns = np.concatenate((columns.end_ns, np.array([one.end_ns for one in found], np.int64)))
    columns.correlation = np.concatenate((columns.correlation, np.zeros(len(found), np.int64)))
    if columns.attributes is not None:
        texts = pl.Series([bytes(one.event.args) for one in found], dtype=pl.Binary).cast(pl.String)
        columns.attributes = pl.concat((columns.attributes, texts.set(~texts.str.starts_with("{"), None)))
    columns.names, columns.categories, columns.places = list(names), list(categories), list(places)
