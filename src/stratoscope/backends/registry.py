"""Finds back ends by name: our own, and those that other packages declare in the entry-point group."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from stratoscope.backends.base import Backend, Capabilities
from stratoscope.errors import BackendError

#: Entry-point group in which a package declares its back ends: name = "module:Class".
GROUP: Final = "stratoscope.backends"

#: Our own, so that they are found also where the package's metadata is absent (a source tree on PYTHONPATH).
BUILT_IN: Final[Mapping[str, str]] = {
    "onnxruntime": "stratoscope.backends.onnxruntime:OnnxRuntimeBackend",
    "null": "stratoscope.backends.null:NullBackend",
    "openvino": "stratoscope.backends.openvino:OpenVinoBackend",
    "pytorch": "stratoscope.backends.pytorch.backend:PyTorchBackend",
}


def get_backend(name: str) -> Backend:
    """The back end called `name`, which may still be unavailable here (see its capabilities).

    Raises:
        BackendError: no back end has this name, or the package that declares it is broken.
    """
    declared = _declared()
    if name not in declared:
        near = difflib.get_close_matches(name.lower(), declared, n=3, cutoff=0.4)
        guess = f"did you mean {' or '.join(near)}? " if near else ""
        raise BackendError(f"unknown back end {name!r}", hint=f"{guess}there are: {', '.join(declared)}")
    backend = _load(declared[name])
    if isinstance(backend, str):
        raise BackendError(f"back end {name!r} cannot be used: {backend}", hint="mend or uninstall its package")
    return backend


def available_backends() -> dict[str, Capabilities]:
    """Each declared back end with what it can do here; a broken one is not available, and its reason says why."""
    found = {}
    for name, entry in _declared().items():
        backend = _load(entry)
        found[name] = (
            Capabilities(available=False, reason=backend, version="unknown", concurrent=False)
            if isinstance(backend, str)
            else _capabilities(backend)
        )
    return found


def _declared() -> dict[str, EntryPoint]:
    """Entry points by name: ours first, then the others in order of name; a name of ours cannot be taken over."""
    own = {name: EntryPoint(name, target, GROUP) for name, target in BUILT_IN.items()}
    others = {entry.name: entry for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.value)}
    return own | {name: others[name] for name in sorted(others) if name not in own}


def _load(entry: EntryPoint) -> Backend | str:
    """The back end, or what is wrong with it: importing a stranger's module may raise anything."""
    try:
        backend = entry.load()()
    except Exception as error:  # noqa: BLE001 - the boundary to other people's code; the reason is shown
        return f"{entry.value} fails with {type(error).__name__}: {error}"
    if not isinstance(backend, Backend):
        return f"{entry.value} does not follow the back-end protocol (stratoscope.backends.base.Backend)"
    return backend


def _capabilities(backend: Backend) -> Capabilities:
    try:
        return backend.capabilities()
    except Exception as error:  # noqa: BLE001 - as above: the protocol forbids it, a stranger may do it
        reason = f"its capabilities() fails with {type(error).__name__}: {error}"
        return Capabilities(available=False, reason=reason, version="unknown", concurrent=False)
