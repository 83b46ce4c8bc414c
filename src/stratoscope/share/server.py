"""The server: one process a store that hands out leases on sealed memory over a Unix socket, and frees what is left."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import threading
from types import TracebackType
from typing import Any

from stratoscope.errors import StratoscopeError
from stratoscope.share.errors import BudgetError, IntegrityError, ShareError, clear_errors
from stratoscope.share.library import Library
from stratoscope.share.manager import Manager, ManagerSettings
from stratoscope.share.protocol import peer_user, receive, send, socket_path


class Server:
    """Listens at the store's socket; a connection that opened a model is the lease on it.

    The end of a connection, by `close` or by the death of its process, gives the lease back at once.
    """

    def __init__(self, library: Library, settings: ManagerSettings, *, user: int | None = None) -> None:
        self.manager = Manager(library, settings)
        self._user = os.geteuid() if user is None else user
        self._stack = contextlib.ExitStack()
        self._threads: set[threading.Thread] = set()
        self._connections: set[socket.socket] = set()
        self._guard = threading.Lock()
        self._stopping = False
        self._socket = self._bind(library)

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Serves from a thread, until `stop`."""
        thread = threading.Thread(target=self.serve, name="share-server", daemon=True)
        thread.start()

    def serve(self) -> None:
        """Serves until `stop` is called from elsewhere."""
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # the listening socket was shut down
                return
            thread = threading.Thread(target=self._handle, args=(connection,), name="share-client", daemon=True)
            with self._guard:
                if self._stopping:
                    connection.close()
                    return
                self._connections.add(connection)
                self._threads.add(thread)
            thread.start()

    def stop(self) -> None:
        """Ends all connections and lets go of everything; what clients have mapped stays valid."""
        with self._guard:
            self._stopping = True
            threads, connections = list(self._threads), list(self._connections)
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(timeout=10)
        self.manager.close_all()
        self._stack.close()

    def _bind(self, library: Library) -> socket.socket:
        """The listening socket; one a store, told by a lock that the kernel drops when the server dies."""
        path = socket_path(library.root)
        with contextlib.ExitStack() as stack:
            with clear_errors("listen", path):
                lock = stack.enter_context(open(library.root / ".server.lock", "wb"))
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    raise ShareError(f"a server runs for {library.root} already", hint="see: share status") from error
                path.unlink(missing_ok=True)  # of a server that was killed
                listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                stack.callback(path.unlink, missing_ok=True)
                listening.bind(os.fspath(path))
                path.chmod(0o600)
                listening.listen(128)
            self._stack = stack.pop_all()
        return listening

    def _handle(self, connection: socket.socket) -> None:
        """Answers one client until it goes, then gives back what it held."""
        leased: list[str] = []
        try:
            if peer_user(connection) != self._user:
                send(connection, {"error": "this server serves its own user only", "kind": "user"})
                return
            while (request := receive(connection)) is not None:
                message, descriptors = request
                for descriptor in descriptors:
                    os.close(descriptor)
                self._answer(connection, message, leased)
        except (OSError, ShareError):
            pass  # the client is gone, or speaks another language: its connection ends here
        finally:
            for key in leased:
                self.manager.close(key)
            connection.close()
            with self._guard:
                self._connections.discard(connection)
                self._threads.discard(threading.current_thread())

    def _answer(self, connection: socket.socket, message: dict[str, Any], leased: list[str]) -> None:
        try:
            reply, descriptors = self._do(message, leased)
        except StratoscopeError as error:
            reply, descriptors = {"error": error.message, "hint": error.hint, "kind": _kind(error)}, []
        except OSError as error:
            reply, descriptors = {"error": f"the server cannot do it: {error.strerror}", "kind": ""}, []
        send(connection, reply, descriptors)

    def _do(self, message: dict[str, Any], leased: list[str]) -> tuple[dict[str, Any], list[int]]:
        operation, key = message.get("op"), str(message.get("key", ""))
        if operation == "status":
            return self.manager.status() | {"pid": os.getpid()}, []
        if operation == "open":
            if leased:
                raise ShareError("this connection holds a lease already")
            held = self.manager.open(key)
            leased.append(key)
            return {"tier": held.tier, "files": list(held.files), "load_s": held.load_s}, list(held.files.values())
        if operation == "evict":
            return {"gone": self.manager.evict(key)}, []
        if operation == "fetch":
            return {"found": self.manager.fetch(key)}, []
        raise ShareError(f"there is no operation {operation!r}")


def _kind(error: StratoscopeError) -> str:
    """What the client raises again."""
    if isinstance(error, BudgetError):
        return "budget"
    return "integrity" if isinstance(error, IntegrityError) else ""
