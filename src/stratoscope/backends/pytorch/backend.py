"""The PyTorch back end: model, module and operator level everywhere, library level on CPU, kernels on a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from stratoscope.backends.base import BackendOptions, Capabilities, Feeds, SpanMix, TraceSession
from stratoscope.errors import BackendError
from stratoscope.spec.model import LoadableModel
from stratoscope.trace.levels import Level

if TYPE_CHECKING:
    from stratoscope.backends.pytorch.generation import GenerationSession
    from stratoscope.backends.pytorch.session import TorchSession

_ABOVE_MODEL = "the back end sees only the model; spans of the application are recorded by the caller"
_NO_GPU = "this build of PyTorch sees no GPU"
_COUNTERS = "the profiler of PyTorch reads no counters by kernel"
_COMPILED = "torch.compile fuses modules: their hooks would cut its graph"
_NO_LIBRARY = "this build of PyTorch has neither oneDNN nor MKL"
_ON_GPU = "oneDNN and MKL work on the CPU"


class PyTorchBackend:
    """PyTorch, eager or compiled. Modules come from the user, the zoo's builder, or an ONNX graph."""

    name = "pytorch"

    def capabilities(self) -> Capabilities:
        """Available where torch can be imported."""
        try:
            import torch
        except (ImportError, OSError) as error:
            return Capabilities(
                available=False,
                reason=f"torch cannot be imported: {error} (pip install 'stratoscope[torch]')",
                version="unknown",
            )
        return Capabilities(
            available=True,
            reason=None,
            version=str(torch.__version__),
            levels=self.trace_levels(BackendOptions()),
            distributions=("torch", "transformers", "onnx"),
        )

    def trace_levels(self, options: BackendOptions) -> Mapping[Level, str | None]:
        """Each level with None where it can be traced under `options`, else the reason why not."""
        import torch

        gpu = "cuda" in [provider.lower() for provider in options.providers]
        library = torch.backends.mkldnn.is_available() or torch.backends.mkl.is_available()
        return {
            Level.APPLICATION: _ABOVE_MODEL,
            Level.MODEL: None,
            Level.LAYER: _COMPILED if options.execution == "compile" else None,
            Level.OPERATOR: None,
            Level.LIBRARY: _ON_GPU if gpu else None if library else _NO_LIBRARY,
            Level.KERNEL: None if gpu and torch.cuda.is_available() else _NO_GPU,
            Level.HARDWARE: _COUNTERS,
        }

    def load(self, model: LoadableModel, options: BackendOptions) -> TorchSession:
        """A session; raises BackendError naming the model and the way out."""
        from stratoscope.backends.pytorch.session import TorchSession

        return TorchSession(model, options)

    def training(self) -> PyTorchBackend:
        """This back end with training steps in place of inferences."""
        from stratoscope.backends.pytorch.training import TrainingBackend

        return TrainingBackend()

    def generation(self, model: LoadableModel, options: BackendOptions) -> GenerationSession:
        """A session that generates tokens; raises BackendError where the model is no decoder."""
        from stratoscope.backends.pytorch.generation import GenerationSession

        return GenerationSession(model, options)

    def open_trace(self, model: LoadableModel, options: BackendOptions, level: Level = Level.LAYER) -> TraceSession:
        """A session that traces down to `level`.

        Raises:
            BackendError: the level cannot be traced under these options, or the model does not load.
        """
        reason = self.trace_levels(options).get(level)
        if reason is not None:
            raise BackendError(f"PyTorch back end cannot trace the {level.name.lower()} level: {reason}")
        if level <= Level.LAYER:
            from stratoscope.backends.pytorch.layer_trace import LayerTraceSession

            return LayerTraceSession(model, options)
        if level == Level.LIBRARY:
            from stratoscope.backends.pytorch.library_trace import LibraryTraceSession

            return LibraryTraceSession(model, options)
        from stratoscope.backends.pytorch.operator_trace import OperatorTraceSession

        return OperatorTraceSession(model, options)

    def trace(
        self, model: LoadableModel, options: BackendOptions, feeds: Feeds, *, warmup: int, repeats: int
    ) -> pl.DataFrame:
        """Spans of `repeats` inferences down to the module, after `warmup` that are left out."""
        if warmup < 0 or repeats < 1:
            raise BackendError(f"a trace needs at least one repeat and no negative warm-up, got {repeats} and {warmup}")
        session = self.open_trace(model, options)
        try:
            call = session.bind(feeds)
            for _ in range(warmup + repeats):
                call()
            spans = session.finish()
        finally:
            session.close()
        return spans.filter(pl.col("run") >= warmup).with_columns(pl.col("run") - pl.lit(warmup, dtype=pl.Int32))

    def span_cost_samples(self, options: BackendOptions, level: Level, mix: SpanMix) -> list[float] | None:
        """Seconds that a span costs at the layer or operator level, one sample a repeat; None at other levels."""
        if level not in (Level.LAYER, Level.OPERATOR) or options.execution == "compile":
            return None
        from stratoscope.backends.pytorch.span_cost import span_cost_samples

        return span_cost_samples(options, level, mix)

    def executed_graph(self, model: LoadableModel, options: BackendOptions, folder: Path) -> Path | None:
        """The ONNX file itself where its nodes are executed one by one as written; None where a module is."""
        from stratoscope.backends.pytorch.modules import source_of

        executed = options.execution == "eager" and source_of(model) == "onnx"
        return model.path if executed else None
