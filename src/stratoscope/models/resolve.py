"""From what the user names (a zoo name, a file, a hub's model, a manifest, a module) to a model that can be loaded."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stratoscope.errors import ModelError
from stratoscope.models.cache import CachedModel, Progress, cache_folder, silent
from stratoscope.models.signature import bind, read_signature
from stratoscope.models.zoo import find_entry, list_zoo, obtain
from stratoscope.spec.model import LoadableModel, ModelManifest, TensorSpec

Shapes = Mapping[str, tuple[int, ...]]
_MANIFEST_SUFFIXES = (".yaml", ".yml", ".json")
_HUB_PREFIX = "hf:"


def resolve(
    model: str | Path | Any,
    *,
    batch_size: int | None = None,
    shapes: Shapes | None = None,
    cache: Path | None = None,
    example_inputs: Any = None,
    on_progress: Progress = silent,
) -> LoadableModel:
    """The model named by `model`, with every input dimension bound.

    Args:
        model: a zoo name, the path of an .onnx file or of a manifest (.yaml), `hf:ORG/NAME`, or a `torch.nn.Module`.
        batch_size: binds dimension 0 of the inputs.
        shapes: input name to shape; binds its free dimensions.
        cache: folder of materialised models; default: see `cache_folder`.
        example_inputs: for a module only: its inputs, batch first (a tensor, a tuple of tensors, or a mapping by
            argument name).
        on_progress: told what takes long ("materialising vgg19").

    Raises:
        ModelError: the model is unknown, missing, unreadable, or does not take the shapes.
        SpecError: the manifest does not validate.
    """
    folder = cache_folder(cache)
    if not isinstance(model, str | Path):
        return _resolve_module(model, example_inputs, batch_size, shapes, cache, on_progress)
    name = str(model)
    if name.startswith(_HUB_PREFIX) or any(entry.name == name for entry in list_zoo()):
        return _bound(_obtain_named(name, folder, on_progress), batch_size, shapes)
    path = Path(name).expanduser()
    suffix = path.suffix.lower()
    if suffix != ".onnx" and suffix not in _MANIFEST_SUFFIXES and not path.exists() and path.name == name:
        find_entry(name)  # neither a name nor a path: raises with the nearest names
    if not path.is_file():
        raise ModelError(f"no such model file: {name}", hint="give the path of an .onnx file or a zoo name")
    if suffix in _MANIFEST_SUFFIXES:
        from stratoscope.spec.yamlio import load_as

        manifest = load_as(ModelManifest, path)
        return resolve_manifest(
            manifest, path.parent, batch_size=batch_size, shapes=shapes, cache=cache, on_progress=on_progress
        )
    if suffix != ".onnx":
        raise ModelError(f"{name} is no model file", hint="expected .onnx, or a manifest in .yaml")
    return _bound(_read_file(path), batch_size, shapes)


def resolve_manifest(
    manifest: ModelManifest,
    folder: Path,
    *,
    batch_size: int | None = None,
    shapes: Shapes | None = None,
    cache: Path | None = None,
    on_progress: Progress = silent,
) -> LoadableModel:
    """The model that `manifest`, which lies in `folder`, describes.

    Without a path, its id is a zoo or hub name. Integer dimensions of its inputs bind dimensions that the graph leaves
    free; `batch_size` and `shapes` have precedence. Raises ModelError where manifest and graph contradict each other
    or the digests differ.
    """
    if manifest.path is None:
        cached = _obtain_named(manifest.id, cache_folder(cache), on_progress)
    else:
        path = folder / manifest.path
        if not path.is_file():
            raise ModelError(f"manifest {manifest.id!r} names a missing file: {path}")
        cached = _read_file(path)
    if manifest.sha256 is not None and manifest.sha256 != cached.manifest.sha256:
        raise ModelError(
            f"model {manifest.id!r} is not the one of its manifest: {cached.path} has {cached.manifest.sha256}, "
            f"the manifest says {manifest.sha256}"
        )
    inputs, outputs, sizes = _merge(manifest, cached.manifest)
    merged = manifest.model_copy(update={"inputs": inputs, "outputs": outputs, "sha256": cached.manifest.sha256})
    return _bound(CachedModel(cached.path, merged), batch_size, shapes, sizes)


def with_batch(loadable: LoadableModel, batch_size: int) -> LoadableModel:
    """The same model at another batch size; raises ModelError where the graph fixes the batch."""
    manifest = loadable.manifest
    if batch_size < 1:
        raise ModelError(f"batch size {batch_size} for model {loadable.name!r} is not positive")
    axis = loadable.batch_axis
    if axis is None:
        if all(spec.shape and spec.shape[0] == batch_size for spec in manifest.inputs):
            return loadable
        raise ModelError(
            f"the graph of {loadable.name!r} has no free batch dimension: it cannot run at batch size {batch_size}",
            hint="export the model with a free (dynamic) dimension 0 on every input",
        )
    inputs = tuple(
        spec.model_copy(update={"shape": (*spec.shape[:axis], batch_size, *spec.shape[axis + 1 :])})
        for spec in manifest.inputs
    )
    bound = manifest.model_copy(update={"inputs": inputs})
    return LoadableModel(manifest=bound, path=loadable.path, module=loadable.module, batch_axis=axis)


def _bound(
    cached: CachedModel,
    batch_size: int | None,
    shapes: Shapes | None,
    defaults: Mapping[str, int] | None = None,
    module: Any = None,
) -> LoadableModel:
    manifest, batch_axis = bind(cached.manifest, batch_size=batch_size, shapes=shapes, defaults=defaults)
    return LoadableModel(manifest=manifest, path=cached.path, module=module, batch_axis=batch_axis)


def _obtain_named(name: str, folder: Path, on_progress: Progress) -> CachedModel:
    if name.startswith(_HUB_PREFIX):
        from stratoscope.models.hub import obtain_from_hub

        return obtain_from_hub(name.removeprefix(_HUB_PREFIX), folder, on_progress)
    return obtain(find_entry(name), folder, on_progress)


def _read_file(path: Path) -> CachedModel:
    from stratoscope.graph.onnx_file import load_onnx, model_digest

    try:
        inputs, outputs = read_signature(load_onnx(path))
    except ModelError as error:
        where = "" if str(path) in error.message else f"{path}: "
        raise ModelError(where + error.message, hint=error.hint) from error
    manifest = ModelManifest(
        id=path.stem, path=str(path.resolve()), sha256=model_digest(path), inputs=inputs, outputs=outputs
    )
    return CachedModel(path, manifest)


def _resolve_module(
    module: Any,
    example_inputs: Any,
    batch_size: int | None,
    shapes: Shapes | None,
    cache: Path | None,
    on_progress: Progress,
) -> LoadableModel:
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(module, torch.nn.Module):
        raise ModelError(
            f"a {type(module).__name__} is no model",
            hint="give a zoo name, the path of an .onnx file or manifest, hf:ORG/NAME, or a torch.nn.Module",
        )
    if example_inputs is None:
        raise ModelError(
            f"module {type(module).__name__} needs example inputs to be exported",
            hint="pass example_inputs=, batch first",
        )
    from stratoscope.models.export import from_module

    loadable = from_module(module, example_inputs, batch_size=batch_size, cache=cache, on_progress=on_progress)
    for name, shape in (shapes or {}).items():
        bound = {spec.name: spec.shape for spec in loadable.manifest.inputs}
        if bound.get(name) != shape:
            raise ModelError(
                f"shape {shape} for input {name!r} of module {loadable.name!r}, whose inputs are {bound}",
                hint="a module takes its shapes from example_inputs",
            )
    return loadable


def _merge(
    manifest: ModelManifest, cached: ModelManifest
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...], dict[str, int]]:
    """(inputs, outputs, sizes): the graph's tensors with what the manifest declares of them, and its integer sizes.

    `sizes` is by the name of the free dimension in the graph.
    """
    sizes: dict[str, int] = {}
    for kind, declared, present in (
        ("input", manifest.inputs, cached.inputs),
        ("output", manifest.outputs, cached.outputs),
    ):
        tensors = {spec.name: spec for spec in present}
        for said in declared:
            if said.name not in tensors:
                raise ModelError(
                    f"manifest {manifest.id!r} declares {kind} {said.name!r}, which the graph has not; "
                    f"it has {', '.join(tensors) or 'none'}"
                )
            _check_declared(manifest, said, tensors[said.name], sizes if kind == "input" else {})
    inputs = _with_declared(cached.inputs, manifest.inputs)
    return inputs, _with_declared(cached.outputs, manifest.outputs), sizes


def _check_declared(manifest: ModelManifest, said: TensorSpec, found: TensorSpec, sizes: dict[str, int]) -> None:
    """Raises ModelError where `said` contradicts the graph's `found`; adds the dimensions that it binds to `sizes`."""
    open_rank = "..." in said.shape
    if said.element_type != found.element_type or (len(said.shape) != len(found.shape) and not open_rank):
        raise ModelError(
            f"manifest {manifest.id!r} declares {said.name!r} as {said.element_type} of rank {len(said.shape)}; "
            f"in the graph it is {found.element_type} of rank {len(found.shape)}"
        )
    if open_rank:
        return
    for here, there in zip(said.shape, found.shape, strict=True):
        if isinstance(here, int) and (sizes.setdefault(there, here) if isinstance(there, str) else there) != here:
            raise ModelError(
                f"manifest {manifest.id!r} gives {said.name!r} the size {here} in a dimension that is {there!r} "
                "in the graph"
            )


def _with_declared(found: tuple[TensorSpec, ...], declared: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """The graph's tensors with the value ranges, modality and steps that the manifest gives."""
    said = {spec.name: spec for spec in declared}
    merged = []
    for spec in found:
        values = {field: getattr(said.get(spec.name), field, None) for field in ("low", "high", "modality", "steps")}
        merged.append(
            spec.model_copy(update={field: value for field, value in values.items() if value not in (None, ())})
        )
    return tuple(merged)
