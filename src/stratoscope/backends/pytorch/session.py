"""A loaded PyTorch module that runs untraced."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from stratoscope.backends.base import BackendOptions, Feeds
from stratoscope.backends.feeds import check_feeds
from stratoscope.backends.pytorch.modules import ERRORS, Prepared, effective_options, first_line, prepare
from stratoscope.errors import BackendError
from stratoscope.spec.model import LoadableModel, TensorSpec


class TorchSession:
    """A module in evaluation mode, called under inference mode.

    The number of threads is torch's own and holds for the whole process: the last session that was loaded decides.
    """

    def __init__(self, model: LoadableModel, options: BackendOptions) -> None:
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        self._name = model.name
        self.prepared: Prepared = prepare(model, options)
        self._callable: Any = _compiled(self.prepared) if options.execution == "compile" else self.prepared.module
        self.inputs: Sequence[TensorSpec] = self.prepared.inputs
        self.outputs: Sequence[TensorSpec] = self.prepared.outputs
        self.effective_options: Mapping[str, Any] = effective_options(self.prepared)

    def run(self, feeds: Feeds) -> list[np.ndarray]:
        """Outputs in the order of `outputs`; raises BackendError where the module refuses."""
        try:
            return self.prepared.arrays(self._forward(self.prepared.tensors(feeds)))
        except ERRORS as error:
            raise self._refused(error) from error

    def bind(self, feeds: Feeds) -> Callable[[], list[np.ndarray]]:
        """`run` with its inputs fixed: tensors are made once, and share the memory of contiguous arrays."""
        check_feeds(self.inputs, feeds)
        tensors = self.prepared.tensors(feeds)
        forward, arrays = self._forward, self.prepared.arrays

        def call() -> list[np.ndarray]:
            try:
                return arrays(forward(tensors))
            except ERRORS as error:
                raise self._refused(error) from error

        return call

    def close(self) -> None:
        """Drops the module, and ends the lease on shared weights."""
        self._callable = None
        if self.prepared.shared is not None:
            self.prepared.shared.close()

    def _forward(self, tensors: Sequence[torch.Tensor]) -> Any:
        with torch.inference_mode():
            result = self.prepared.call(self._callable, tensors)
        if self.prepared.device.type == "cuda":
            torch.cuda.synchronize()
        return result

    def _refused(self, error: BaseException) -> BackendError:
        return BackendError(f"PyTorch cannot run model {self._name!r}: {first_line(error)}")


def _compiled(prepared: Prepared) -> Any:
    if importlib.util.find_spec("torch._inductor") is None:
        raise BackendError("this build of PyTorch has no compiler (torch._inductor)", hint="use --execution eager")
    return torch.compile(prepared.module)
