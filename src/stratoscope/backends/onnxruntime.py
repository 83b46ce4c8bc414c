"""Runs and traces models with ONNX Runtime."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from stratoscope.backends.base import BackendOptions, Capabilities, Feeds
from stratoscope.backends.ort_errors import one_line
from stratoscope.backends.ort_load_steps import load_steps
from stratoscope.backends.ort_options import CPU, resolve_providers, session_options
from stratoscope.backends.ort_session import OrtSession, OrtTraceSession, closing_on_error
from stratoscope.errors import BackendError
from stratoscope.spec.model import LoadableModel
from stratoscope.trace.levels import Level
from stratoscope.trace.steps import is_listening

if TYPE_CHECKING:
    from stratoscope.share.opening import SharedModel

_BELOW_NODE = "ONNX Runtime traces nothing below the node"
_ABOVE_MODEL = "the back end sees only the model; spans of the application are recorded by the caller"
_LEVELS: Final = {Level.MODEL: None, Level.LAYER: None, Level.APPLICATION: _ABOVE_MODEL}
#: Weights from this size on go beside the optimised graph: a protobuf holds at most 2 GB, and the graph is read faster.
_EXTERNAL_FROM_BYTES: Final = 1024


class OnnxRuntimeBackend:
    """ONNX Runtime: model and layer level; several threads may run one session."""

    name = "onnxruntime"

    def capabilities(self) -> Capabilities:
        """Available where onnxruntime can be imported."""
        try:
            import onnxruntime
        except (ImportError, OSError) as error:
            reason = f"onnxruntime cannot be imported: {error}"
            return Capabilities(available=False, reason=reason, version="unknown", levels={})
        levels = {level: _LEVELS.get(level, _BELOW_NODE) for level in Level}
        return Capabilities(
            available=True,
            reason=None,
            version=str(onnxruntime.__version__),
            levels=levels,
            distributions=_distributions(),
        )

    def load(self, model: LoadableModel, options: BackendOptions) -> OrtSession:
        """A session; raises BackendError naming the model and the way out."""
        session, workers, shared = _open(model, options, session_options(options))
        return OrtSession(session, model, options, workers, shared)

    def open_trace(self, model: LoadableModel, options: BackendOptions) -> OrtTraceSession:
        """A session with the runtime's profiler on, which can only be switched per session."""
        folder = Path(tempfile.mkdtemp(prefix="stratoscope-profile-"))
        try:
            settings = session_options(options)
            settings.enable_profiling = True
            settings.profile_file_prefix = str(folder / "profile")
            session, workers, shared = _open(model, options, settings)
            return OrtTraceSession(session, model, options, workers, folder, shared)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def trace(
        self, model: LoadableModel, options: BackendOptions, feeds: Feeds, *, warmup: int, repeats: int
    ) -> pl.DataFrame:
        """Spans of `repeats` inferences, after `warmup` that are left out; parents and sites assigned."""
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

    def executed_graph(self, model: LoadableModel, options: BackendOptions, folder: Path) -> Path | None:
        """The graph as the runtime executes it, `executed.onnx` in `folder`, with its weights in a file beside it.

        At level "all" it holds operators of this machine's own layout (NCHWc) and loads only where the same exist.
        """
        path = folder / "executed.onnx"
        settings = session_options(options)
        settings.optimized_model_filepath = str(path)
        settings.add_session_config_entry("session.disable_prepacking", "1")  # only the file is wanted
        external = "session.optimized_model_external_initializers"
        settings.add_session_config_entry(f"{external}_file_name", "executed.weights")
        settings.add_session_config_entry(f"{external}_min_size_in_bytes", str(_EXTERNAL_FROM_BYTES))
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BackendError(f"cannot make the folder {folder}: {error.strerror}") from error
        _open(model, options, settings)
        return path if path.is_file() else None


def _open(model: LoadableModel, options: BackendOptions, settings: Any) -> tuple[Any, int | None, SharedModel | None]:
    """The runtime's session, how many worker threads it started (None where the system does not tell), and the shared
    weights that it runs from."""
    import onnxruntime

    what = f"model {model.manifest.id!r}"
    if model.path is None:
        raise BackendError(f"{what} has no ONNX file", hint="export it to ONNX, or use the back end of its framework")
    if not model.path.is_file():
        raise BackendError(f"{what}: there is no file {model.path}", hint="check the path")
    providers = resolve_providers(options.providers, onnxruntime.get_available_providers())
    shared = _prepared(model, options, providers) if options.shared else None
    weights = {} if shared is None else _give_weights(settings, shared)
    before = _thread_count()
    with one_line(what), closing_on_error(shared), load_steps(settings) if is_listening() else nullcontext():
        session = onnxruntime.InferenceSession(
            os.fspath(model.path if shared is None else shared.graph),
            settings,
            providers=list(providers),
            enable_fallback=0,
        )
    session.shared_weights = weights  # the runtime does not own them: they must not go before the session
    after = _thread_count()
    lost = [name for name in providers if name not in session.get_providers()]
    if lost:
        raise BackendError(
            f"{what}: provider {', '.join(lost)} is in this build but does not start here",
            hint="look for its driver and libraries, or leave it out",
        )
    return session, None if before is None or after is None else after - before, shared


def _prepared(model: LoadableModel, options: BackendOptions, providers: Sequence[str]) -> SharedModel:
    """The prepared model with its weights mapped."""
    from stratoscope.share.opening import open_shared

    if tuple(providers) != (CPU,):
        raise BackendError(
            f"model {model.manifest.id!r} cannot be shared on {', '.join(providers)}: only the CPU's memory is shared",
            hint="leave out --provider or --shared",
        )
    return open_shared(model, optimization=options.graph_optimization, granularity=options.shared_granularity)


def _give_weights(settings: Any, shared: SharedModel) -> dict[str, tuple[Any, np.ndarray]]:
    """Gives mapped weights to a session to be, which optimises nothing any more; returns what must outlive it."""
    import onnxruntime

    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    weights = {}
    with closing_on_error(shared):
        for name, array in shared.initializers.items():
            value = onnxruntime.OrtValue.ortvalue_from_numpy(array)
            weights[name] = (value, array)
            settings.add_initializer(name, value)
    return weights


def _thread_count() -> int | None:
    """Threads of this process, or None where /proc does not tell."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return None


def _distributions() -> tuple[str, ...]:
    """The installed wheels that provide the module (onnxruntime, onnxruntime-gpu, ...), and onnx for the graphs."""
    return (*sorted(set(packages_distributions().get("onnxruntime", []))), "onnx")
