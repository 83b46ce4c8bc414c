"""Sessions of ONNX Runtime: untraced, with inputs bound once, and traced by the runtime's own profiler."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from stratoscope.backends.base import BackendOptions, Feeds
from stratoscope.backends.feeds import check_feeds
from stratoscope.backends.ort_errors import backend_error, one_line, runtime_errors
from stratoscope.backends.ort_options import effective_options
from stratoscope.backends.ort_profile import RawProfile, clock_anchor, spans_of
from stratoscope.errors import BackendError
from stratoscope.spec.model import LoadableModel, TensorSpec
from stratoscope.trace.correlate import assign_sites

if TYPE_CHECKING:
    from stratoscope.share.opening import SharedModel

_TYPES: Final = {"float": "float32", "double": "float64", "string": "str"}
#: Outputs up to this size get their memory once per `bind`: it saves 2 us a call, and holds memory for each input set.
_OUTPUT_BYTES_HELD: Final = 1 << 20


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
        self.effective_options: Mapping[str, Any] = effective_options(session, options, workers)
        if shared is not None:
            with closing_on_error(shared):
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


@contextmanager
def closing_on_error(shared: SharedModel | None) -> Iterator[None]:
    """Ends the lease on shared weights where what is inside fails."""
    try:
        yield
    except BaseException:
        if shared is not None:
            shared.close()
        raise


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
