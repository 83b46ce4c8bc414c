"""The tables of a run (samples, spans) as Parquet files: written whole or not at all, read from their folder only."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Final

import polars as pl

from stratoscope.errors import StoreError
from stratoscope.store.faults import clear_errors
from stratoscope.store.ids import check_run_id

#: Names of the tables that a run may have.
ARTIFACT_NAMES: Final = ("samples", "spans")


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Replaces `path` by `content` in one step; after a crash there is the old file or the new one. Raises OSError."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself
    finally:
        os.close(folder)


def write_artifacts(root: Path, run_id: str, tables: Mapping[str, pl.DataFrame | None]) -> dict[str, str]:
    """Writes the tables of a run and returns name -> file, relative to `root`; a table that is None is left out.

    Raises:
        StoreError: the folder cannot be made or written (permissions, full disk); nothing of this run is left in it.
    """
    written: dict[str, str] = {}
    folder = root / check_run_id(run_id)
    present = {name: table for name, table in tables.items() if table is not None}
    if not present:
        return written
    try:
        with clear_errors(folder, "write samples and spans"):
            folder.mkdir(parents=True, exist_ok=True)
            for name, table in present.items():
                buffer = io.BytesIO()
                table.write_parquet(buffer, compression="zstd")
                write_atomically(folder / f"{name}.parquet", buffer.getbuffer())
                written[name] = f"{run_id}/{name}.parquet"
    except BaseException:
        remove_artifacts(root, run_id)
        raise
    return written


def artifact_path(root: Path, run_id: str, relative: str) -> Path:
    """The file of an artefact as its record names it.

    Raises:
        StoreError: the name leads out of the folder of its run (records may come from elsewhere: not trusted).
    """
    parts = PurePosixPath(relative).parts
    home = root / check_run_id(run_id)
    path = root / relative
    inside = len(parts) == 2 and parts[0] == run_id and parts[1] not in {"..", "."} and "\0" not in relative
    if not inside or path.resolve().parent != home.resolve() or home.resolve().parent != root.resolve():
        raise StoreError(f"run {run_id}: artefact {relative!r} lies outside the folder of its run")
    return path


def read_artifact(root: Path, run_id: str, relative: str) -> pl.DataFrame:
    """The table of an artefact.

    Raises:
        StoreError: the file is missing, cannot be read, or is not a whole Parquet file.
    """
    path = artifact_path(root, run_id, relative)
    try:
        return pl.read_parquet(path.open("rb"), use_pyarrow=False)
    except FileNotFoundError:
        raise StoreError(
            f"run {run_id}: {path} is missing", hint="copy the artefact folder together with the database"
        ) from None
    except OSError as error:
        raise StoreError(f"run {run_id}: {path} cannot be read: {error.strerror or error}") from error
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise StoreError(
            f"run {run_id}: {path} is not a whole Parquet file", hint="restore it from a copy, or measure again"
        ) from error


def remove_artifacts(root: Path, run_id: str) -> None:
    """Removes the folder of a run; fine where there is none. Raises StoreError where it cannot be removed."""
    folder = root / check_run_id(run_id)
    with clear_errors(folder, "delete samples and spans"):
        if folder.is_symlink():
            folder.unlink()
        elif folder.exists():
            shutil.rmtree(folder)
