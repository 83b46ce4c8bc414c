"""Asks the server of a store for leases and status; without a server, there is nothing to ask."""

from __future__ import annotations

import os
import socket
from typing import Any

from stratoscope.share.errors import BudgetError, IntegrityError, ShareError
from stratoscope.share.lease import Lease
from stratoscope.share.library import Library
from stratoscope.share.mapping import require_sealed
from stratoscope.share.protocol import peer_user, receive, send, socket_path

_ERRORS = {"budget": BudgetError, "integrity": IntegrityError}


def request_lease(library: Library, key: str) -> Lease | None:
    """A lease on the artefact `key`, or None where no server runs for this store.

    Raises:
        BudgetError: the server has no room for it.
        ShareError: the server refuses, or it is not ours.
    """
    connection = _connect(library)
    if connection is None:
        return None
    try:
        reply, descriptors = _ask(connection, {"op": "open", "key": key})
    except BaseException:
        connection.close()
        raise
    lease = Lease(connection, str(reply["tier"]), dict(zip(reply["files"], descriptors, strict=True)))
    try:
        if lease.tier == "memory":
            for name, descriptor in lease.descriptors.items():
                require_sealed(descriptor, name)
    except BaseException:
        lease.close()
        raise
    return lease


def ask_server(library: Library, request: dict[str, Any]) -> dict[str, Any] | None:
    """The server's answer to one request (status, evict, fetch), or None where none runs for this store."""
    connection = _connect(library)
    if connection is None:
        return None
    with connection:
        return _ask(connection, request)[0]


def _connect(library: Library) -> socket.socket | None:
    path = socket_path(library.root)
    if not path.exists():
        return None
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(os.fspath(path))
        if peer_user(connection) not in (os.geteuid(), 0):
            raise ShareError(f"the server at {path} belongs to another user", hint="remove the socket")
    except (ConnectionRefusedError, FileNotFoundError):  # of a server that was killed
        connection.close()
        return None
    except OSError as error:
        connection.close()
        raise ShareError(f"cannot reach the server at {path}: {error.strerror}") from error
    except BaseException:
        connection.close()
        raise
    return connection


def _ask(connection: socket.socket, request: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
    try:
        send(connection, request)
        answer = receive(connection)
    except OSError as error:
        raise ShareError(f"the server went away: {error.strerror}", hint="start it again, or go on without") from error
    if answer is None:
        raise ShareError("the server went away before it answered", hint="start it again, or go on without")
    reply, descriptors = answer
    if "error" in reply:
        raise _ERRORS.get(str(reply.get("kind")), ShareError)(str(reply["error"]), hint=reply.get("hint"))
    return reply, descriptors
