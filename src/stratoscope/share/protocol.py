"""Messages between clients and the server: JSON with its length in front, descriptors beside it, over a Unix socket."""

from __future__ import annotations

import array
import json
import os
import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from stratoscope.share.errors import ShareError

#: Socket of the server in its store.
SOCKET: Final = "server.sock"
#: A message is short: requests name a key, replies list files.
MAX_BYTES: Final = 1 << 20
#: Descriptors in one message (the kernel takes 253).
MAX_DESCRIPTORS: Final = 200
_LENGTH: Final = struct.Struct("!I")
_CREDENTIALS: Final = struct.Struct("3i")


def socket_path(root: Path) -> Path:
    """Where the server of the store in `root` listens; raises ShareError where the path is too long for a socket."""
    path = root / SOCKET
    if len(os.fsencode(path)) > 107:
        raise ShareError(f"{path} is too long a path for a socket", hint="set STRATOSCOPE_SHARE to a shorter path")
    return path


def peer_user(connection: socket.socket) -> int:
    """The user at the other end, as the kernel tells it (SO_PEERCRED)."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(raw)[1])


def send(connection: socket.socket, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
    """Sends one message; descriptors go in as many parts as the kernel needs, before the text."""
    content = json.dumps(message | {"descriptors": len(descriptors)}).encode()
    connection.sendall(_LENGTH.pack(len(content)) + content)
    for start in range(0, len(descriptors), MAX_DESCRIPTORS):
        socket.send_fds(connection, [b"+"], list(descriptors[start : start + MAX_DESCRIPTORS]))


def receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """One message and its descriptors, which are the caller's to close; None where the other end is gone.

    Raises:
        ShareError: what came is no message.
    """
    head = _exactly(connection, _LENGTH.size)
    if head is None:
        return None
    (size,) = _LENGTH.unpack(head)
    if size > MAX_BYTES:
        raise ShareError(f"a message of {size} bytes is too long")
    content = _exactly(connection, size)
    if content is None:
        return None
    try:
        message = json.loads(content)
        wanted = int(message["descriptors"])
    except (ValueError, TypeError, KeyError) as error:
        raise ShareError("what came over the socket is no message") from error
    descriptors: list[int] = []
    try:
        while len(descriptors) < wanted:
            part = _descriptors(connection)
            if not part:
                _close_all(descriptors)
                return None
            descriptors.extend(part)
    except BaseException:
        _close_all(descriptors)
        raise
    return message, descriptors


def _descriptors(connection: socket.socket) -> list[int]:
    """Descriptors of one part, not inherited by children."""
    found = array.array("i")
    size = socket.CMSG_SPACE(MAX_DESCRIPTORS * found.itemsize)
    _, ancillary, _, _ = connection.recvmsg(1, size, socket.MSG_CMSG_CLOEXEC)
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return list(found)


def _exactly(connection: socket.socket, count: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < count:
        part = connection.recv(count - len(parts))
        if not part:
            return None
        parts += part
    return bytes(parts)


def _close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
