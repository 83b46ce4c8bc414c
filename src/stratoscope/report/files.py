"""Writing results to files: atomically, and refused before a measurement where it could not work after it."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from stratoscope.errors import StoreError

if TYPE_CHECKING:
    from stratoscope.spec.record import RunRecord


def write_text(path: Path, text: str) -> Path:
    """Replaces `path` by `text` in one step; a reader never sees half a file. Raises StoreError naming the file."""
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise _cannot_write(path, error) from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise _cannot_write(path, error) from None
    return path


def write_json(record: RunRecord, path: Path) -> None:
    """The full record as JSON into `path`, or to standard output for `-`."""
    text = record.model_dump_json(indent=2, by_alias=True) + "\n"
    if str(path) == "-":
        sys.stdout.write(text)
        return
    write_text(path, text)


def check_writable(path: Path) -> None:
    """Raises StoreError where `path` cannot be written: its folder is missing, read-only, or it is a folder itself."""
    if path.is_dir():
        raise StoreError(f"{path} is a folder", hint="name a file")
    if not path.parent.is_dir():
        raise StoreError(f"the folder of {path} does not exist", hint="create it or name another file")
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}."):
            pass
    except OSError as error:
        raise _cannot_write(path, error) from None


def _cannot_write(path: Path, error: OSError) -> StoreError:
    return StoreError(f"{path} cannot be written: {error.strerror}", hint="free some space or name a file elsewhere")
