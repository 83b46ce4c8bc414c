"""PyTorch modules whose parameters are the one copy of the weights that all processes map."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from stratoscope.share.arrays import SharedArrays
from stratoscope.share.artifact import Artifact, ArtifactKey, ArtifactManifest, Granularity
from stratoscope.share.client import ask_server
from stratoscope.share.errors import ShareError
from stratoscope.share.library import Library, file_digest
from stratoscope.share.memory import give_back_free_memory, private_bytes
from stratoscope.share.opening import check_private, open_arrays
from stratoscope.share.prepare import largest_error
from stratoscope.share.safetensors import Blob, read_header, write_safetensors
from stratoscope.spec.base import digest_of
from stratoscope.trace.steps import step

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Safetensors' names of PyTorch's types.
_TYPES: Final = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
    "complex64": "C64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a module is built: `real` with its weights, `hollow` with its structure alone (large tensors on meta).

    `identity` names the weights: another text is another prepared model.
    """

    name: str
    identity: str
    real: Callable[[], nn.Module]
    hollow: Callable[[], nn.Module]
    granularity: Granularity = "model"


@dataclass(slots=True)
class SharedModule:
    """A module in evaluation mode over shared weights.

    A write to a parameter stays in this process (copy on write). `close` ends the lease; the weights stay mapped for as
    long as the module holds them. `facts`: bytes of weights, bytes that the load took for itself, and the tier.
    """

    module: nn.Module
    arrays: SharedArrays
    facts: dict[str, int | str]

    def close(self) -> None:
        """Ends the lease."""
        self.arrays.close()


def load_torch(
    factory: Callable[[], nn.Module],
    weights: Path | None = None,
    *,
    name: str,
    identity: str | None = None,
    example: tuple[Any, ...] | None = None,
    granularity: Granularity = "model",
    library: Library | None = None,
) -> SharedModule:
    """The module that `factory` builds, on weights that all processes of this machine share.

    The module is built on the meta device, where it has no weights, and takes the mapped ones over
    (`load_state_dict(assign=True)`). Buffers outside the state dictionary, and parameters that are one tensor under
    several names, are as in the original.

    Args:
        factory: builds the module; with the same arguments each time.
        weights: its state dictionary in a .safetensors file, or in a file of `torch.save`, which is loaded with
            `weights_only`. None: those that `factory` itself loads or draws.
        name: what messages and `share status` call it.
        identity: names the weights where `factory` makes them: a revision, a digest, a seed.
        example: inputs on which the prepared module is compared with the original, once.
        granularity: "layer" shares equal tensors of different models too.

    Raises:
        ShareError: neither `weights` nor `identity` is given, the state does not fit, answers differ, or loading
            copied the weights.
    """

    library = library or Library.open()
    if weights is None and identity is None:
        raise ShareError(
            f"the weights of module {name!r} have no name",
            hint="give weights=FILE, or identity= a text that changes when the weights do",
        )
    digest = digest_of(identity) if weights is None else file_digest(weights, library, _digest)

    def real() -> nn.Module:
        module = factory()
        if weights is not None:
            _load_state(module, _read_state(weights), name, weights)
        return module

    def hollow() -> nn.Module:
        return build_hollow(factory)

    return open_module(Recipe(name, digest, real, hollow, granularity), example=example, library=library)


def build_hollow(factory: Callable[[], nn.Module]) -> nn.Module:
    """The module with its structure alone: every tensor on the meta device, and none of them initialised.

    An initialiser of a meta tensor computes nothing, but goes through Python's dispatch (about a third of building 24
    linear layers, half of building GPT-2), so it is left out.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    fills = {torch.Tensor.uniform_, torch.Tensor.normal_, torch.Tensor.zero_, torch.Tensor.fill_}

    class LeaveOutInitializers(TorchFunctionMode):  # type: ignore[misc]  # torch does not type it
        def __torch_function__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            kwargs = kwargs or {}
            if func in fills or getattr(func, "__module__", None) == torch.nn.init.__name__:
                tensor = args[0] if args else kwargs.get("tensor")
                if isinstance(tensor, torch.Tensor) and tensor.is_meta:
                    return tensor
            return func(*args, **kwargs)

    with torch.device("meta"), LeaveOutInitializers():
        return factory()


def open_module(recipe: Recipe, *, example: tuple[Any, ...] | None = None, library: Library) -> SharedModule:
    """The module of `recipe` over shared weights, prepared where it was not; raises as `load_torch` does."""
    import torch

    with step("find"):
        artifact = prepare_module(recipe, library, example=example)
    with step("build the module"), torch.inference_mode(False):
        module = recipe.hollow()
    give_back_free_memory()
    before = private_bytes()
    with step("map"):
        arrays = open_arrays(artifact, library, private=True)
    try:
        with step("page faults"):
            arrays.populate()
        with step("assign weights"):
            _fill(module, arrays, recipe.name)
        facts = check_private(artifact, arrays.tier, before)
    except BaseException:
        arrays.close()
        raise
    return SharedModule(module.eval(), arrays, facts)


def prepare_module(recipe: Recipe, library: Library, *, example: tuple[Any, ...] | None = None) -> Artifact:
    """The prepared weights of `recipe`, made where they are missing and compared on `example`."""
    key = ArtifactKey(
        kind="pytorch",
        model_sha256=f"{recipe.name} {recipe.identity}",
        runtime="safetensors",
        isa="any",
        optimization="off",
        granularity=recipe.granularity,
    )
    if library.read(key.digest()) is None:
        ask_server(library, {"op": "fetch", "key": key.digest()})
    layers = library.layer_folder() if recipe.granularity == "layer" else None
    return library.obtain(key, lambda folder: _build(recipe, example, key, folder, layers))


def _build(
    recipe: Recipe, example: tuple[Any, ...] | None, key: ArtifactKey, folder: Path, layers: Path | None
) -> ArtifactManifest:
    """Writes all tensors of the real module, each once."""
    import torch

    start = time.perf_counter()
    with torch.inference_mode(False), torch.no_grad():
        module = recipe.real().eval()
        answers = None if example is None else _answers(module(*example))
    cost = time.perf_counter() - start
    blobs, aliases = _blobs(module)
    extra = sorted({n for n, _ in module.named_buffers(remove_duplicate=False)} - set(module.state_dict()))
    metadata = {"format": "pt", "aliases": json.dumps(aliases), "buffers": json.dumps(extra)}
    files, tensors = write_safetensors(folder, blobs, metadata, layers)
    manifest = ArtifactManifest(key=key, model=recipe.name, files=files, tensors=tensors, load_cost_s=cost)
    if example is None or answers is None:
        return manifest
    with torch.inference_mode(False), torch.no_grad():
        copy = recipe.hollow()
        _fill(copy, SharedArrays(Artifact(folder, manifest), None, private=True), recipe.name)
        error = largest_error(recipe.name, answers, _answers(copy.eval()(*example)))
    return manifest.model_copy(update={"facts": {"largest_error": error}})


def _blobs(module: nn.Module) -> tuple[list[Blob], dict[str, str]]:
    """All parameters and buffers, each memory once; further names of the same memory point to the first."""
    import torch

    seen: dict[tuple[Any, ...], str] = {}
    aliases: dict[str, str] = {}
    blobs = []
    for name, tensor in _tensors(module):
        held = tensor.detach()
        where = (held.data_ptr(), tuple(held.shape), tuple(held.stride()), held.dtype)
        if held.numel() and where in seen:
            aliases[name] = seen[where]
            continue
        seen[where] = name
        kind = _TYPES.get(str(held.dtype).removeprefix("torch."))
        if kind is None or held.device.type != "cpu" or held.layout != torch.strided:
            raise ShareError(
                f"tensor {name!r} is {held.dtype} on {held.device}: only plain tensors of the CPU are shared"
            )
        flat = held.contiguous().view(-1)
        data = flat.view(torch.uint8).numpy() if flat.numel() else flat.numpy()
        blobs.append(Blob(name, kind, tuple(held.shape), memoryview(data).cast("B")))
    return blobs, aliases


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _fill(module: nn.Module, arrays: SharedArrays, name: str) -> None:
    """Puts the mapped tensors into a module that was built without them."""
    import torch

    header = read_header(arrays["__header__"].tobytes())
    metadata = header.pop("__metadata__", {})
    names = {text: kind for kind, text in _TYPES.items()}
    state = {}
    for key, entry in header.items():
        kind = getattr(torch, names[entry["dtype"]])
        array = arrays[key]
        flat = torch.frombuffer(array, dtype=kind) if array.size else torch.empty(0, dtype=kind)
        state[key] = flat.view(tuple(entry["shape"]))
    state |= {alias: state[first] for alias, first in json.loads(metadata["aliases"]).items()}
    for key in json.loads(metadata["buffers"]):
        owner, _, last = key.rpartition(".")
        module.get_submodule(owner)._buffers[last] = state.pop(key)
    _load_state(module, state, name, arrays.artifact.folder)
    left = [key for key, tensor in _tensors(module) if tensor.is_meta]
    if left:
        raise ShareError(
            f"module {name!r} has tensors that are not prepared: {', '.join(left[:3])}",
            hint="build it with the same arguments each time, or evict and prepare it again",
        )
    for parameter in module.parameters():
        parameter.requires_grad_(False)


def _load_state(module: nn.Module, state: dict[str, Any], name: str, source: Path) -> None:
    """`load_state_dict(assign=True)` with one clear line where the state does not fit the module."""
    try:
        module.load_state_dict(state, strict=True, assign=True)
    except (RuntimeError, ValueError) as error:
        raise ShareError(
            f"the weights in {source} do not fit module {name!r}: {' '.join(str(error).split())[:200]}",
            hint="build the module with the arguments that the weights were made for",
        ) from error


def _read_state(path: Path) -> dict[str, Any]:
    import pickle

    import torch

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise ShareError(f"cannot read weights from {path}: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(loaded, dict):
        raise ShareError(f"{path} holds a {type(loaded).__name__}, not a state dictionary")
    return loaded


def _answers(outputs: Any) -> list[Any]:
    """Tensors of a module's answer, as arrays."""
    import torch

    if isinstance(outputs, torch.Tensor):
        return [outputs.float().numpy() if outputs.dtype == torch.bfloat16 else outputs.numpy()]
    values = outputs.values() if hasattr(outputs, "values") else outputs
    return [array for value in values if value is not None for array in _answers(value)]


def _digest(path: Path) -> tuple[str, list[Path]]:
    import hashlib

    with open(path, "rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest(), []
