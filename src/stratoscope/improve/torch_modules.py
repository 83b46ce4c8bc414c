"""Replacements of PyTorch modules by faster ones that compute the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import nn

from stratoscope.backends.pytorch.from_onnx import ORIGIN
from stratoscope.backends.pytorch.modules import prepare
from stratoscope.backends.pytorch.onnx_node import WithConstants
from stratoscope.errors import ModelError
from stratoscope.spec.model import LoadableModel
from stratoscope.spec.options import BackendOptions


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
