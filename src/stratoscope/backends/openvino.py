"""Runs and traces models with OpenVINO on the CPU: model level, and layers from its own counters."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import polars as pl

from stratoscope.backends.base import BackendOptions, Capabilities, Feeds
from stratoscope.backends.feeds import check_feeds
from stratoscope.errors import BackendError
from stratoscope.spec.model import LoadableModel, TensorSpec
from stratoscope.trace.correlate import assign_sites
from stratoscope.trace.levels import Level
from stratoscope.trace.spans import SPAN_SCHEMA

if TYPE_CHECKING:
    from stratoscope.backends.openvino_graph import ExecutedName

_BELOW_LAYER: Final = "OpenVINO counts nothing below the layer"
_ABOVE_MODEL: Final = "the back end sees only the model; spans of the application are recorded by the caller"
_LEVELS: Final = {Level.MODEL: None, Level.LAYER: None, Level.APPLICATION: _ABOVE_MODEL}
_PRECISIONS: Final = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
_TYPES: Final = {
    "f32": "float32",
    "f64": "float64",
    "f16": "float16",
    "i64": "int64",
    "i32": "int32",
    "boolean": "bool",
}
#: The counters are running means in whole microseconds: the time of the n-th call is known to about n us, so the model
#: is compiled afresh after so many calls.
CALLS_A_COMPILATION: Final = 16
#: Calls after a compilation that are not measured: the first allocates.
_WARMUP: Final = 2
_US: Final = 1000


class OpenVinoSession:
    """A compiled model; each thread that calls takes an inference request of its own."""

    def __init__(self, model: LoadableModel, options: BackendOptions, *, counters: bool = False) -> None:
        self._name = model.name
        if options.shared:
            raise BackendError(
                f"OpenVINO: model {model.name!r} cannot be shared, its plugin keeps a copy of the weights",
                hint="leave out --shared, or use --backend onnxruntime or pytorch",
            )
        self._graph, self._properties = _read(model), _properties(options, counters)
        self._compiled: Any = self._compile()
        self._idle: list[Any] = []
        self.inputs: Sequence[TensorSpec] = model.manifest.inputs or [_spec(port) for port in self._compiled.inputs]
        self.outputs: Sequence[TensorSpec] = [_spec(port) for port in self._compiled.outputs]
        self.effective_options: Mapping[str, Any] = _effective(self._compiled)

    def run(self, feeds: Feeds) -> list[np.ndarray]:
        """Outputs in the order of `outputs`; raises BackendError where the runtime refuses."""
        return [value.copy() for value in self._infer(dict(feeds))]

    def bind(self, feeds: Feeds) -> Callable[[], list[np.ndarray]]:
        """`run` with its inputs fixed; outputs are OpenVINO's own memory."""
        check_feeds(self.inputs, feeds)
        fixed = {name: np.ascontiguousarray(value) for name, value in feeds.items()}
        return lambda: self._infer(fixed)

    def close(self) -> None:
        """Drops the compiled model."""
        self._idle.clear()
        self._compiled = None

    @property
    def compiled(self) -> Any:
        """OpenVINO's compiled model."""
        return self._compiled

    def operators(self) -> dict[str, str]:
        """The operator of each node by OpenVINO's name, as the counters have it; empty where they are off."""
        return {str(one.node_name): str(one.node_type) for one in self._compiled.create_infer_request().profiling_info}

    def _infer(self, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        try:
            request.infer(feeds, share_inputs=True)
            return [request.get_output_tensor(place).data for place in range(len(self.outputs))]
        except (RuntimeError, ValueError, TypeError) as error:
            raise _refused(self._name, "run", error) from error
        finally:
            self._idle.append(request)

    def _compile(self) -> Any:
        import openvino

        try:
            return openvino.Core().compile_model(self._graph, "CPU", self._properties)
        except (RuntimeError, ValueError, TypeError) as error:
            raise _refused(self._name, "compile", error) from error


class _Call(NamedTuple):
    """One traced inference: our clock around it, and the time of each node in microseconds."""

    start_ns: int
    end_ns: int
    thread: int
    times_us: list[int]


class OpenVinoTraceSession(OpenVinoSession):
    """As OpenVinoSession with counters on; each bound call is one traced inference."""

    def __init__(self, model: LoadableModel, options: BackendOptions) -> None:
        super().__init__(model, options, counters=True)
        self._path = model.path
        self._calls: list[_Call] = []
        self._nodes: list[dict[str, Any]] = []
        self._executed: set[int] = set()
        self._totals: list[int] = []
        self._count = 0

    def bind(self, feeds: Feeds) -> Callable[[], list[np.ndarray]]:
        """`OpenVinoSession.bind`, with our clock around each call and the counters read after it."""
        call, clock = super().bind(feeds), time.perf_counter_ns

        def traced() -> list[np.ndarray]:
            if self._count >= CALLS_A_COMPILATION:
                self._afresh()
            while self._count < _WARMUP:
                call()
                self._read_counters()
            start = clock()
            outputs = call()
            end = clock()
            self._calls.append(_Call(start, end, threading.get_native_id(), self._read_counters()))
            return outputs

        return traced

    def finish(self) -> pl.DataFrame:
        """Spans of all bound calls so far; the session ends.

        The counters tell durations, not starts: layers are put one after another from the start of the model.
        """
        if self._compiled is None:
            raise BackendError(f"the trace of {self._name!r} has ended already", hint="open another trace session")
        rows: list[tuple[Any, ...]] = []
        layers = [(place, node["name"], json.dumps(node)) for place, node in enumerate(self._nodes)]
        layers = [layer for layer in layers if layer[0] in self._executed]
        for run, call in enumerate(self._calls):
            model = len(rows)
            clipped = sum(call.times_us[place] < 0 for place, _, _ in layers)
            told = {"layers_placed": "one after another", "resolution_ns": _US, "layers_below_zero": clipped}
            rows.append((model, None, 20, self._name, call.thread, call.start_ns, call.end_ns, run, json.dumps(told)))
            at = call.start_ns
            for place, name, text in layers:
                end = at + max(call.times_us[place], 0) * _US
                rows.append((len(rows), model, 30, name, call.thread, at, end, run, text))
                at = end
        self.close()
        columns = ("span", "parent", "level", "name", "track", "start_ns", "end_ns", "run", "attributes")
        frame = pl.DataFrame(rows, schema={name: SPAN_SCHEMA[name] for name in columns}, orient="row")
        return assign_sites(
            frame.with_columns(
                kind=pl.lit("sync").cast(SPAN_SCHEMA["kind"]),
                correlation=pl.lit(0, dtype=pl.Int64),
                site=pl.lit(None, dtype=pl.String),
            ).select(list(SPAN_SCHEMA))
        )

    def _afresh(self) -> None:
        self._idle.clear()
        self._compiled = self._compile()
        self._totals, self._count = [], 0

    def _names(self) -> Mapping[str, ExecutedName]:
        """What executed nodes are called, by OpenVINO's name."""
        from stratoscope.backends.openvino_graph import Authored, executed_names

        return {} if self._path is None else executed_names(self._compiled, Authored.of(self._path))

    def _read_counters(self) -> list[int]:
        """Microseconds of each node in the last call, from the running means before and after it.

        OpenVINO calls a node executed where its mean is not zero, so that one of half a microsecond is now and then
        not: whatever was executed once is a layer.
        """
        told = list(self._idle[-1].profiling_info)
        self._count += 1
        totals = [round(one.real_time.total_seconds() * 1e6) * self._count for one in told]
        if not self._nodes:
            names = self._names()
            self._nodes = [_described(one, names) for one in told]
        before = self._totals or [0] * len(totals)
        if len(totals) != len(self._nodes) or len(before) != len(totals):
            raise BackendError(f"OpenVINO counts {len(totals)} nodes of {self._name!r}, before {len(self._nodes)}")
        self._executed.update(place for place, one in enumerate(told) if one.status == type(one.status).EXECUTED)
        self._totals = totals
        return [now - earlier for now, earlier in zip(totals, before, strict=True)]


class OpenVinoBackend:
    """OpenVINO: model and layer level; computes in float32 unless another precision is asked for."""

    name = "openvino"

    def capabilities(self) -> Capabilities:
        """Available where openvino can be imported."""
        try:
            import openvino
        except (ImportError, OSError) as error:
            return Capabilities(
                available=False,
                reason=f"openvino cannot be imported: {error} (pip install 'stratoscope[openvino]')",
                version="unknown",
            )
        return Capabilities(
            available=True,
            reason=None,
            version=str(openvino.__version__),
            levels={level: _LEVELS.get(level, _BELOW_LAYER) for level in Level},
            distributions=("openvino", "onnx"),
        )

    def load(self, model: LoadableModel, options: BackendOptions) -> OpenVinoSession:
        """A session; raises BackendError naming the model and the way out."""
        return OpenVinoSession(model, options)

    def open_trace(self, model: LoadableModel, options: BackendOptions) -> OpenVinoTraceSession:
        """A session with the counters on."""
        return OpenVinoTraceSession(model, options)

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
        """The runtime model as an ONNX file of OpenVINO's operators, without weights; see `openvino_graph`."""
        from stratoscope.backends.openvino_graph import write_executed

        session = OpenVinoSession(model, options, counters=True)
        if model.path is None:
            return None
        path = folder / "executed.onnx"
        try:
            write_executed(session.compiled, model.path, path, session.operators())
        finally:
            session.close()
        return path


def _read(model: LoadableModel) -> Any:
    """The graph with its inputs' shapes bound."""
    import openvino

    if model.path is None:
        raise BackendError(f"OpenVINO back end: model {model.name!r} has no graph file", hint="give an .onnx file")
    try:
        graph = openvino.Core().read_model(os.fspath(model.path))
        shapes = model.bound_shapes()
        if shapes:
            graph.reshape({name: list(shape) for name, shape in shapes.items()})
    except (RuntimeError, ValueError, TypeError) as error:
        raise _refused(model.name, "read", error) from error
    return graph


def _properties(options: BackendOptions, counters: bool) -> dict[str, Any]:
    unknown = [name for name in options.providers if name.lower() != "cpu"]
    if unknown:
        raise BackendError(f"OpenVINO back end: provider {unknown[0]!r} is not supported", hint="it works on the CPU")
    properties: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": _PRECISIONS[options.precision or "float32"],
        "PERFORMANCE_HINT": "LATENCY",
        "PERF_COUNT": counters,
        "NUM_STREAMS": options.inter_threads or 1,
    }
    if options.threads is not None:
        properties["INFERENCE_NUM_THREADS"] = options.threads
    return properties


def _effective(compiled: Any) -> dict[str, Any]:
    """The properties in effect, as the compiled model tells them."""
    return {
        "precision": compiled.get_property("INFERENCE_PRECISION_HINT").to_string(),
        "threads": int(compiled.get_property("INFERENCE_NUM_THREADS")),
        "streams": int(compiled.get_property("NUM_STREAMS")),
        "execution_mode": str(compiled.get_property("EXECUTION_MODE_HINT")).rpartition(".")[2].lower(),
        "devices": list(compiled.get_property("EXECUTION_DEVICES")),
    }


def _described(counter: Any, names: Mapping[str, ExecutedName]) -> dict[str, Any]:
    own = str(counter.node_name)
    name = names[own].name if own in names else own
    told = {"op": str(counter.node_type), "name": name, "implementation": str(counter.exec_type)}
    return {key: value for key, value in told.items() if value and value != "undef"}


def _spec(port: Any) -> TensorSpec:
    """A tensor as OpenVINO declares it; free dimensions are "?"."""
    kind = port.get_element_type().to_string() if hasattr(port, "get_element_type") else str(port.element_type)
    shape = port.get_partial_shape()
    sizes = ("...",) if shape.rank.is_dynamic else tuple("?" if d.is_dynamic else int(d.get_length()) for d in shape)
    return TensorSpec(name=port.get_any_name(), element_type=_TYPES.get(kind, kind), shape=sizes)


def _refused(name: str, verb: str, error: Exception) -> BackendError:
    """One line: OpenVINO's messages hold the places in its sources, the reason comes last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = next((line for line in reversed(lines) if not line.startswith(("Exception from", "Check"))), "")
    return BackendError(f"OpenVINO cannot {verb} model {name!r}: {(reason or type(error).__name__)[:300]}")
