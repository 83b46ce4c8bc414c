"""Probe of transports between processes: pipe, Unix socket, TCP, shared memory; bandwidth and round trip."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

import numpy as np

from stratoscope.measure.machine.peer import (
    ACK,
    ECHO,
    SINK,
    SLOTS,
    Channel,
    Descriptors,
    SharedMemory,
    SocketChannel,
    command,
)
from stratoscope.measure.machine.probe import Case, Prepared, ProbeUnavailable, Setting
from stratoscope.measure.machine.timing import operate

KINDS: Final = ("pipe", "unix-socket", "tcp-loopback", "shared-memory")
SIZES: Final = (64 << 10, 1 << 20, 16 << 20)
#: What the other process takes for itself.
_PEER_BYTES: Final = 32 << 20
SIZES_FULL: Final = tuple(1 << power for power in range(10, 27, 2))


class TransportProbe:
    """Messages to a process that takes them: one way with one answer at the end, and a byte there and back."""

    name = "transport"
    title = "inter-process transports: bandwidth over message sizes, and round trip"

    def check(self, setting: Setting) -> str | None:
        """Needs the memory of a second process."""
        if setting.memory_bytes >= _PEER_BYTES:
            return None
        return f"a second process takes {_PEER_BYTES >> 20} MiB; probes may use {setting.memory_bytes >> 20}"

    def register(self, setting: Setting) -> Iterable[Case]:
        """Each transport at each size; the shared memory only where it fits."""
        note = "one CPU for both processes" if len(setting.cpus) == 1 else ""
        for kind in KINDS:
            yield Case(
                f"transport/{kind}", {"what": "round-trip"}, "s", memory_bytes=_PEER_BYTES, priority=3, note=note
            )
            for size in SIZES_FULL if setting.full else SIZES:
                held = _PEER_BYTES + (SLOTS + 2) * size
                if held <= setting.memory_bytes // 4:
                    yield Case(
                        family=f"transport/{kind}",
                        parameters={"what": "one-way", "bytes": size},
                        unit="byte/s",
                        bytes=float(size),
                        memory_bytes=held,
                        priority=3,
                        note=note,
                    )

    @contextmanager
    def run(self, case: Case, setting: Setting) -> Iterator[Prepared]:
        """Starts the peer; an operation is one message taken, or one byte there and back."""
        kind, size = case.family.rpartition("/")[2], int(case.parameters.get("bytes", 1))
        what = ECHO if case.parameters["what"] == "round-trip" else SINK
        with ExitStack() as stack:
            channel = stack.enter_context(_open(kind, size))
            payload = memoryview(np.ones(size, np.uint8).data).cast("B")

            def send(count: int) -> None:
                channel.send(command(what, count))
                for _ in range(count):
                    channel.send_message(payload)
                    if what == ECHO:
                        channel.receive(1)
                if what == SINK and channel.receive(1) != ACK:
                    raise ProbeUnavailable("the peer ended")

            yield Prepared(operate(send))


@contextmanager
def _open(kind: str, size: int) -> Iterator[Channel]:
    """A channel to a new peer process; the peer ends when the channel closes."""
    ours: list[int] = []
    theirs: list[int] = []
    channel: Channel
    arguments = [kind, str(size)]
    with ExitStack() as stack:
        if kind in {"pipe", "shared-memory"}:
            down, up = os.pipe(), os.pipe()
            ours, theirs = [up[0], down[1]], [down[0], up[1]]
            stack.callback(_close_all, ours)
            stack.callback(_close_all, theirs)
            base = Descriptors(*ours)
            if kind == "pipe":
                channel = base
            else:
                memory = os.memfd_create("stratoscope-transport")
                stack.callback(_close_all, [memory])
                os.ftruncate(memory, SLOTS * size)
                theirs = [*theirs, memory]
                channel = stack.enter_context(SharedMemory(base, memory, size))
        else:
            near, far = _socket_pair(kind)
            stack.callback(near.close)
            stack.callback(far.close)
            theirs = [far.fileno()]
            channel = SocketChannel(near)
        module = "stratoscope.measure.machine.peer"
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments, *map(str, theirs)],
            pass_fds=theirs,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is ours to handle: the peer ends when its channel does
        )
        try:
            channel.send(command(ECHO, 1))  # the peer is up before the clock starts
            channel.send_message(memoryview(bytes(size)))
            channel.receive(1)
            yield channel
        finally:
            process.terminate()
            process.wait()


def _close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _socket_pair(kind: str) -> tuple[socket.socket, socket.socket]:
    """Two connected sockets. Raises ProbeUnavailable where the loopback device cannot be used."""
    if kind == "unix-socket":
        return socket.socketpair()
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            near = socket.create_connection(server.getsockname(), timeout=5)
            far, _ = server.accept()
    except OSError as error:
        raise ProbeUnavailable(f"no TCP on the loopback device: {error.strerror or error}") from None
    for end in (near, far):
        end.settimeout(None)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return near, far
