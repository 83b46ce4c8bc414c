"""The right to keep a model's weights mapped: it lasts as long as its connection to the server."""

from __future__ import annotations

import os
import socket


class Lease:
    """Descriptors of one model's weights by file name, and the connection that keeps the model from being evicted.

    The server sees the connection end when this process closes it or dies.
    """

    def __init__(self, connection: socket.socket, tier: str, descriptors: dict[str, int]) -> None:
        self.tier = tier
        self.descriptors = descriptors
        self._connection: socket.socket | None = connection

    def close_descriptors(self) -> None:
        """Closes the descriptors, once all is mapped; the lease goes on."""
        while self.descriptors:
            os.close(self.descriptors.popitem()[1])

    def close(self) -> None:
        """Ends the lease; harmless when repeated."""
        self.close_descriptors()
        if self._connection is not None:
            self._connection.close()
            self._connection = None
