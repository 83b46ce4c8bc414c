"""Replacements of PyTorch modules by faster ones that compute the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import torch
from onnx import GraphProto, TensorProto, helper
from torch import nn

from stratoscope.backends.pytorch.from_onnx import OLDEST_OPSET, ORIGIN
from stratoscope.backends.pytorch.modules import prepare
from stratoscope.backends.pytorch.onnx_node import WithConstants
from stratoscope.errors import ModelError
from stratoscope.graph.ir import Graph
from stratoscope.graph.onnx_reader import read_graph
from stratoscope.graph.signature import signature
from stratoscope.spec.model import LoadableModel
from stratoscope.spec.options import BackendOptions
from stratoscope.spec.record import LayerRow


class PackedLinear(nn.Module):  # type: ignore[misc]  # torch has no types here
    """A linear layer by oneDNN, its weights packed at the first call for the number of rows that it then sees.

    torch.nn.Linear calls MKL's product, which keeps to AVX2 on CPUs of other makers. The packed weights belong to the
    copy of the module that packed them; a copy packs its own.
    """

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None) -> None:
        """`weight` is [out, in], as that of nn.Linear."""
        super().__init__()
        self.weight, self.bias = weight, bias
        self._packed: Any = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As nn.Linear: [..., in] -> [..., out]."""
        if self._packed is None:
            rows = x.numel() // x.shape[-1]
            self._packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach(), rows)
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")


def _packed_linear(module: nn.Module) -> nn.Module | None:
    """For a linear layer, or a product with a stored matrix (how transformers come from ONNX), in float32."""
    if isinstance(module, nn.Linear) and module.weight.dtype == torch.float32:
        return PackedLinear(module.weight, module.bias)
    if isinstance(module, WithConstants) and module.call is torch.matmul and module.places == [1]:
        matrix = module.input_1
        if matrix.dim() == 2 and matrix.dtype == torch.float32:
            return PackedLinear(nn.Parameter(matrix.detach().t().contiguous(), requires_grad=False), None)
    return None


#: Key of a replacement -> the module to put in place of another, or None to leave it.
REPLACEMENTS: Final[Mapping[str, Callable[[nn.Module], nn.Module | None]]] = MappingProxyType(
    {"packed-linear": _packed_linear}
)


def linear_layers(
    model: LoadableModel, options: BackendOptions, rows: Sequence[LayerRow]
) -> tuple[Graph, dict[int, str]]:
    """A graph with a product for each profiled linear layer, and the digests of these by the rows' indices.

    Modules are profiled by name: what they compute is read from the module. The graph has no weights.

    Raises:
        ModelError: no profiled layer is a linear one.
        BackendError: the model is none of PyTorch's.
    """
    modules = dict(prepare(model, BackendOptions(threads=options.threads)).module.named_modules())
    graph = GraphProto(name=model.name)
    indices: list[int] = []
    for row in rows:
        linear = modules.get(row.name)
        if not isinstance(linear, nn.Linear) or not row.output_shape:
            continue
        made, name = math.prod(row.output_shape[:-1]), f"linear{row.index}"
        inputs = [f"{name}:x", f"{name}:w"]
        _stored(graph, inputs[1], (linear.out_features, linear.in_features))
        if linear.bias is not None:
            inputs.append(f"{name}:b")
            _stored(graph, inputs[2], (linear.out_features,))
        graph.input.append(helper.make_tensor_value_info(inputs[0], TensorProto.FLOAT, [made, linear.in_features]))
        graph.node.append(helper.make_node("Gemm", inputs, [f"{name}:y"], name=name, transB=1))
        shape = [made, linear.out_features]
        graph.output.append(helper.make_tensor_value_info(f"{name}:y", TensorProto.FLOAT, shape))
        indices.append(row.index)
    if not indices:
        raise ModelError(f"model {model.name!r} has no linear layer that is known")
    opsets = [helper.make_opsetid("", OLDEST_OPSET)]
    read = read_graph(helper.make_model(graph, opset_imports=opsets, ir_version=8))
    return read, {index: signature(layer) for index, layer in zip(indices, read.layers, strict=True)}


def _stored(graph: GraphProto, name: str, shape: tuple[int, ...]) -> None:
    """Declares a weight without its numbers."""
    graph.initializer.add(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)


def with_modules(model: LoadableModel, options: BackendOptions, key: str) -> LoadableModel:
    """The model as a module of its own in which every module that fits is replaced.

    Raises:
        ModelError: nothing fits.
        BackendError: the model is none of PyTorch's.
    """
    module = prepare(model, BackendOptions(threads=options.threads)).module
    replace, count = REPLACEMENTS[key], 0
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            new = replace(child)
            if new is not None:
                origin = getattr(child, ORIGIN, None)
                if origin is not None:
                    setattr(new, ORIGIN, origin)
                setattr(parent, name, new)
                count += 1
    if not count:
        raise ModelError(f"model {model.name!r} has no module that {key} could replace")
    return LoadableModel(manifest=model.manifest, path=model.path, module=module, batch_axis=model.batch_axis)
