"""Reads the events of a Chrome trace file into columns: one entry a complete event, the rarer kinds as objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from stratoscope.errors import TraceError
from stratoscope.trace.importers.imported import ImportReport
from stratoscope.trace.importers.json_events import EventStream
from stratoscope.trace.importers.source import Source
from stratoscope.trace.importers.times import LIMIT_NS, nanoseconds

Ints = NDArray[np.int64]

#: More events than this are refused: their columns would not fit into the memory of a usual machine.
MAX_SPANS: Final = 50_000_000
_Id = int | float | str | None
_RAW: Final = msgspec.Raw()
#: Phases that are read beside complete events ("X"), and those that are known but have no place in a span table.
_READ: Final = "BEbeniIRCM"
_PASSED_OVER: Final = {**dict.fromkeys("stf", "arrow between spans"), **dict.fromkeys("NODSTFpvVPc()", "other phase")}


class Arguments(msgspec.Struct, gc=False):
    """What an importer asks of an event's arguments."""

    correlation: _Id = 0


# In the order in which Kineto writes the fields: msgspec looks for each after the last one.
class _Complete(msgspec.Struct, gc=False, tag_field="ph", tag="X"):
    cat: str = ""
    name: str = ""
    pid: _Id = 0
    tid: _Id = 0
    ts: msgspec.Raw = _RAW
    dur: float = -1.0
    args: Arguments | None = None


class _CompleteWithText(msgspec.Struct, gc=False, tag_field="ph", tag="X"):
    cat: str = ""
    name: str = ""
    pid: _Id = 0
    tid: _Id = 0
    ts: msgspec.Raw = _RAW
    dur: float = -1.0
    args: msgspec.Raw = _RAW


class Rare(msgspec.Struct, gc=False, tag_field="ph", tag="?"):
    """An event of another phase; the phase is the tag of its class (`phase_of`)."""

    ts: msgspec.Raw = _RAW
    name: str = ""
    cat: str = ""
    pid: _Id = 0
    tid: _Id = 0
    id: _Id = None
    args: msgspec.Raw = _RAW


class _PassedOver(msgspec.Struct, gc=False, tag_field="ph", tag="?"):
    pass


def _tagged(base: type[msgspec.Struct], phases: str) -> list[type[msgspec.Struct]]:
    return [
        msgspec.defstruct(f"{base.__name__}_{ord(phase):x}", [], bases=(base,), tag_field="ph", tag=phase, gc=False)
        for phase in phases
    ]


_OTHERS: Final = (*_tagged(Rare, _READ), *_tagged(_PassedOver, "".join(_PASSED_OVER)))


def phase_of(event: msgspec.Struct) -> str:
    """The phase of an event."""
    return _phase(type(event))


def _phase(kind: type[msgspec.Struct]) -> str:
    return str(kind.__struct_config__.tag)


def _union(*kinds: type[msgspec.Struct]) -> Any:
    union: Any = kinds[0]
    for kind in kinds[1:]:
        union |= kind
    return union


class Codes(dict[Any, int]):
    """Numbers things in the order in which they are first asked for."""

    def __missing__(self, key: Any) -> int:
        self[key] = number = len(self)
        return number


@dataclass(slots=True)
class ChromeColumns:
    """Complete events as columns, codes into `names`, `categories` and `places` ((pid, tid) pairs), and the others.

    Complete events that have no usable time, or end before they start, are left out and counted in the report.
    """

    name: NDArray[np.int32]
    category: NDArray[np.int32]
    place: NDArray[np.int32]
    start_ns: Ints
    end_ns: Ints
    correlation: Ints
    attributes: pl.Series | None
    names: list[str]
    categories: list[str]
    places: list[tuple[_Id, _Id]]
    others: list[Rare]
    metadata: dict[str, Any] = field(default_factory=dict)


def read_columns(source: Source, report: ImportReport, attributes: bool) -> ChromeColumns:
    """All events of a Chrome trace file; `attributes` keeps the arguments as JSON texts.

    Raises:
        TraceError: the file is none, or has more than `MAX_SPANS` events.
    """
    kind = _CompleteWithText if attributes else _Complete
    stream = EventStream(source, _union(kind, *_OTHERS), report)
    reader = _Reader(report, kind)
    for events in stream:
        reader.add(events)
    return reader.columns(stream.metadata)


class _Reader:
    """Collects columns block by block; only their numbers stay."""

    def __init__(self, report: ImportReport, kind: type[_Complete] | type[_CompleteWithText]) -> None:
        self._report = report
        self._kind = kind
        self._labels = Codes()  # (name, category, process, thread): few, where events are many
        self._parts: list[tuple[NDArray[Any], ...]] = []
        self._texts: list[pl.Series] = []
        self._others: list[Rare] = []
        self._count = 0

    def add(self, events: list[msgspec.Struct]) -> None:
        kind = self._kind
        types = list(map(type, events))
        complete = [one for one in events if type(one) is kind] if types.count(kind) < len(types) else events
        if len(complete) < len(events):
            self._add_others(events, types)
        self._count += len(complete)
        if self._count + len(self._others) > MAX_SPANS:
            raise TraceError(f"the trace has more than {MAX_SPANS} events", hint="split the trace")
        if complete:
            self._add_complete(complete)

    def _add_others(self, events: list[msgspec.Struct], types: list[type[msgspec.Struct]]) -> None:
        kinds = set(types)
        for one in kinds:
            if issubclass(one, _PassedOver):
                self._report.skipped[_PASSED_OVER[_phase(one)]] += types.count(one)
        if any(issubclass(one, Rare) for one in kinds):
            self._others += [event for event in events if isinstance(event, Rare)]

    def _add_complete(self, events: list[Any]) -> None:
        start, timed = nanoseconds([event.ts for event in events])
        duration = np.array([event.dur for event in events])
        self._report.dropped.update(
            {
                why: int(mask.sum())
                for why, mask in (
                    ("no usable time", ~timed),
                    ("no duration, or a negative one", timed & (duration < 0)),
                    ("ends beyond 64-bit nanoseconds", timed & (duration * 1000 > LIMIT_NS)),
                )
                if mask.any()
            }
        )
        good = timed & (duration >= 0) & (duration * 1000 <= LIMIT_NS)
        if not good.all():
            events = [event for event, use in zip(events, good.tolist(), strict=True) if use]
            start, duration = start[good], duration[good]
        labels = self._labels
        self._parts.append(
            (
                np.array([labels[event.name, event.cat, event.pid, event.tid] for event in events], np.int32),
                start,
                start + np.rint(duration * 1000).astype(np.int64),
                self._correlations(events),
            )
        )

    def _correlations(self, events: list[Any]) -> Ints:
        arguments = [event.args for event in events]
        if self._kind is _CompleteWithText:
            texts = b"[" + b",".join(bytes(text) or b"null" for text in arguments) + b"]"
            compact: list[msgspec.Raw] = msgspec.json.decode(
                msgspec.json.format(texts, indent=-1), type=list[msgspec.Raw]
            )
            self._texts.append(_texts(compact))
            arguments = _arguments(texts, compact)
        values = [0 if one is None else one.correlation for one in arguments]
        try:
            return np.array(values, np.int64)
        except (ValueError, TypeError, OverflowError):
            return np.array([whole_number(value) for value in values], np.int64)

    def columns(self, metadata: dict[str, Any]) -> ChromeColumns:
        label, start, end, correlation = (
            (np.concatenate(part) for part in zip(*self._parts, strict=True))
            if self._parts
            else (np.empty(0, np.int64) for _ in range(4))
        )
        names, categories, places = Codes(), Codes(), Codes()
        codes = [(names[name], categories[category], places[pid, tid]) for name, category, pid, tid in self._labels]
        coded = np.array(codes, np.int32).reshape(-1, 3)[label].T.copy()
        texts = None
        if self._kind is _CompleteWithText:
            texts = pl.concat(self._texts) if self._texts else pl.Series([], dtype=pl.String)
        return ChromeColumns(
            name=coded[0],
            category=coded[1],
            place=coded[2],
            start_ns=start,
            end_ns=end,
            correlation=correlation,
            attributes=texts,
            names=list(names),
            categories=list(categories),
            places=list(places),
            others=self._others,
            metadata=metadata,
        )


def _texts(raws: Sequence[msgspec.Raw]) -> pl.Series:
    """Argument objects as texts; null for those without any."""
    texts = pl.Series(list(map(bytes, raws)), dtype=pl.Binary).cast(pl.String)
    return texts.set(~texts.str.starts_with("{") | (texts == "{}"), None)


def _arguments(texts: bytes, each: Sequence[msgspec.Raw]) -> list[Arguments | None]:
    try:
        return msgspec.json.decode(texts, type=list[Arguments | None])
    except msgspec.ValidationError:
        return [_argument(one) for one in each]


def _argument(text: msgspec.Raw) -> Arguments | None:
    try:
        return msgspec.json.decode(text, type=Arguments | None)
    except msgspec.ValidationError:
        return None


def whole_number(value: object) -> int:
    """An identifier as a 64-bit number; 0 for what is none. Unsigned ones keep their bits."""
    try:
        number = int(value, 0) if isinstance(value, str) else int(value)  # type: ignore[call-overload]
    except (ValueError, TypeError, OverflowError):
        return 0
    return int((number + (1 << 63)) % (1 << 64) - (1 << 63))
