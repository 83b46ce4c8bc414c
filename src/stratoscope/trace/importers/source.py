"""The bytes of a trace file in blocks: plain or gzip, told by content, bounded, and as far as a broken file goes."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from stratoscope.errors import TraceError

#: Bytes of one block.
BLOCK: Final = 1 << 20
#: A file may unfold to no more than this: ten times the largest traces that profilers are known to write.
MAX_BYTES: Final = 40 << 30
#: Packed bytes that are unpacked at once.
_PACKED: Final = 1 << 18
_GZIP: Final = b"\x1f\x8b"


class Source:
    """Iterates over a file's content; afterwards `broken` says why it ended early, or is None."""

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES) -> None:
        self.path = path
        self.broken: str | None = None
        self._max_bytes = max_bytes

    def __iter__(self) -> Iterator[bytes]:
        """Blocks of at most `BLOCK` bytes.

        Raises:
            TraceError: the file cannot be read, or unfolds to more than the limit.
        """
        total = 0
        try:
            with self.path.open("rb") as file:
                packed = file.read(2) == _GZIP
                file.seek(0)
                for block in self._inflated(file) if packed else iter(lambda: file.read(BLOCK), b""):
                    total += len(block)
                    if total > self._max_bytes:
                        raise TraceError(
                            f"{self.path} holds more than {self._max_bytes >> 20} MiB", hint="split the trace"
                        )
                    yield block
        except OSError as error:
            raise TraceError(f"cannot read {self.path}: {error.strerror or error}") from error

    def head(self, size: int) -> bytes:
        """The first `size` bytes of the content, or all of it."""
        data = b""
        for block in self:
            data += block
            if len(data) >= size:
                break
        return data[:size]

    def all(self, max_bytes: int) -> bytes:
        """The whole content, of at most `max_bytes`."""
        whole = Source(self.path, max_bytes)
        data = b"".join(whole)
        self.broken = whole.broken
        return data

    def _inflated(self, file: IO[bytes]) -> Iterator[bytes]:
        stream, waiting = zlib.decompressobj(31), b""
        while True:
            block = waiting or file.read(_PACKED)
            before = stream.copy()
            try:
                data = stream.decompress(block, BLOCK)
            except zlib.error as error:
                self.broken = f"damaged gzip data: {error}"
                yield from _before_damage(before, block)
                return
            waiting = stream.unconsumed_tail
            if data:
                yield data
            if stream.eof:
                waiting = stream.unused_data or file.read(_PACKED)
                if not waiting.startswith(_GZIP):
                    return
                stream = zlib.decompressobj(31)
            elif not block and not data:
                self.broken = "gzip data that end too early"
                return


def _before_damage(stream: zlib._Decompress, block: bytes) -> Iterator[bytes]:
    """What a block gives up to the byte at which it is damaged; less than `BLOCK` for each byte."""
    for place in range(len(block)):
        try:
            data = stream.decompress(block[place : place + 1], BLOCK)
        except zlib.error:
            return
        if data:
            yield data
