"""Runs parts with PyTorch: eager in two layouts, oneDNN with packed weights, or compiled; tells the ATen operators."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from stratoscope.backends.pytorch.from_onnx import from_onnx
from stratoscope.backends.pytorch.onnx_node import WithConstants
from stratoscope.measure.parts.library import Array, Job, Prepared, Unsupported

_TYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_Forward = Callable[..., Any]


def prepare(job: Job) -> Prepared:
    """The ONNX model as a PyTorch module, called without autograd on tensors that are made once."""
    torch.set_num_threads(job.threads)
    torch.set_grad_enabled(False)
    dtype = _TYPES[job.candidate.precision]
    module = from_onnx(job.path)
    images = job.candidate.layout == "NHWC"
    if images and not job.empty and not _has_images(job.feeds.values()):
        raise Unsupported("it has no four-dimensional images to lay out with channels last")
    if dtype != torch.float32 and not job.empty and not any(value.dtype.kind == "f" for value in job.feeds.values()):
        raise Unsupported(f"it takes no real numbers that could be {job.candidate.precision}")
    module = module.to(dtype=dtype)
    if images:
        module = module.to(memory_format=torch.channels_last)
    tensors = [_tensor(value, dtype, images) for value in job.feeds.values()]
    forward = _forward(module, tensors, job)
    return _prepared(forward, tensors, dtype)


def _prepared(forward: _Forward, tensors: list[Any], dtype: Any) -> Prepared:
    def call() -> object:
        return forward(*tensors)

    def outputs() -> list[Array]:
        given = call()
        values = given if isinstance(given, (tuple, list)) else (given,)
        return [_array(value) for value in values]

    seen = _Operators()
    with seen:
        call()
    settings = {
        "threads": torch.get_num_threads(),
        "precision": str(dtype).removeprefix("torch."),
        "isa": torch.backends.cpu.get_cpu_capability(),
    }
    return Prepared(call, outputs, tuple(seen.names), settings)


class _Operators(TorchDispatchMode):  # type: ignore[misc]
    """Collects the names of the ATen operators that a call dispatches."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


def _has_images(feeds: Iterable[Array]) -> bool:
    return any(value.ndim == 4 for value in feeds)


def _tensor(value: Array, dtype: Any, images: bool) -> Any:
    tensor = torch.from_numpy(np.ascontiguousarray(value))
    if tensor.is_floating_point():
        tensor = tensor.to(dtype)
    if images and tensor.dim() == 4:
        tensor = tensor.contiguous(memory_format=torch.channels_last)
    return tensor


def _array(value: Any) -> Array:
    plain = value.float() if value.dtype == torch.bfloat16 else value
    return np.ascontiguousarray(plain.numpy())


def _forward(module: Any, tensors: list[Any], job: Job) -> _Forward:
    if job.candidate.library == "torch.compile":
        compiled: _Forward = torch.compile(module, dynamic=False)
        compiled(*tensors)
        return compiled
    if job.candidate.library == "onednn" and not job.empty:
        return _packed(module, tensors)
    forward: _Forward = module.forward
    return forward


def _packed(module: Any, tensors: list[Any]) -> _Forward:
    """oneDNN's convolution or inner product with the weights in its blocked layout, as PyTorch's compiler calls it."""
    operators = torch.ops.mkldnn
    if not torch.backends.mkldnn.is_available() or not hasattr(operators, "_convolution_pointwise"):
        raise Unsupported("this PyTorch has no oneDNN operators with packed weights")
    layers = [getattr(module, node.target) for node in module.graph.nodes if node.op == "call_module"]
    calls = [node for node in module.graph.nodes if node.op in ("call_function", "call_method")]
    if len(layers) != 1 or calls or len(tensors) != 1:
        raise Unsupported("oneDNN is called for single convolutions and products with constant weights")
    layer, pads = layers[0], None
    if isinstance(layer, nn.Sequential) and len(layer) == 2:  # uneven padding is a layer of its own before
        pads, layer = layer[0], layer[1]
    if isinstance(layer, nn.Conv2d):
        return _packed_convolution(layer, pads, tensors[0])
    if isinstance(layer, nn.Linear):
        return _packed_product(layer.weight, layer.bias, tensors[0])
    product = isinstance(layer, WithConstants) and layer.call is torch.matmul and layer.places == [1]
    if product and layer.input_1.dim() == 2:
        return _packed_product(layer.input_1.t().contiguous(), None, tensors[0])
    raise Unsupported(f"oneDNN has no packed form of {type(layer).__name__} here")


def _packed_convolution(layer: Any, pads: Any, tensor: Any) -> _Forward:
    sizes = (layer.padding, layer.stride, layer.dilation)
    seen = tensor if pads is None else pads(tensor)
    weight = torch.ops.mkldnn._reorder_convolution_weight(layer.weight, *sizes, layer.groups, list(seen.shape))
    run, bias, groups = torch.ops.mkldnn._convolution_pointwise, layer.bias, layer.groups

    def convolution(value: Any) -> Any:
        value = value if pads is None else pads(value)
        return run(value, weight, bias, *sizes, groups, "none", [], "")

    return convolution


def _packed_product(weight: Any, bias: Any, tensor: Any) -> _Forward:
    rows = tensor.numel() // tensor.shape[-1]
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
    run = torch.ops.mkldnn._linear_pointwise

    def product(value: Any) -> Any:
        return run(value, packed, bias, "none", [], "")

    return product
