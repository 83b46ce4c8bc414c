"""Writes a file whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from stratoscope.errors import TraceError


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[IO[bytes]]:
    """A file to write into, which takes the place of `path` when the block ends, and leaves nothing when it fails.

    Raises:
        TraceError: the file cannot be written.
    """
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise TraceError(f"cannot write {path}: {error.strerror}", hint="choose another place") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except OSError as error:
        raise TraceError(f"cannot write {path}: {error.strerror}", hint="is the disk full?") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
