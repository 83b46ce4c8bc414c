"""PyTorch modules on the one copy of the weights that all processes of this machine share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from stratoscope.backends.base import BackendOptions
from stratoscope.backends.pytorch.from_onnx import from_onnx
from stratoscope.errors import BackendError
from stratoscope.models.zoo import ZOO_SEED, find_entry
from stratoscope.share.library import Library
from stratoscope.share.prepare import model_sha256
from stratoscope.share.torch_model import Recipe, SharedModule, build_hollow, open_module, prepare_module
from stratoscope.spec.model import LoadableModel

if TYPE_CHECKING:
    from stratoscope.backends.pytorch.modules import Source
    from stratoscope.share.artifact import Artifact, Granularity


def open_shared(model: LoadableModel, source: Source, options: BackendOptions) -> SharedModule:
    """The module of `model` over shared weights, prepared at first use.

    Raises:
        BackendError: an option copies the weights, or they are in this process already.
        ShareError: it cannot be prepared, or was changed since.
    """
    _check(model, options)
    library = Library.open()
    return open_module(_recipe(model, source, library, options.shared_granularity), library=library)


def prepare_shared(model: LoadableModel, granularity: Granularity, library: Library) -> Artifact:
    """The prepared weights of `model`, made where they are missing."""
    from stratoscope.backends.pytorch.modules import source_of

    return prepare_module(_recipe(model, source_of(model), library, granularity), library)


def _check(model: LoadableModel, options: BackendOptions) -> None:
    refused = {
        "--precision": options.precision is not None,
        "--channels-last": options.channels_last,
        "--provider": any(name.lower() != "cpu" for name in options.providers),
        "--execution compile": options.execution == "compile",
    }
    for option, given in refused.items():
        if given:
            raise BackendError(
                f"PyTorch back end: model {model.name!r} cannot be shared with {option}, which copies its weights",
                hint=f"leave out {option} or --shared",
            )


def _recipe(model: LoadableModel, source: Source, library: Library, granularity: Granularity) -> Recipe:
    path = model.path
    if source == "zoo":
        from stratoscope.models.torch_zoo import build_entry, build_structure

        entry = find_entry(model.name)
        identity = f"zoo {model.name} seed {ZOO_SEED} {_transformers()}"

        def structure() -> nn.Module:
            return build_hollow(lambda: build_structure(entry))

        return Recipe(model.name, identity, lambda: build_entry(entry, ZOO_SEED), structure, granularity)
    if source == "module" or path is None:
        raise BackendError(
            f"PyTorch back end: module {model.name!r} is in this process with its weights, which are not shared",
            hint="build it with stratoscope.share.load_torch, which gives a module over shared weights",
        )

    def hollow() -> nn.Module:
        return from_onnx(path, weights=False)

    return Recipe(model.name, f"onnx {model_sha256(model, library)}", lambda: from_onnx(path), hollow, granularity)


def _transformers() -> str:
    from importlib.metadata import version

    return f"transformers {version('transformers')} torch {version('torch')}"
