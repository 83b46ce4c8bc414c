"""Weights shared between processes: one copy a machine, mapped read-only by everyone who uses the model.

`attach(model)` gives a model's weights as read-only arrays, `load_torch(factory, weights)` a PyTorch module over them;
ONNX Runtime runs from them with the back-end option `shared`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stratoscope.share.opening import attach
    from stratoscope.share.torch_model import load_torch

__all__ = ["attach", "load_torch"]


def __getattr__(name: str) -> Any:
    if name == "attach":
        from stratoscope.share.opening import attach

        return attach
    if name == "load_torch":
        from stratoscope.share.torch_model import load_torch

        return load_torch
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
