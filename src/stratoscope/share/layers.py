"""Weights in files of their own, once for all models that have them: granularity "layer"."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

from stratoscope.share.artifact import StoredFile

#: Beginning of the name of a file that holds one weight; the digest of its bytes follows.
LAYER: Final = "blob-"


def link_layer(layers: Path, folder: Path, digest: str, data: memoryview) -> StoredFile:
    """Makes the weight a file of the prepared model in `folder`: a link to the one in `layers`, written if missing."""
    kept, name = layers / digest, f"{LAYER}{digest}"
    while True:
        try:
            os.link(kept, folder / name)
            return StoredFile(name=name, nbytes=data.nbytes)
        except FileNotFoundError:  # not there yet, or swept because its last model went
            scratch = layers / f".{digest}.{os.getpid()}"
            scratch.write_bytes(data)
            os.replace(scratch, kept)


def sweep_layers(layers: Path) -> None:
    """Removes weights that no model links to any more."""
    for kept in layers.glob("[!.]*"):
        with contextlib.suppress(FileNotFoundError):
            if kept.stat().st_nlink == 1:
                kept.unlink()
