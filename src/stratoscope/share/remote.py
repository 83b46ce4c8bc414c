"""The remote tier: prepared models in another folder, or behind an HTTP address of this machine."""

from __future__ import annotations

import os
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, cast

from pydantic import ValidationError

from stratoscope.share.artifact import MANIFEST, ArtifactManifest
from stratoscope.share.errors import IntegrityError, ShareError, clear_errors
from stratoscope.share.library import Library

_MANIFEST_BYTES: Final = 64 << 20
_TIMEOUT_S: Final = 30.0
_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")


def fetch(remote: str, key: str, library: Library) -> bool:
    """Copies the artefact `key` into the store, verified; False where the remote does not have it.

    Raises:
        IntegrityError: what came is not what its manifest says; nothing is kept.
        ShareError: the remote cannot be read, or is not on this machine.
    """
    library.folder(key)  # refuses what is no key
    _check(remote)
    with _open(remote, f"{key}/{MANIFEST}") as stream:
        if stream is None:
            return False
        text = stream.read(_MANIFEST_BYTES)
    try:
        manifest = ArtifactManifest.model_validate_json(text)
    except ValidationError as error:
        raise IntegrityError(f"{remote}: the manifest of {key} is none: {error.errors()[0]['msg']}") from error
    if manifest.key.digest() != key:
        raise IntegrityError(f"{remote}: what lies at {key} is another model")

    def build(folder: Path) -> ArtifactManifest:
        for stored in manifest.files:
            _copy(remote, key, stored.name, stored.nbytes, folder / stored.name)
        return manifest

    try:
        library.obtain(manifest.key, build)
    except IntegrityError:
        library.evict(key)
        raise
    return True


def _copy(remote: str, key: str, name: str, nbytes: int, target: Path) -> None:
    """One file of exactly `nbytes`; its digest is verified afterwards with all others."""
    with _open(remote, f"{key}/{name}") as stream:
        if stream is None:
            raise IntegrityError(f"{remote}: {key} lacks its file {name}")
        with clear_errors("write", target), open(target, "wb") as file:
            left = nbytes
            while left and (part := stream.read(min(left, 1 << 20))):
                file.write(part)
                left -= len(part)
    if left:
        raise IntegrityError(f"{remote}: {key}/{name} ends {left} bytes too early")


def _check(remote: str) -> None:
    if "://" not in remote:
        return
    address = urllib.parse.urlsplit(remote)
    if address.scheme != "http" or address.hostname not in _LOOPBACK:
        raise ShareError(
            f"the remote {remote} is not on this machine", hint="give a folder, or an http:// address on 127.0.0.1"
        )


@contextmanager
def _open(remote: str, name: str) -> Iterator[BinaryIO | None]:
    """A stream of the remote's file `name`, or None where there is none."""
    try:
        if "://" in remote:
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect())
            stream = cast(BinaryIO, opener.open(f"{remote.rstrip('/')}/{name}", timeout=_TIMEOUT_S))
        else:
            stream = open(os.fspath(Path(remote) / name), "rb")  # noqa: SIM115 - closed below
    except FileNotFoundError:
        yield None
        return
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise ShareError(f"{remote} answers {error.code} for {name}") from error
        yield None
        return
    except OSError as error:
        reason = getattr(error, "reason", None) or error.strerror or error
        raise ShareError(f"cannot read {name} from {remote}: {reason}", hint="check the address") from error
    with stream:
        yield stream


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no address that the server gives: it could name another machine."""

    def redirect_request(self, *_arguments: object) -> None:
        return None


def copy_to(artifact_folder: Path, remote: Path) -> Path:
    """Copies a prepared model into a remote folder; returns its place there."""
    target = remote / artifact_folder.name
    with clear_errors("copy the model", remote):
        remote.mkdir(parents=True, exist_ok=True)
        scratch = remote / f".{artifact_folder.name}.{os.getpid()}"
        shutil.copytree(artifact_folder, scratch, ignore=shutil.ignore_patterns("verified.json"))
        if target.exists():
            shutil.rmtree(target)
        scratch.rename(target)
    return target
