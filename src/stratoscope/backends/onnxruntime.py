"""Runs and traces models with ONNX Runtime."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from stratoscope.backends.base import BackendOptions, Capabilities, Feeds
from stratoscope.backends.feeds import check_feeds
from stratoscope.backends.ort_errors import backend_error, one_line, runtime_errors
from stratoscope.backends.ort_load_steps import load_steps
from stratoscope.backends.ort_profile import RawProfile, clock_anchor, spans_of
from stratoscope.errors import BackendError
from stratoscope.spec.model import LoadableModel, TensorSpec
from stratoscope.trace.correlate import assign_sites
from stratoscope.trace.levels import Level
from stratoscope.trace.steps import is_listening

if TYPE_CHECKING:
    from stratoscope.share.opening import SharedModel

_CPU: Final = "CPUExecutionProvider"
_BELOW_NODE = "ONNX Runtime traces nothing below the node"
_ABOVE_MODEL = "the back end sees only the model; spans of the application are recorded by the caller"
_LEVELS: Final = {Level.MODEL: None, Level.LAYER: None, Level.APPLICATION: _ABOVE_MODEL}
_TYPES: Final = {"float": "float32", "double": "float64", "string": "str"}
_OPTIMIZATION: Final = {
    "off": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
#: Outputs up to this size get their memory once per `bind`: it saves 2 us a call, and holds memory for each input set.
_OUTPUT_BYTES_HELD: Final = 1 << 20
#: Weights from this size on go beside the optimised graph: a protobuf holds at most 2 GB, and the graph is read faster.
_EXTERNAL_FROM_BYTES: Final = 1024


class OrtSession:
    """A model loaded by ONNX Runtime, untraced."""

    def __init__(
        self,
        session: Any,
        model: LoadableModel,
        options: BackendOptions,
        workers: int | None,
        shared: SharedModel | None = None,
    ) -> None:
        self._session = session
        self._shared = shared
        self._what = f"model {model.manifest.id!r}"
        self._names = [output.name for output in session.get_outputs()]
        self._errors = runtime_errors()
        self.inputs: Sequence[TensorSpec] = _bound_inputs(session, model)
        self.outputs: Sequence[TensorSpec] = [_spec(value) for value in session.get_outputs()]
        self.effective_options: Mapping[str, Any] = _effective(session, options, workers)
        if shared is not None:
            with _closing_on_error(shared):
                facts = shared.check()
            self.effective_options = {
                **self.effective_options,
                "graph_optimization": f"{options.graph_optimization}, when it was prepared",
                "shared": facts,
            }

    def run(self, feeds: Feeds) -> list[np.ndarray]:
        """Outputs in the order of `outputs`; raises BackendError where the runtime refuses."""
        try:
            outputs: list[np.ndarray] = self._session.run(self._names, feeds if type(feeds) is dict else dict(feeds))
        except self._errors as error:
            raise backend_error(self._what, error) from error
        return outputs

    def bind(self, feeds: Feeds) -> Callable[[], list[np.ndarray]]:
        """`run` with its inputs fixed.

        The first call sees the sizes of the outputs; where they are small, later calls go through an I/O binding that
        writes into memory given once: 3.1 us instead of 5.1 us a call on a two-layer model. While one thread is
        inside, others take the plain way.
        """
        check_feeds(self.inputs, feeds)
        fixed = {name: np.ascontiguousarray(value) for name, value in feeds.items()}
        return _Bound(self._session, self._names, fixed, self._what, self._errors).call

    def close(self) -> None:
        """Drops the session; the runtime frees memory and threads with it. Calls bound before are not made again."""
        self._session = None
        if self._shared is not None:
            self._shared.close()


class _Bound:
    """A session with its inputs fixed."""

    def __init__(
        self,
        session: Any,
        names: list[str],
        feeds: dict[str, np.ndarray],
        what: str,
        errors: tuple[type[Exception], ...],
    ) -> None:
        self._session = session
        self._names = names
        self._feeds = feeds
        self._what = what
        self._errors = errors
        self._binding: Any = None
        self._outputs: list[np.ndarray] = []
        self._held: list[Any] = []  # keeps the bound memory alive
        self._undecided = True
        self._busy = threading.Lock()

    def call(self) -> list[np.ndarray]:
        """One inference."""
        try:
            if self._binding is not None and self._busy.acquire(False):
                try:
                    self._session.run_with_iobinding(self._binding)
                finally:
                    self._busy.release()
                return self._outputs
            outputs: list[np.ndarray] = self._session.run(self._names, self._feeds)
            if self._undecided:
                self._decide(outputs)
        except self._errors as error:
            raise backend_error(self._what, error) from error
        return outputs

    def _decide(self, outputs: list[np.ndarray]) -> None:
        """Binds memory for small numeric outputs, whose sizes are now known."""
        import onnxruntime

        with self._busy:
            if not self._undecided:
                return
            self._undecided = False
            numeric = all(isinstance(value, np.ndarray) and value.dtype.kind in "fiub" for value in outputs)
            if not numeric or sum(value.nbytes for value in outputs) > _OUTPUT_BYTES_HELD:
                return
            binding = self._session.io_binding()
            for name, value in self._feeds.items():
                if value.dtype.kind not in "fiub":
                    return
                self._held.append(onnxruntime.OrtValue.ortvalue_from_numpy(value))
                binding.bind_ortvalue_input(name, self._held[-1])
            for name, value in zip(self._names, outputs, strict=True):
                memory = np.empty_like(value, order="C")
                self._held.append(onnxruntime.OrtValue.ortvalue_from_numpy(memory))
                binding.bind_ortvalue_output(name, self._held[-1])
                self._outputs.append(memory)
            self._binding = binding


class OrtTraceSession(OrtSession):
    """As OrtSession with the runtime's profiler on; each bound call is one traced inference."""

    def __init__(
        self,
        session: Any,
        model: LoadableModel,
        options: BackendOptions,
        workers: int | None,
        folder: Path,
        shared: SharedModel | None = None,
    ) -> None:
        super().__init__(session, model, options, workers, shared)
        self._model_name = model.manifest.id
        self._folder = folder
        self._calls: list[tuple[int, int, int]] = []
        self._anchor = clock_anchor()

    def bind(self, feeds: Feeds) -> Callable[[], list[np.ndarray]]:
        """`OrtSession.bind`, with a model span of our own clock around each call."""
        call, calls = super().bind(feeds), self._calls
        clock, thread = time.perf_counter_ns, threading.get_native_id

        def traced() -> list[np.ndarray]:
            start = clock()
            outputs = call()
            calls.append((start, clock(), thread()))
            return outputs

        return traced

    def finish(self) -> pl.DataFrame:
        """Spans of all bound calls so far, from the runtime's profile; the session ends.

        Raises:
            BackendError: the runtime's profile cannot be read, or does not hold all calls.
        """
        if self._session is None:
            raise BackendError(f"{self._what}: its trace has ended already", hint="open another trace session")
        try:
            origin = int(self._session.get_profiling_start_time_ns())
            with one_line(self._what):
                path = Path(self._session.end_profiling())
            raw = RawProfile.read(path, self._calls, origin, (self._anchor, clock_anchor()))
            return assign_sites(spans_of(raw, self._model_name))
        finally:
            self.close()

    def close(self) -> None:
        """Drops the session and its profile."""
        super().close()
        shutil.rmtree(self._folder, ignore_errors=True)


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
        session, workers, shared = _open(model, options, _session_options(options))
        return OrtSession(session, model, options, workers, shared)

    def open_trace(self, model: LoadableModel, options: BackendOptions) -> OrtTraceSession:
        """A session with the runtime's profiler on, which can only be switched per session."""
        folder = Path(tempfile.mkdtemp(prefix="stratoscope-profile-"))
        try:
            settings = _session_options(options)
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
        settings = _session_options(options)
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
    with one_line(what), _closing_on_error(shared), load_steps(settings) if is_listening() else nullcontext():
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

    if tuple(providers) != (_CPU,):
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
    with _closing_on_error(shared):
        for name, array in shared.initializers.items():
            value = onnxruntime.OrtValue.ortvalue_from_numpy(array)
            weights[name] = (value, array)
            settings.add_initializer(name, value)
    return weights


@contextmanager
def _closing_on_error(shared: SharedModel | None) -> Iterator[None]:
    """Ends the lease on shared weights where what is inside fails."""
    try:
        yield
    except BaseException:
        if shared is not None:
            shared.close()
        raise


def resolve_providers(wanted: Sequence[str], available: Sequence[str]) -> tuple[str, ...]:
    """Full provider names for `wanted` ("cuda" or "CUDAExecutionProvider", any case); empty: the CPU.

    Raises:
        BackendError: a provider is not in this build; the message lists those that are.
    """
    by_short = {name.lower().removesuffix("executionprovider"): name for name in available}
    chosen = []
    for name in wanted or (_CPU,):
        found = by_short.get(name.lower().removesuffix("executionprovider"))
        if found is None:
            raise BackendError(
                f"execution provider {name!r} is not in this build of ONNX Runtime",
                hint=f"available: {', '.join(available)}",
            )
        chosen.append(found)
    return tuple(dict.fromkeys(chosen))


def _session_options(options: BackendOptions) -> Any:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4  # errors are raised; printed they would come twice
    settings.graph_optimization_level = getattr(
        onnxruntime.GraphOptimizationLevel, _OPTIMIZATION[options.graph_optimization]
    )
    if options.threads is not None:
        settings.intra_op_num_threads = options.threads
    if options.inter_threads is not None:
        settings.inter_op_num_threads = options.inter_threads
        if options.inter_threads > 1:
            settings.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    for pool in ("intra_op", "inter_op"):
        settings.add_session_config_entry(f"session.{pool}.allow_spinning", "1" if options.spin else "0")
    return settings


def _effective(session: Any, options: BackendOptions, workers: int | None) -> dict[str, Any]:
    """The options in effect, from the session where it tells; `worker_threads` counts what its start added."""
    settings = session.get_session_options()
    level = settings.graph_optimization_level.name
    told = {value: key for key, value in _OPTIMIZATION.items()}
    return {
        "threads": settings.intra_op_num_threads or "default",
        "inter_threads": settings.inter_op_num_threads or "default",
        "worker_threads": workers,
        "execution_mode": settings.execution_mode.name.removeprefix("ORT_").lower(),
        "graph_optimization": told.get(level, level),
        "providers": list(session.get_providers()),
        "spin": settings.get_session_config_entry("session.intra_op.allow_spinning") == "1",
    }


def _bound_inputs(session: Any, model: LoadableModel) -> list[TensorSpec]:
    """The session's inputs with the shapes that the manifest binds; raises BackendError where the two disagree."""
    told = [_spec(value) for value in session.get_inputs()]
    declared = {spec.name: spec for spec in model.manifest.inputs}
    if not declared:
        return told
    what = f"model {model.manifest.id!r}"
    if set(declared) != {spec.name for spec in told}:
        raise BackendError(
            f"{what}: the manifest's inputs {', '.join(sorted(declared))} are not those of the file: "
            f"{', '.join(sorted(spec.name for spec in told))}",
            hint="correct the manifest",
        )
    for spec in told:
        want = declared[spec.name]
        # The runtime gives an unknown rank as no dimensions.
        same = not spec.shape or (
            len(spec.shape) == len(want.shape)
            and all(not isinstance(a, int) or a == b for a, b in zip(spec.shape, want.shape, strict=True))
        )
        if spec.element_type != want.element_type or not same:
            raise BackendError(
                f"{what}: input {spec.name!r} is {want.element_type} {list(want.shape)} by its manifest, "
                f"and {spec.element_type} {list(spec.shape)} in the file",
                hint="correct the manifest or --shape",
            )
    return [declared[spec.name] for spec in told]


def _spec(value: Any) -> TensorSpec:
    """A tensor as the runtime declares it; free dimensions keep their name, unnamed ones are "?"."""
    kind = str(value.type)
    element = kind.removeprefix("tensor(").removesuffix(")") if kind.startswith("tensor(") else kind
    shape = tuple(size if isinstance(size, int) and size > 0 else str(size or "?") for size in value.shape or ())
    return TensorSpec(name=value.name, element_type=_TYPES.get(element, element), shape=shape)


def _thread_count() -> int | None:
    """Threads of this process, or None where /proc does not tell."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return None


def _distributions() -> tuple[str, ...]:
    """The installed wheels that provide the module (onnxruntime, onnxruntime-gpu, ...), and onnx for the graphs."""
    return (*sorted(set(packages_distributions().get("onnxruntime", []))), "onnx")
