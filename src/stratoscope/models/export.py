"""PyTorch modules as ONNX files with a free batch dimension."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stratoscope.errors import ModelError
from stratoscope.graph.onnx_file import model_digest
from stratoscope.models.cache import Progress, cache_folder, place, scratch_folder, silent
from stratoscope.models.extras import require_torch
from stratoscope.models.materialize import BATCH, OPSET
from stratoscope.models.signature import batch_symbols, bind, read_signature
from stratoscope.spec.model import LoadableModel, ModelManifest

EXTERNAL_DATA_BYTES = 1_500_000_000  # a protobuf message must stay below 2 GiB


def export_module(
    module: Any,
    path: Path,
    example: Mapping[str, Any],
    *,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    free_batch: bool = True,
) -> Any:
    """Writes `module` in evaluation mode as an ONNX file; returns the graph without its weights' external data.

    Args:
        example: tensors by argument name of `forward`; with `free_batch`, dimension 0 is the batch and at least 2.

    Raises:
        ModelError: PyTorch cannot export the module.
    """
    import onnx
    import torch

    name = type(module).__name__
    shapes = {key: {0: torch.export.Dim(BATCH)} for key in example} if free_batch else None
    size = sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))
    training = module.training
    module.eval()
    try:
        with torch.inference_mode(False), torch.no_grad(), _quiet():
            program = torch.onnx.export(
                module,
                (),
                kwargs=dict(example),
                input_names=list(input_names or example),
                output_names=list(output_names) if output_names else None,
                dynamic_shapes=shapes,
                opset_version=OPSET,
                dynamo=True,
                optimize=True,
                verbose=False,
            )
        model = program.model_proto
        _strip_origin(model)
        onnx.save(model, str(path), save_as_external_data=size > EXTERNAL_DATA_BYTES, location=f"{path.name}.data")
    except (RuntimeError, TypeError, ValueError) as error:  # those of torch.export and torch.onnx are RuntimeErrors
        raise ModelError(
            f"PyTorch cannot export {name} to ONNX: {_root_cause(error)}",
            hint="export it with torch.onnx.export and give the .onnx file",
        ) from error
    finally:
        module.train(training)
    return model


def from_module(
    module: Any,
    example_inputs: Any,
    name: str | None = None,
    *,
    batch_size: int | None = None,
    cache: Path | None = None,
    on_progress: Progress = silent,
) -> LoadableModel:
    """`module`, exported to ONNX into the cache, with the module itself kept for back ends that run it directly.

    Args:
        example_inputs: its inputs, batch first: a tensor, a tuple of tensors, or a mapping by argument name.
        name: the model's id; default: the name of the module's class.
        batch_size: default: that of the example.

    Raises:
        ModelError: the torch extra is missing, the inputs are no tensors, or PyTorch cannot export the module.
    """
    require_torch(f"exporting {type(module).__name__}")
    example = _by_argument(module, example_inputs)
    name = name or type(module).__name__
    folder = cache_folder(cache)
    with scratch_folder(folder, name) as scratch:
        on_progress(f"exporting {name}")
        path = scratch / f"{_file_stem(name)}.onnx"
        inputs, outputs = read_signature(_export_free_if_possible(module, path, example, on_progress))
        manifest = ModelManifest(id=name, inputs=inputs, outputs=outputs)
        key = f"module-{path.stem}-{model_digest(path).removeprefix('sha256:')[:16]}"
        cached = place(scratch, manifest, key, path.name, folder)
    example_batch = next(iter(example.values())).shape[0] if batch_symbols(inputs) else None
    bound, batch_axis = bind(cached.manifest, batch_size=batch_size or example_batch)
    return LoadableModel(manifest=bound, path=cached.path, module=module, batch_axis=batch_axis)


def _export_free_if_possible(module: Any, path: Path, example: Mapping[str, Any], on_progress: Progress) -> Any:
    """Exports with a free batch where the module allows it, else at the batch of the example, and says so."""
    import torch

    batches = {tensor.shape[0] if tensor.ndim else None for tensor in example.values()}
    if len(batches) == 1 and None not in batches:
        # A dimension of 1 would be taken for a constant.
        pairs = {key: torch.cat([t, t]) if len(t) == 1 else t for key, t in example.items()}
        try:
            model = export_module(module, path, pairs)
            if batch_symbols(read_signature(model)[0]):
                return model
            reason = f"{type(module).__name__} depends on the size of its batch"
        except ModelError as error:
            reason = error.message
        on_progress(f"{reason}; exporting with the batch of the example, which is then fixed")
        for file in path.parent.iterdir():
            file.unlink()
    return export_module(module, path, example, free_batch=False)


def _by_argument(module: Any, example_inputs: Any) -> dict[str, Any]:
    """The example's tensors by the names of the arguments of `forward`."""
    import torch

    if isinstance(example_inputs, Mapping):
        example = dict(example_inputs)
    else:
        values = example_inputs if isinstance(example_inputs, tuple | list) else (example_inputs,)
        try:
            example = dict(inspect.signature(module.forward).bind(*values).arguments)
        except TypeError as error:
            raise ModelError(f"{type(module).__name__}.forward does not take the example inputs: {error}") from error
    wrong = [key for key, value in example.items() if not isinstance(value, torch.Tensor)]
    if wrong or not example:
        raise ModelError(
            f"example inputs of {type(module).__name__} must be tensors: {', '.join(wrong) or 'none given'}",
            hint="wrap the module so that forward takes tensors only",
        )
    return example


def _file_stem(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "model"


def _root_cause(error: BaseException) -> str:
    """The first line of the error at the bottom: those above it only say in which step it was met."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _strip_origin(model: Any) -> None:
    """Drops the exporter's notes (stack traces with the paths of this machine): they are no part of the model."""
    graphs = [model.graph]
    del model.metadata_props[:]
    while graphs:
        graph = graphs.pop()
        for item in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
            item.ClearField("doc_string")
            item.ClearField("metadata_props")
        graphs += [a.g for node in graph.node for a in node.attribute if a.HasField("g")]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter's progress prints, warnings and logs off the terminal."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
