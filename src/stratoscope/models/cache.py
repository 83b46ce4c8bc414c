"""Materialised models on disk: one folder an entry, written whole or not at all, safe for concurrent builders."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from pydantic import ValidationError

from stratoscope.errors import ModelError
from stratoscope.spec.base import Document
from stratoscope.spec.model import ModelManifest

CACHE_VARIABLE = "STRATOSCOPE_CACHE"
_SIDECAR = "entry.json"
_SCRATCH = ".building-"
_ABANDONED_S = 24 * 3600  # no export takes a day

Progress = Callable[[str], None]
FileStat = tuple[int, int, int]  # size, inode, time of the last change in nanoseconds


def silent(_message: str) -> None:
    """The progress callback of a caller that wants none."""


def cache_folder(cache: Path | None = None) -> Path:
    """Where models are kept: `cache`, else $STRATOSCOPE_CACHE, else stratoscope/ in the XDG cache folder."""
    if cache is not None:
        return Path(cache)
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "stratoscope"


@dataclass(frozen=True, slots=True)
class CachedModel:
    """An entry: the ONNX file and its manifest, in which free dimensions still have names."""

    path: Path
    manifest: ModelManifest


class _Sidecar(Document):
    """What lies beside the files of an entry: how they were when it was sealed, and the manifest with the digest."""

    files: dict[str, FileStat]
    manifest: ModelManifest


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to make an entry.

    Attributes:
        key: names the content (entry, generator version, seed, versions of what generates); also the folder's name.
        file_name: the ONNX file inside the folder.
        label: what a person reads while waiting.
        build: writes the file to the path given and returns the manifest, without its digest.
        size_bytes: about how much it will write.
    """

    key: str
    file_name: str
    label: str
    build: Callable[[Path], ModelManifest]
    size_bytes: int = 0


def fetch(recipe: Recipe, folder: Path, on_progress: Progress = silent) -> CachedModel:
    """The entry of `recipe`, built where it is missing or damaged.

    The content is hashed once, when it is built; later calls compare size, inode and time of change of every file,
    and hash again only where these differ (a copied cache). Builders in several processes wait for the first one.

    Raises:
        ModelError: the folder cannot be written or is full, with the variable that moves it; or from `build`.
    """
    entry = folder / recipe.key
    if found := _read(entry, recipe):
        return found
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(folder / f"{recipe.key}.lock", recipe.label, on_progress):
            if found := _read(entry, recipe):
                return found
            on_progress(f"materialising {recipe.label}")
            return _build(entry, recipe)
    except OSError as error:
        _cannot_write(folder, recipe.label, error)


def place(source: Path, manifest: ModelManifest, key: str, file_name: str, folder: Path) -> CachedModel:
    """Moves what is in `source`, a scratch folder of this cache, to the entry `key`; an equal entry is kept."""
    recipe = Recipe(key, file_name, manifest.id, lambda _path: manifest)
    try:
        with _lock(folder / f"{key}.lock", manifest.id, silent):
            return _read(folder / key, recipe) or _seal(source, folder / key, recipe, manifest)
    except OSError as error:
        _cannot_write(folder, manifest.id, error)


@contextlib.contextmanager
def scratch_folder(folder: Path, label: str) -> Iterator[Path]:
    """A temporary folder inside the cache, gone afterwards; raises ModelError where it cannot be written or is full."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder)
        scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=folder))
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        _cannot_write(folder, label, error)


def _remove_abandoned(folder: Path) -> None:
    """Removes the scratch folders of processes that were killed, told by their age."""
    for scratch in folder.glob(f"{_SCRATCH}*"):
        if time.time() - scratch.stat().st_mtime > _ABANDONED_S:
            shutil.rmtree(scratch, ignore_errors=True)


def _build(entry: Path, recipe: Recipe) -> CachedModel:
    for stale in entry.parent.glob(f".{recipe.key}.*"):  # of a builder that was killed; we hold its lock
        shutil.rmtree(stale, ignore_errors=True)
    free = shutil.disk_usage(entry.parent).free
    if free < recipe.size_bytes:
        raise OSError(errno.ENOSPC, f"{recipe.size_bytes / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free")
    temporary = Path(tempfile.mkdtemp(prefix=f".{recipe.key}.", dir=entry.parent))
    try:
        manifest = recipe.build(temporary / recipe.file_name)
        return _seal(temporary, entry, recipe, manifest)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _seal(temporary: Path, entry: Path, recipe: Recipe, manifest: ModelManifest) -> CachedModel:
    """Hashes, writes the sidecar, flushes to the disk and renames into place."""
    from stratoscope.graph.onnx_file import model_digest

    manifest = manifest.model_copy(update={"sha256": model_digest(temporary / recipe.file_name), "path": None})
    for file in temporary.iterdir():
        _flush(file)
    _write_sidecar(temporary, manifest)
    temporary.chmod(0o755)  # a cache may be shared between users
    _flush(temporary)
    if entry.exists():  # damaged: out of the way first, a rename replaces no full folder
        doomed = Path(tempfile.mkdtemp(prefix=f".{recipe.key}.", dir=entry.parent))
        entry.rename(doomed / "old")
        shutil.rmtree(doomed, ignore_errors=True)
    temporary.rename(entry)
    _flush(entry.parent)
    return CachedModel(entry / recipe.file_name, manifest)


def _read(entry: Path, recipe: Recipe) -> CachedModel | None:
    """The entry, or None where it is missing or is not what was written."""
    path = entry / recipe.file_name
    try:
        sidecar = _Sidecar.model_validate_json((entry / _SIDECAR).read_bytes())
        present = _stats(entry)
    except (OSError, ValidationError):
        return None
    sizes = {name: stat[0] for name, stat in present.items()}
    if not path.is_file() or sizes != {name: stat[0] for name, stat in sidecar.files.items()}:
        return None
    if present != sidecar.files:
        if not _has_digest(path, sidecar.manifest.sha256):
            return None
        with contextlib.suppress(OSError):  # a cache that cannot be written is hashed each time
            _write_sidecar(entry, sidecar.manifest)
    return CachedModel(path, sidecar.manifest)


def _has_digest(path: Path, digest: str | None) -> bool:
    from stratoscope.graph.onnx_file import model_digest

    try:
        return model_digest(path) == digest
    except ModelError:  # no longer a model
        return False


def _stats(folder: Path) -> dict[str, FileStat]:
    """What tells a changed file, for every file of an entry but the sidecar."""
    stats = {file.name: file.stat() for file in folder.iterdir() if not file.name.startswith(_SIDECAR)}
    return {name: (stat.st_size, stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}


def _write_sidecar(folder: Path, manifest: ModelManifest) -> None:
    content = _Sidecar(files=_stats(folder), manifest=manifest).model_dump_json(by_alias=True, indent=1)
    handle, name = tempfile.mkstemp(prefix=_SIDECAR, dir=folder)
    with os.fdopen(handle, "w") as file:
        file.write(content)
        file.flush()
        os.fchmod(file.fileno(), 0o644)
        os.fsync(file.fileno())
    os.replace(name, folder / _SIDECAR)


@contextlib.contextmanager
def _lock(path: Path, label: str, on_progress: Progress) -> Iterator[None]:
    """Holds an advisory lock that the kernel drops when the process ends, however it ends."""
    with open(path, "wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_progress(f"waiting for another process that materialises {label}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _cannot_write(folder: Path, label: str, error: OSError) -> NoReturn:
    reason = error.strerror or str(error)
    raise ModelError(
        f"cannot write model {label!r} into the cache folder {folder}: {reason}",
        hint=f"set {CACHE_VARIABLE} to a folder that can be written and has room",
    ) from error
