"""Where the PyTorch module of a model comes from: the user's own, the zoo's builder, or its ONNX graph."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import torch
from torch import nn

from stratoscope.backends.base import BackendOptions, Feeds
from stratoscope.backends.pytorch.from_onnx import ORIGIN, from_onnx
from stratoscope.errors import BackendError
from stratoscope.models.zoo import ZOO_SEED, list_zoo
from stratoscope.spec.model import LoadableModel, TensorSpec

if TYPE_CHECKING:
    from stratoscope.share.torch_model import SharedModule

Source = Literal["module", "zoo", "onnx"]

#: What torch raises for a module or inputs that do not fit; its own errors are all RuntimeErrors.
ERRORS: Final = (RuntimeError, ValueError, TypeError, IndexError, AttributeError, NotImplementedError, KeyError)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A module of a session's own, ready to be called.

    Attributes:
        module: in evaluation mode, converted as the options say; no other session shares it.
        arguments: names of the inputs; passed by position unless `by_name`.
        shared: what keeps the weights mapped, where they are shared.
        result_types: NumPy type of each declared output, by which results are converted back.
    """

    module: nn.Module
    source: Source
    arguments: tuple[str, ...]
    by_name: bool
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    device: torch.device
    options: BackendOptions
    shared: SharedModule | None = None

    def tensors(self, feeds: Feeds) -> tuple[torch.Tensor, ...]:
        """The feeds in the order of the inputs, on the device, in the format of the options."""
        return tuple(self._tensor(np.asarray(feeds[name])) for name in self.arguments)

    def call(self, module: Any, tensors: Sequence[torch.Tensor]) -> Any:
        """`module` (ours, or its compiled form) on `tensors`."""
        if self.by_name:
            return module(**dict(zip(self.arguments, tensors, strict=True)))
        return module(*tensors)

    def arrays(self, result: Any) -> list[np.ndarray]:
        """The tensors of a result as arrays, in the order of the declared outputs and in their types."""
        tensors = [leaf for leaf in torch.utils._pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        declared = len(self.outputs) or len(tensors)
        return [_array(tensor) for tensor in tensors[:declared]]

    def _tensor(self, value: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(value)).to(self.device)
        if tensor.is_floating_point() and self.options.precision:
            tensor = tensor.to(getattr(torch, self.options.precision))
        if self.options.channels_last and tensor.dim() == 4:
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        return tensor


def prepare(model: LoadableModel, options: BackendOptions) -> Prepared:
    """The module of `model`: its own, the zoo's builder with the zoo's seed, or one converted from its ONNX file.

    Raises:
        BackendError: there is none, or it cannot be converted.
        ModelError: its ONNX file cannot be read.
    """
    device, shared = _device(options), None
    if options.shared:
        from stratoscope.backends.pytorch.shared import open_shared

        shared = open_shared(model, source_of(model), options)
        module, source = shared.module, source_of(model)
    else:
        module, source = _module(model)
    try:
        module = module.to(device)
        if options.precision:
            module = module.to(getattr(torch, options.precision))
        if options.channels_last:
            module = module.to(memory_format=torch.channels_last)
    except ERRORS as error:
        raise BackendError(f"model {model.name!r} cannot be converted for PyTorch: {first_line(error)}") from error
    arguments = tuple(spec.name for spec in model.manifest.inputs)
    return Prepared(
        module=module.eval(),
        source=source,
        arguments=arguments,
        by_name=source == "module" and set(arguments) <= set(inspect.signature(module.forward).parameters),
        inputs=model.manifest.inputs,
        outputs=model.manifest.outputs,
        device=device,
        options=options,
        shared=shared,
    )


def source_of(model: LoadableModel) -> Source:
    """Where `prepare` takes the module from; raises BackendError where there is none."""
    if model.module is not None:
        return "module"
    if model.manifest.weights == "seeded" and model.manifest.weights_seed == ZOO_SEED:
        entry = next((entry for entry in list_zoo() if entry.name == model.name), None)
        if entry is not None and entry.source == "transformers":
            return "zoo"
    if model.path is None:
        raise BackendError(
            f"PyTorch back end: model {model.name!r} has neither a module nor a graph file",
            hint="give a torch.nn.Module, a zoo name or an .onnx file",
        )
    return "onnx"


def _module(model: LoadableModel) -> tuple[nn.Module, Source]:
    source = source_of(model)
    if source == "module":
        if not isinstance(model.module, nn.Module):
            raise BackendError(
                f"PyTorch back end: model {model.name!r} is a {type(model.module).__name__}, not a torch.nn.Module"
            )
        try:
            return copy.deepcopy(model.module), source
        except ERRORS as error:
            raise BackendError(
                f"PyTorch back end: module {model.name!r} cannot be copied: {first_line(error)}",
                hint="each session works on a copy of its own, so that hooks never reach yours",
            ) from error
    if source == "zoo":
        from stratoscope.models.torch_zoo import build_entry
        from stratoscope.models.zoo import find_entry

        return build_entry(find_entry(model.name), ZOO_SEED), source
    assert model.path is not None
    return from_onnx(model.path), source


def _device(options: BackendOptions) -> torch.device:
    """The CPU, or the GPU where the provider "cuda" is asked for."""
    wanted = [provider.lower() for provider in options.providers]
    unknown = [name for name in wanted if name not in ("cpu", "cuda")]
    if unknown:
        raise BackendError(f"PyTorch back end: provider {unknown[0]!r} is unknown", hint="there are cpu and cuda")
    if "cuda" in wanted:
        if not torch.cuda.is_available():
            raise BackendError("PyTorch back end: no CUDA device is available", hint="leave --provider cuda out")
        return torch.device("cuda")
    return torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Layer:
    """A module that counts as a layer: its name in the model, what it is, and whether it contains other layers."""

    name: str
    op: str
    container: bool
    module: nn.Module


def layers_of(module: nn.Module) -> list[Layer]:
    """The modules inside `module` in order of registration; what a converted ONNX node is made of counts as one."""
    found: list[Layer] = []
    _collect(module, "", found)
    return found


def _collect(parent: nn.Module, prefix: str, found: list[Layer]) -> None:
    for key, child in parent.named_children():
        origin = getattr(child, ORIGIN, None)
        name = f"{prefix}{key}"
        if origin is not None:
            found.append(Layer(origin[0], origin[1], False, child))
            continue
        inner = any(True for _ in child.children())
        found.append(Layer(name, type(child).__name__, inner, child))
        _collect(child, f"{name}.", found)


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its type."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def effective_options(prepared: Prepared) -> Mapping[str, Any]:
    """The options in effect, read back from torch and from the module."""
    parameters = [p for p in prepared.module.parameters() if p.is_floating_point()]
    return {
        "threads": torch.get_num_threads(),
        "inter_threads": torch.get_num_interop_threads(),
        "execution": prepared.options.execution,
        "channels_last": prepared.options.channels_last,
        "precision": str(parameters[0].dtype).removeprefix("torch.") if parameters else "none",
        "device": str(prepared.device),
        "module": prepared.source,
        **({} if prepared.shared is None else {"shared": prepared.shared.facts}),
        "mkldnn": bool(torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled),
    }


def _array(tensor: torch.Tensor) -> np.ndarray:
    if tensor.dtype in (torch.bfloat16, torch.float16):
        tensor = tensor.float()
    array: np.ndarray = tensor.detach().cpu().numpy()
    return array
