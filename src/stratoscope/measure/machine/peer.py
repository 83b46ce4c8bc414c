"""The other process of the transport probe, and the channels that both ends speak through.

A command is 9 bytes: what to do (sink or echo) and how many messages follow. A sink answers once, after the last
message is in its own memory; an echo answers each message with one byte.
"""

from __future__ import annotations

import mmap
import os
import socket
import struct
import sys
from types import TracebackType
from typing import Final, Protocol, Self

import numpy as np

SINK: Final = b"s"
ECHO: Final = b"e"
ACK: Final = b"a"
#: Messages that shared memory holds at once: the writer is at most so many ahead of the reader.
SLOTS: Final = 4
_COMMAND: Final = struct.Struct("<cq")


def command(what: bytes, count: int) -> bytes:
    """The nine bytes that announce `count` messages."""
    return _COMMAND.pack(what, count)


class Channel(Protocol):
    """A two-way stream of bytes, with messages of one fixed size in one direction."""

    def send(self, data: bytes) -> None:
        """Sends a few bytes: a command or an answer."""
        ...

    def receive(self, count: int) -> bytes:
        """Exactly `count` bytes (a few); empty where the other end closed."""
        ...

    def send_message(self, payload: memoryview) -> None:
        """Sends one message."""
        ...

    def receive_message(self, into: memoryview) -> bool:
        """Takes one message into memory of the reader's own; False where the other end closed."""
        ...


class Descriptors:
    """A channel over two file descriptors, to read and to write: pipes."""

    def __init__(self, reading: int, writing: int) -> None:
        self._reading, self._writing = reading, writing

    def send(self, data: bytes) -> None:
        """Writes all."""
        self.send_message(memoryview(data))

    def receive(self, count: int) -> bytes:
        """Reads exactly `count` bytes, or nothing at the end."""
        buffer = bytearray(count)
        return bytes(buffer) if self.receive_message(memoryview(buffer)) else b""

    def send_message(self, payload: memoryview) -> None:
        """Writes all of the payload."""
        sent = 0
        while sent < len(payload):
            sent += os.write(self._writing, payload[sent:])

    def receive_message(self, into: memoryview) -> bool:
        """Fills `into`."""
        got = 0
        while got < len(into):
            count = os.readv(self._reading, [into[got:]])
            if count == 0:
                return False
            got += count
        return True


class SocketChannel:
    """A channel over a connected stream socket."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def send(self, data: bytes) -> None:
        """Sends all."""
        self._end.sendall(data)

    def receive(self, count: int) -> bytes:
        """Receives exactly `count` bytes, or nothing at the end."""
        buffer = bytearray(count)
        return bytes(buffer) if self.receive_message(memoryview(buffer)) else b""

    def send_message(self, payload: memoryview) -> None:
        """Sends all of the payload."""
        self._end.sendall(payload)

    def receive_message(self, into: memoryview) -> bool:
        """Fills `into`."""
        got = 0
        while got < len(into):
            count = self._end.recv_into(into[got:])
            if count == 0:
                return False
            got += count
        return True


class SharedMemory:
    """Messages through a ring of slots in shared memory, copied in and copied out; a pipe carries the signals.

    Writer and reader each count their messages; the reader answers each slot that it has emptied with one byte, which
    the writer takes before it fills that slot again.
    """

    def __init__(self, signals: Descriptors, memory: int, size: int) -> None:
        self._signals = signals
        self._map = mmap.mmap(memory, SLOTS * size)
        self._slots = np.frombuffer(self._map, np.uint8).reshape(SLOTS, size)
        self._next = 0
        self._out = 0  # messages whose slot has not been given back

    def send(self, data: bytes) -> None:
        """Sends by the pipe."""
        self._signals.send(data)

    def receive(self, count: int) -> bytes:
        """Receives an answer, after the signals of the slots that were given back."""
        while self._out:
            if not self._signals.receive(1):
                return b""
            self._out -= 1
        return self._signals.receive(count)

    def send_message(self, payload: memoryview) -> None:
        """Copies the payload into the next slot and signals."""
        if self._out == SLOTS:
            self._signals.receive(1)
            self._out -= 1
        np.copyto(self._slots[self._next], np.frombuffer(payload, np.uint8))
        self._next = (self._next + 1) % SLOTS
        self._signals.send(ACK)
        self._out += 1

    def receive_message(self, into: memoryview) -> bool:
        """Waits for the signal, copies the slot out and gives it back."""
        if not self._signals.receive(1):
            return False
        np.copyto(np.frombuffer(into, np.uint8), self._slots[self._next])
        self._next = (self._next + 1) % SLOTS
        self._signals.send(ACK)
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._slots
        self._map.close()


def serve(channel: Channel, size: int) -> None:
    """Takes messages as commands announce them, until the other end closes."""
    own = memoryview(np.zeros(size, np.uint8).data).cast("B")
    while data := channel.receive(_COMMAND.size):
        what, count = _COMMAND.unpack(data)
        for _ in range(count):
            if not channel.receive_message(own):
                return
            if what == ECHO:
                channel.send(ACK)
        if what == SINK:
            channel.send(ACK)


def main() -> None:
    """Serves on the descriptors given: `KIND SIZE FD...`."""
    kind, size, descriptors = sys.argv[1], int(sys.argv[2]), [int(text) for text in sys.argv[3:]]
    if kind == "pipe":
        serve(Descriptors(*descriptors), size)
    elif kind == "shared-memory":
        with SharedMemory(Descriptors(*descriptors[:2]), descriptors[2], size) as channel:
            serve(channel, size)
    else:
        serve(SocketChannel(socket.socket(fileno=descriptors[0])), size)


if __name__ == "__main__":
    main()
