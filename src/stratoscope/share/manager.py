"""What the server holds: models in tiers, loaded once however many ask, kept for as long as someone uses them."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

from stratoscope.share.artifact import Artifact
from stratoscope.share.errors import ShareError
from stratoscope.share.layers import LAYER
from stratoscope.share.library import Library
from stratoscope.share.mapping import open_inside, seal_copy
from stratoscope.share.remote import fetch
from stratoscope.share.tier import Tier

#: Part of the available memory that sealed copies may take where no budget is given.
MEMORY_SHARE: Final = 0.5

TierName = Literal["memory", "file"]


@dataclass(frozen=True, slots=True)
class ManagerSettings:
    """Budgets in bytes and policies of the tiers; `remote` is a folder or an http:// address on this machine."""

    memory_bytes: int
    file_bytes: int
    policy: str = "gdsf"
    serve_from: TierName = "memory"
    remote: str | None = None


@dataclass(slots=True)
class Held:
    """A model that clients may map: names and descriptors of its files; `load_s` is what bringing it here took."""

    artifact: Artifact
    tier: TierName
    files: dict[str, int]
    load_s: float


@dataclass(slots=True)
class _Loading:
    """A load in progress, on which others wait."""

    done: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None


class Manager:
    """Tiers over one store. Every method may be called from any thread."""

    def __init__(self, library: Library, settings: ManagerSettings) -> None:
        self.library = library
        self._settings = settings
        self._lock = threading.Lock()
        self._tiers: dict[TierName, Tier] = {
            "memory": Tier("memory", settings.memory_bytes, settings.policy),
            "file": Tier("file", settings.file_bytes, settings.policy),
        }
        self._held: dict[str, Held] = {}
        self._loading: dict[str, _Loading] = {}
        self.loads = 0

    def open(self, key: str) -> Held:
        """A lease on the model `key`; many callers at once cause one load.

        Raises:
            BudgetError: there is no room for it.
            ShareError: it is nowhere, or its bytes are not those that were prepared.
        """
        while True:
            with self._lock:
                held = self._held.get(key)
                if held is not None and self._tiers[held.tier].lease(key):
                    return held
                if held is not None:
                    raise ShareError(
                        f"model {key} was evicted and is still in use", hint="wait until its last user closes it"
                    )
                loading = self._loading.get(key)
                mine = loading is None
                if loading is None:
                    loading = self._loading[key] = _Loading()
            if mine:
                return self._load(key, loading)
            loading.done.wait()
            if loading.error is not None:
                raise loading.error

    def close(self, key: str) -> None:
        """Gives a lease back."""
        with self._lock:
            held = self._held[key]
            if self._tiers[held.tier].release(key):
                self._free(key)

    def evict(self, key: str) -> bool:
        """Takes the model out of its tier; False where it stays charged until its last user closes it."""
        with self._lock:
            held = self._held.get(key)
            if held is None:
                return True
            gone = self._tiers[held.tier].drop(key)
            if gone:
                self._free(key)
            return gone

    def fetch(self, key: str) -> bool:
        """Brings the model from the remote tier to disk; False where there is none or it is not there."""
        if self.library.find(key) is not None:
            return True
        return self._settings.remote is not None and fetch(self._settings.remote, key, self.library)

    def status(self) -> dict[str, Any]:
        """Tiers and models, for people and for monitoring."""
        with self._lock:
            models = [
                {
                    "key": key,
                    "model": held.artifact.manifest.model,
                    "kind": held.artifact.manifest.key.kind,
                    "tier": held.tier,
                    "bytes": self._tiers[held.tier].entries[key].size,
                    "leases": self._tiers[held.tier].entries[key].leases,
                    "evicted": self._tiers[held.tier].entries[key].evicted,
                    "load_s": held.load_s,
                }
                for key, held in self._held.items()
            ]
            tiers = [asdict(tier.status()) for tier in self._tiers.values()]
        return {"models": models, "tiers": tiers, "loads": self.loads, "remote": self._settings.remote}

    def close_all(self) -> None:
        """Lets go of everything; what clients have mapped stays theirs."""
        with self._lock:
            for key in list(self._held):
                self._free(key)

    def _load(self, key: str, loading: _Loading) -> Held:
        """Brings the model in, while nobody else does; wakes those that wait."""
        try:
            held = self._bring(key)
        except BaseException as error:
            loading.error = error
            raise
        finally:
            with self._lock:
                del self._loading[key]
            loading.done.set()
        return held

    def _bring(self, key: str) -> Held:
        start = time.perf_counter()
        artifact = self.library.find(key)
        if artifact is None and self.fetch(key):
            artifact = self.library.find(key)
        if artifact is None:
            raise ShareError(f"model {key} is not in the store", hint="prepare it: stratoscope share prepare MODEL")
        # The runtime maps packed blobs itself, by path: such a model is served from its file.
        tier: TierName = "file" if artifact.manifest.packing == "saved" else self._settings.serve_from
        names = artifact.manifest.data_files()
        sizes = {stored.name: stored.nbytes for stored in artifact.manifest.files}
        total = sum(sizes[name] for name in names)
        with self._lock:
            self._tiers[tier].missed()
            for victim in self._tiers[tier].admit(key, total, artifact.manifest.load_cost_s or total / 1e9):
                self._free(victim)
        files: dict[str, int] = {}
        try:
            for name in names:
                files[name] = self._bring_file(artifact, name, sizes[name], tier)
        except BaseException:
            with self._lock:
                self._tiers[tier].drop(key)
                self._tiers[tier].release(key)
                for descriptor in files.values():
                    os.close(descriptor)
            raise
        held = Held(artifact, tier, files, time.perf_counter() - start)
        with self._lock:
            self._held[key] = held
            self._tiers[tier].loaded(held.load_s)
            self.loads += 1
        return held

    def _bring_file(self, artifact: Artifact, name: str, nbytes: int, tier: TierName) -> int:
        """A descriptor of one file, in memory the one that another model holds where it has the same layer."""
        if tier == "memory" and name.startswith(LAYER):
            with self._lock:
                for held in self._held.values():
                    if held.tier == tier and name in held.files:
                        return os.dup(held.files[name])
        source = open_inside(artifact.folder, name)
        if tier == "file":
            return source
        try:
            return seal_copy(source, nbytes, name)
        finally:
            os.close(source)

    def _free(self, key: str) -> None:
        """Closes the descriptors of a model; pages of files that nobody maps may leave the page cache."""
        held = self._held.pop(key)
        for descriptor in held.files.values():
            if held.tier == "file":
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)
