"""The prepared models of this user on this machine's disk: found by key, verified by digest, written whole or not."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from stratoscope.models.cache import cache_folder
from stratoscope.share.artifact import MANIFEST, Artifact, ArtifactKey, ArtifactManifest
from stratoscope.share.errors import IntegrityError, ShareError, clear_errors
from stratoscope.share.layers import sweep_layers
from stratoscope.share.mapping import map_descriptor, open_inside

VARIABLE: Final = "STRATOSCOPE_SHARE"
_STAMP: Final = "verified.json"
_SCRATCH: Final = ".building-"
_ABANDONED_S: Final = 3600.0
_AGAIN: Final = "evict the model and prepare it again"

FileState = tuple[int, int, int, int]


def share_folder(root: Path | None = None) -> Path:
    """Where prepared models are kept: `root`, else $STRATOSCOPE_SHARE, else shared/ in the model cache."""
    if root is not None:
        return Path(root)
    if named := os.environ.get(VARIABLE):
        return Path(named).expanduser()
    return cache_folder() / "shared"


@dataclass(frozen=True, slots=True)
class Library:
    """The store in one folder, which belongs to one user: nobody else may write there."""

    root: Path

    @classmethod
    def open(cls, root: Path | None = None) -> Library:
        """The store in `root` (see `share_folder`), made where it is missing.

        Raises:
            ShareError: the folder cannot be made, belongs to someone else, or others may write in it.
        """
        folder = share_folder(root)
        with clear_errors("make the store", folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            found = folder.stat()
        if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o022:
            raise ShareError(
                f"{folder} can be written by other users, who could change the weights of yours",
                hint=f"set {VARIABLE} to a folder of your own, mode 700",
            )
        return cls(folder)

    def folder(self, key: str) -> Path:
        """The folder of the artefact `key`; raises IntegrityError for what is no key."""
        if not (len(key) == 32 and set(key) <= set("0123456789abcdef")):
            raise IntegrityError(f"{key!r} is not the key of a prepared model", hint="see: stratoscope share status")
        return self.root / key

    def find(self, key: str) -> Artifact | None:
        """The artefact `key` after its digests were checked, or None where it was not prepared.

        Every byte is hashed once; later only size, inode and times of each file are compared with what they were then.

        Raises:
            IntegrityError: it is there and is not what was prepared.
        """
        artifact = self.read(key)
        if artifact is not None:
            self.verify(artifact)
        return artifact

    def read(self, key: str) -> Artifact | None:
        """The artefact `key` without a look at its weights, or None."""
        folder = self.folder(key)
        try:
            text = (folder / MANIFEST).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise IntegrityError(f"cannot read {folder / MANIFEST}: {error.strerror}", hint=_AGAIN) from error
        try:
            manifest = ArtifactManifest.model_validate_json(text)
        except ValidationError as error:
            raise IntegrityError(
                f"{folder / MANIFEST} is not a manifest: {error.errors()[0]['msg']}", hint=_AGAIN
            ) from error
        if manifest.key.digest() != key:
            raise IntegrityError(f"{folder / MANIFEST} is that of another model", hint=_AGAIN)
        return Artifact(folder, manifest)

    def verify(self, artifact: Artifact, *, thorough: bool = False) -> None:
        """Raises IntegrityError unless each byte is the one that was prepared; `thorough` ignores earlier checks."""
        states = {stored.name: self._state(artifact, stored.name) for stored in artifact.manifest.files}
        for stored in artifact.manifest.files:
            if states[stored.name][0] != stored.nbytes:
                raise IntegrityError(
                    f"{artifact.folder / stored.name} has {states[stored.name][0]} bytes instead of {stored.nbytes}: "
                    "it was cut off or replaced",
                    hint=_AGAIN,
                )
        if not thorough and _stamp(artifact.folder) == states:
            return
        for stored in artifact.manifest.files:
            self._hash(artifact, stored.name, stored.sha256)
        with contextlib.suppress(OSError):  # a store that cannot be written is hashed each time
            _write_atomic(artifact.folder / _STAMP, json.dumps(states).encode())

    def entries(self) -> list[Artifact]:
        """All artefacts whose manifest can be read, by model and kind."""
        found = []
        for path in self.root.glob(f"*/{MANIFEST}"):
            if not path.parent.name.startswith("."):
                with contextlib.suppress(IntegrityError):
                    if artifact := self.read(path.parent.name):
                        found.append(artifact)
        return sorted(found, key=lambda one: (one.manifest.model, one.manifest.key.kind, one.key))

    def evict(self, key: str) -> bool:
        """Removes the artefact from disk, whether it was there; who has it mapped keeps what is mapped."""
        folder = self.folder(key)
        with self.lock(key):
            if not folder.exists():
                return False
            with clear_errors("evict", folder):
                doomed = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=self.root))
                folder.rename(doomed / key)
                shutil.rmtree(doomed)
        sweep_layers(self.root / ".layers")
        return True

    def obtain(self, key: ArtifactKey, build: Callable[[Path], ArtifactManifest]) -> Artifact:
        """The artefact `key`, made by `build` in an empty folder where it is missing; builders wait for the first."""
        digest = key.digest()
        if found := self.find(digest):
            return found
        with self.lock(digest):
            if found := self.find(digest):
                return found
            with self.scratch() as scratch, clear_errors("prepare the model", self.root):
                manifest = build(scratch)
                _write_atomic(scratch / MANIFEST, manifest.model_dump_json(by_alias=True, indent=1).encode())
                for file in scratch.iterdir():
                    _flush(file)
                scratch.rename(self.folder(digest))
                _flush(self.root)
        found = self.find(digest)
        if found is None:
            raise IntegrityError(f"{self.folder(digest)} vanished while it was prepared", hint="prepare it again")
        return found

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """An empty folder in the store, gone afterwards unless it was renamed."""
        with clear_errors("write", self.root):
            for old in self.root.glob(f"{_SCRATCH}*"):
                if time.time() - old.stat().st_mtime > _ABANDONED_S:
                    shutil.rmtree(old, ignore_errors=True)
            path = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=self.root))
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    @contextlib.contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Holds the lock of `key`, which the kernel drops when the process ends."""
        with contextlib.ExitStack() as stack:
            with clear_errors("lock", self.root):
                file = stack.enter_context(open(self.root / f".{key}.lock", "wb"))
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def layer_folder(self) -> Path:
        """Where weights at layer granularity lie once for all models, named by their digests."""
        folder = self.root / ".layers"
        with clear_errors("make the store", folder):
            folder.mkdir(exist_ok=True, mode=0o700)
        return folder

    def _state(self, artifact: Artifact, name: str) -> FileState:
        descriptor = open_inside(artifact.folder, name)
        try:
            found = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        return (found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns)

    def _hash(self, artifact: Artifact, name: str, whole: str | None) -> None:
        """Compares a file with its digest, or each of its tensors with theirs."""
        where = artifact.folder / name
        descriptor = open_inside(artifact.folder, name)
        try:
            data = map_descriptor(descriptor, os.fstat(descriptor).st_size, str(where))
        finally:
            os.close(descriptor)
        if whole is not None and hashlib.sha256(data).hexdigest() != whole:
            raise IntegrityError(f"{where} is not the file that was prepared: its digest differs", hint=_AGAIN)
        for tensor in artifact.manifest.tensors:
            if tensor.file != name:
                continue
            if tensor.offset + tensor.nbytes > data.nbytes:
                raise IntegrityError(f"{where} ends before weight {tensor.name!r}", hint=_AGAIN)
            part = data[tensor.offset : tensor.offset + tensor.nbytes]
            if hashlib.sha256(part).hexdigest() != tensor.sha256:
                raise IntegrityError(
                    f"weight {tensor.name!r} in {where} is not the one that was prepared: its digest differs",
                    hint=_AGAIN,
                )


def file_digest(path: Path, library: Library, compute: Callable[[Path], tuple[str, list[Path]]]) -> str:
    """The digest that `compute` gives, remembered for as long as all files that it depends on stay the same."""
    name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]
    note = library.root / f".digest-{name}.json"
    try:
        kept = json.loads(note.read_bytes())
        if all(_state_of(Path(file)) == tuple(state) for file, state in kept["files"].items()):
            return str(kept["digest"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        pass  # never computed, or not readable: computed anew
    with clear_errors("read", path):
        before = {str(path.resolve()): _state_of(path)}
        digest, files = compute(path)
        before |= {str(file.resolve()): _state_of(file) for file in files}
    with contextlib.suppress(OSError):  # remembered only to save time
        _write_atomic(note, json.dumps({"files": before, "digest": digest}).encode())
    return digest


def _state_of(path: Path) -> FileState:
    found = path.stat()
    return (found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns)


def _stamp(folder: Path) -> dict[str, FileState] | None:
    """The states of the files when they were last hashed, or None."""
    try:
        kept = json.loads((folder / _STAMP).read_bytes())
        return {str(name): (int(s[0]), int(s[1]), int(s[2]), int(s[3])) for name, s in kept.items()}
    except (OSError, ValueError, TypeError, IndexError, AttributeError):
        return None


def _write_atomic(path: Path, content: bytes) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
