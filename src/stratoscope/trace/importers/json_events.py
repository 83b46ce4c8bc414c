"""Cuts a stream of bytes into the events of a Chrome trace file and decodes them, in blocks and typed.

A block that ends where `}, {` stands is decoded whole as a JSON array; if that succeeds, it did hold whole events and
nothing else, since no event's text is the beginning of two. If not (a `}, {` inside a string, the end of the array, a
broken event), smaller pieces are tried, and the one at fault is walked brace by brace and decoded event by event, so
that one bad event costs only itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from stratoscope.errors import TraceError
from stratoscope.trace.importers.imported import ImportReport
from stratoscope.trace.importers.source import Source

#: Largest single event, and largest text before and after the events.
MAX_EVENT_BYTES: Final = 64 << 20
_BOUNDARY: Final = re.compile(rb"\}\s*,\s*(?=\{)")
_EVENTS_KEY: Final = re.compile(rb'"traceEvents"\s*:\s*(?=\[)')
_TOKEN: Final = re.compile(rb'["{}\[\]]')
_STRING_END: Final = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_NUMBER_WORDS: Final = re.compile(rb"NaN|Infinity")
_SPACE: Final = b" \t\r\n,"
#: Where a block does not decode as a whole, it is tried again in pieces of about this size.
_PIECE: Final = 1 << 16
#: The last boundary of a block is nearly always this near to its end.
_WINDOW: Final = 1 << 13

_WRONG_TYPE: Final = "a field of another type, or an unknown phase"

Event = msgspec.Struct


class EventStream:
    """Iterates over lists of decoded events; `metadata` then holds the file's other top-level fields."""

    def __init__(self, source: Source, kind: Any, report: ImportReport) -> None:
        self._source = source
        self._many: msgspec.json.Decoder[list[Event]] = msgspec.json.Decoder(list[kind])
        document: Any = msgspec.defstruct("_Document", [("traceEvents", list[kind])])
        self._document: msgspec.json.Decoder[Any] = msgspec.json.Decoder(document)
        self._one: msgspec.json.Decoder[Event] = msgspec.json.Decoder(kind)
        self._report = report
        self.metadata: dict[str, Any] = {}
        self._tail: bytes | None = None  # what follows the events, once they have ended
        self._in_object = False

    def __iter__(self) -> Iterator[list[Event]]:
        """Lists of events, in the order of the file.

        Raises:
            TraceError: the file is no JSON with trace events, or one event is larger than `MAX_EVENT_BYTES`.
        """
        blocks = iter(self._source)
        rest = self._header(blocks)
        for block in blocks:
            if self._tail is not None:
                self._tail = (self._tail + block)[: MAX_EVENT_BYTES + 1]
                continue
            events, rest = self._whole_events(rest, block)
            if len(rest) > MAX_EVENT_BYTES:
                raise TraceError(
                    f"{self._source.path} has an event of more than {MAX_EVENT_BYTES >> 20} MiB",
                    hint="this is no trace, or a damaged one",
                )
            if events:
                yield events
        if self._tail is None:
            events, rest = self._last_events(rest)
            yield events
        if self._tail is not None:
            self._read_tail(self._tail)
        else:
            self._cut_off(rest)

    def _header(self, blocks: Iterator[bytes]) -> bytes:
        """Reads up to the first event; returns what follows the opening bracket."""
        text = b""
        for block in blocks:
            text += block
            start = text.lstrip(b"\xef\xbb\xbf \t\r\n")
            if start.startswith(b"["):
                return start[1:]
            for match in _EVENTS_KEY.finditer(text):
                if self._set_metadata(text[: match.start()] + b'"traceEvents":0}'):
                    self._in_object = True
                    return text[match.end() + 1 :]
            if len(text) > MAX_EVENT_BYTES or not start.startswith(b"{"):
                break
        why = f" ({self._source.broken})" if self._source.broken else ""
        raise TraceError(
            f"{self._source.path} has no trace events{why}", hint="a Chrome trace is a JSON array or has 'traceEvents'"
        )

    def _set_metadata(self, text: bytes) -> bool:
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError):
            return False
        self.metadata.update({key: value for key, value in fields.items() if key != "traceEvents"})
        return True

    def _read_tail(self, tail: bytes) -> None:
        if self._in_object and not self._set_metadata(b'{"traceEvents":0' + tail):
            self._report.notes.append("the fields after the events cannot be read")

    def _cut_off(self, rest: bytes) -> None:
        rest = rest.strip(_SPACE)
        self._report.lost_bytes += len(rest)
        why = self._source.broken or "it ends in the middle of the events"
        if rest or self._in_object or self._source.broken:
            self._report.notes.append(f"the file is cut off: {why}")
        if rest:
            self._report.records += 1
            self._report.dropped["cut off in the middle"] += 1

    def _whole_events(self, rest: bytes, block: bytes) -> tuple[list[Event], bytes]:
        """The events that `rest` and `block` together hold whole, and what is left of them."""
        # With its opening bracket from the first, and the closing one put in below: the text is not copied again.
        text = bytearray().join((b"[", rest, block))
        boundaries = list(_BOUNDARY.finditer(text, max(1, len(text) - _WINDOW)))
        if not boundaries:
            boundaries = list(_BOUNDARY.finditer(text, max(1, len(text) - _PIECE)))
        if not boundaries:
            return self._by_pieces(bytes(text[1:])) if len(text) > _PIECE else ([], bytes(text[1:]))
        last, following = boundaries[-1].span()
        boundaries.clear()
        between, text[last + 1] = text[last + 1], ord("]")
        events = self._decoded(memoryview(text)[: last + 2])
        if events is None:
            text[last + 1] = between
            events, rest = self._by_pieces(bytes(text[1:following]))
            return events, self._left(rest, bytes(text[following:]))
        return events, bytes(memoryview(text)[following:])  # starts with the next event

    def _last_events(self, text: bytes) -> tuple[list[Event], bytes]:
        """As `_whole_events`, at the end of the file, where the array and the object around it should close."""
        document = b'{"traceEvents":[' + text.lstrip(_SPACE) + (b"" if self._in_object else b"}")
        try:
            events: list[Event] = self._document.decode(document).traceEvents
            fields = msgspec.json.decode(document, type=dict[str, msgspec.Raw])
            self._tail = b"".join(
                b"," + msgspec.json.encode(key) + b":" + bytes(value)
                for key, value in fields.items()
                if key != "traceEvents"
            )
            self._tail += b"}"
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return self._by_pieces(text)
        self._report.records += len(events)
        return events, b""

    def _decoded(self, array: bytes | memoryview) -> list[Event] | None:
        """The events of a JSON array, or None where it does not end with the bracket, or an event is broken."""
        try:
            events: list[Event] = self._many.decode(array)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return None
        self._report.records += len(events)
        return events

    def _by_pieces(self, text: bytes) -> tuple[list[Event], bytes]:
        """As `_whole_events`, for a text with something unusual in it."""
        events: list[Event] = []
        rest, at = b"", 0
        while at < len(text) and self._tail is None:
            boundary = _BOUNDARY.search(text, at + _PIECE)
            end = boundary.end() if boundary is not None else len(text)
            piece = rest + text[at:end]
            found = self._decoded(b"[" + piece.strip(_SPACE) + b"]") if boundary is not None else None
            if found is None:
                found, rest = self._walk(piece)
            else:
                rest = b""
            events += found
            at = end
        return events, self._left(rest, text[at:])

    def _left(self, rest: bytes, following: bytes) -> bytes:
        """What is still to be read; where the events have ended, it belongs to the tail."""
        if self._tail is None:
            return rest + following
        self._tail += following
        return b""

    def _walk(self, text: bytes) -> tuple[list[Event], bytes]:
        """As `_whole_events`, brace by brace: also finds the end of the array and survives broken events."""
        events: list[Event] = []
        at = 0
        while True:
            while at < len(text) and text[at] in _SPACE:
                at += 1
            if at >= len(text):
                return events, b""
            if text[at : at + 1] == b"]":
                self._tail = text[at + 1 :]
                return events, b""
            if text[at : at + 1] != b"{":
                at = self._skip_garbage(text, at)
                continue
            end = _end_of_object(text, at)
            if end is None:
                return events, text[at:]
            self._report.records += 1
            event = self._decode_one(text[at:end])
            if event is not None:
                events.append(event)
            at = end

    def _skip_garbage(self, text: bytes, at: int) -> int:
        """Counts what is no object, and returns the place of the next one."""
        self._report.records += 1
        self._report.dropped["not an object"] += 1
        found = text.find(b"{", at)
        return len(text) if found < 0 else found

    def _decode_one(self, text: bytes) -> Event | None:
        try:
            return self._one.decode(text)
        except msgspec.ValidationError:
            self._report.dropped[_WRONG_TYPE] += 1
        except RecursionError:
            self._report.dropped["nested too deep"] += 1
        except (msgspec.DecodeError, UnicodeDecodeError):
            return self._decode_leniently(text)
        return None

    def _decode_leniently(self, text: bytes) -> Event | None:
        """Profilers write NaN and Infinity, which JSON has not, and names cut in the middle of a character."""
        try:
            value = json.loads(text.decode(errors="replace"), parse_constant=lambda word: None, strict=False)
            return self._one.decode(msgspec.json.encode(value))
        except RecursionError:
            self._report.dropped["nested too deep"] += 1
        except msgspec.ValidationError:
            self._report.dropped[_WRONG_TYPE] += 1
        except (ValueError, TypeError):
            self._report.dropped["not JSON"] += 1
        return None


def _end_of_object(text: bytes, at: int) -> int | None:
    """Where the object that starts at `at` ends, or None where `text` ends first."""
    depth, place = 0, at
    while True:
        token = _TOKEN.search(text, place)
        if token is None:
            return None
        place = token.end()
        sign = token[0]
        if sign == b'"':
            closing = _STRING_END.match(text, place)
            if closing is None:
                return None
            place = closing.end()
        elif sign in b"{[":
            depth += 1
        else:
            depth -= 1
            if depth == 0:
                return place
