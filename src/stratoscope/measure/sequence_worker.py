"""The process behind sequence.py: holds the bricks of a model, and calls them as the model would, or hot, or evicted.

One JSON line in, one out. All sessions of ONNX Runtime allocate from one arena, and the inputs of all bricks lie in the
same memory, which is written before each call as the brick before would have: so the caches hold what they hold inside
the model.
"""

from __future__ import annotations

import gc
import importlib
import json
import math
import mmap
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx

from stratoscope.graph.brick_model import index_ranges, with_weights
from stratoscope.measure.observed import observed
from stratoscope.measure.parts.candidates import MODULES
from stratoscope.measure.parts.library import Job, Prepared
from stratoscope.spec.performance import Candidate

RUNTIME: Final = "onnxruntime"
_LEVELS: Final = {
    "off": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
_SPREAD: Final = 3.0  # deviation of inputs: as that of single layers, so that clipping activations clip
_MOST_WORDS: Final = 300
_POOL_BYTES: Final = 1 << 28  # reserved for the inputs of bricks at one place; pages come with the first touch
_FIRST_CALLS: Final = 2  # ONNX Runtime plans its memory in the first call, and touches it in the second
_LINE: Final = 64  # bytes of a line of the cache; NumPy begins large arrays 16 bytes into one


class Server:
    """The loaded bricks by number."""

    def __init__(self, candidate: Candidate, threads: int, evict_bytes: int, folder: Path) -> None:
        self._candidate, self._threads, self._folder = candidate, threads, folder
        self._calls: dict[int, Callable[[], object]] = {}
        self._inputs: dict[int, list[np.ndarray[Any, Any]]] = {}
        self._pools: list[np.ndarray[Any, Any]] = []
        self._filler = np.ones(max(evict_bytes, 8) // 8, np.int64)
        if candidate.library == RUNTIME:
            import onnxruntime

            kind = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR
            memory = onnxruntime.OrtMemoryInfo("Cpu", kind, 0, onnxruntime.OrtMemType.DEFAULT)
            onnxruntime.create_and_register_allocator(memory, None)

    def open(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Loads one brick: weights drawn, memory bound; tells what it runs with."""
        model = with_weights(Path(question["model"]).read_bytes(), question["seed"])
        message = onnx.load_model_from_string(model)
        for initializer in message.graph.initializer:
            initializer.ClearField("raw_data")
        feeds = self._feeds(message, question["seed"])
        number = question["number"]
        self._inputs[number] = [value.reshape(-1).view(np.uint8) for value in feeds.values()]
        if self._candidate.library != RUNTIME:
            path = self._folder / "weighted.onnx"
            path.write_bytes(model)
            return self._prepare(number, path, feeds, empty=number < 0)
        model, count = observed(model) if question["inside"] else (model, 0)
        session = self._session(model, shared=True)
        self._calls[number] = _bound(session, feeds)
        return {"threads": session.get_session_options().intra_op_num_threads, "observed": count}

    def _prepare(
        self, number: int, path: Path, feeds: Mapping[str, np.ndarray[Any, Any]], *, empty: bool = False
    ) -> dict[str, Any]:
        """The same with another library, as its candidates for single layers run."""
        library = importlib.import_module(MODULES[self._candidate.library])
        job = Job(path, feeds, self._candidate, self._threads, self._folder, empty)
        prepared: Prepared = library.prepare(job)
        self._calls[number] = prepared.call
        return dict(prepared.settings)

    def _session(self, model: bytes | str, *, shared: bool) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        if shared:  # a brick; a whole model is loaded as a user would
            level = _LEVELS[self._candidate.implementation.removeprefix("graph=")]
            options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
            options.add_session_config_entry("session.use_env_allocators", "1")
        for pool in ("intra_op", "inter_op"):
            options.add_session_config_entry(f"session.{pool}.allow_spinning", "0")
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def open_model(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Loads a whole model as a user would: its own memory, its own weights, graph level all."""
        with np.load(question["feeds"], allow_pickle=False) as stored:
            feeds = {name: np.ascontiguousarray(stored[name]) for name in stored.files}
        if self._candidate.library != RUNTIME:
            return self._prepare(question["number"], Path(question["model"]), feeds)
        session = self._session(question["model"], shared=False)
        self._calls[question["number"]] = _bound(session, feeds)
        return {"threads": session.get_session_options().intra_op_num_threads}

    def _feeds(self, model: onnx.ModelProto, seed: int) -> dict[str, np.ndarray[Any, Any]]:
        """Inputs; those of float32 lie in memory that the bricks share."""
        generator = np.random.Generator(np.random.PCG64([seed, 1]))
        ranges = index_ranges(model)
        feeds: dict[str, np.ndarray[Any, Any]] = {}
        place = 0
        for value in model.graph.input:
            tensor = value.type.tensor_type
            dims = [dim.dim_value for dim in tensor.shape.dim]
            dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
            if dtype == np.float32:
                feed = self._pooled(place, dims)
                place += 1
                np.copyto(feed, generator.standard_normal(dims, dtype=np.float32) * np.float32(_SPREAD))
            elif dtype.kind in "fV":
                feed = generator.standard_normal(dims, dtype=np.float32).astype(dtype)
            elif dtype == np.bool_:
                feed = np.ones(dims, np.bool_)
            else:
                feed = generator.integers(0, max(ranges.get(value.name, 2), 1), dims).astype(dtype)
            feeds[value.name] = feed
        return feeds

    def _pooled(self, place: int, dims: Sequence[int]) -> np.ndarray[Any, Any]:
        """The memory of the float32 inputs at one place: of all bricks the same, as far as they reach."""
        size = math.prod(dims)
        while len(self._pools) <= place:
            self._pools.append(_reserved(_POOL_BYTES // 4))
        if size > self._pools[place].size:
            self._pools[place] = _reserved(2 * size)  # bricks before keep theirs
        return self._pools[place][:size].reshape(tuple(dims))

    def sample(self, question: Mapping[str, Any]) -> dict[str, dict[str, list[int]]]:
        """Wall nanoseconds of calls by number, and CPU nanoseconds likewise, in one cache state.

        In sequence `further_bytes` are read before each pass, at most what evicts all caches.
        """
        order: list[int] = question["order"]
        wall: dict[int, list[int]] = {number: [] for number in order}
        cpu: dict[int, list[int]] = {number: [] for number in order}
        state, repeats = question["cache"], question["repeats"]
        further = self._filler[: question["further_bytes"] // self._filler.itemsize]
        if state == "sequence":
            for turn in range(repeats + 1):  # the first pass brings caches to what passes leave in them
                further.sum()
                for number in order:
                    self._write_inputs(number)
                    self._time(number, wall, cpu, keep=turn > 0)
        for number in order if state != "sequence" else ():
            if state == "hot":
                self._calls[number]()
            for _ in range(repeats):
                if state == "evicted":
                    self._filler.sum()
                self._time(number, wall, cpu, keep=True)
        return {"wall_ns": {str(k): v for k, v in wall.items()}, "cpu_ns": {str(k): v for k, v in cpu.items()}}

    def _write_inputs(self, number: int) -> None:
        """Writes the same into a brick's inputs once more: the layer before has just done so.

        Twice, since layers add up their output in several goes: after one writing, a convolution that reads
        19 MB took 26 to 47 % longer than in its model (four processes), after two -3 to +12 %.
        """
        for _ in range(2):
            for data in self._inputs.get(number, ()):
                np.bitwise_or(data, 0, out=data)

    def _time(self, number: int, wall: dict[int, list[int]], cpu: dict[int, list[int]], *, keep: bool) -> None:
        call = self._calls[number]
        cpu_start = time.thread_time_ns()
        start = time.perf_counter_ns()
        call()
        end = time.perf_counter_ns()
        cpu_end = time.thread_time_ns()
        if keep:
            wall[number].append(end - start)
            cpu[number].append(cpu_end - cpu_start)


def _reserved(size: int) -> np.ndarray[Any, Any]:
    """float32 zeros that begin with a line of the cache, in pages of the usual size, as runtimes allocate."""
    return np.frombuffer(mmap.mmap(-1, 4 * size + _LINE), np.float32)[_LINE // 4 :][:size]


def _bound(session: Any, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Callable[[], object]:
    """A call with inputs in this memory and outputs in memory that stays."""
    import onnxruntime

    binding = session.io_binding()
    held: list[Any] = [feeds]
    for name, value in feeds.items():
        held.append(onnxruntime.OrtValue.ortvalue_from_numpy(value))
        binding.bind_ortvalue_input(name, held[-1])
    for output in session.get_outputs():
        binding.bind_output(output.name, "cpu")
    return _holding(session, binding, held)


def _holding(session: Any, binding: Any, held: list[Any]) -> Callable[[], object]:
    """The cheapest call of a session with its memory bound; `held` lives as long as the call."""
    run = session.run_with_iobinding

    def call(_held: object = held) -> object:
        return run(binding)

    for _ in range(_FIRST_CALLS):
        call()
    return call


def main() -> None:
    """Serves on standard input and output: candidate, threads, CPUs, bytes that evict all caches, a scratch folder."""
    candidate, threads, cpus, evict_bytes, folder = sys.argv[1:6]
    os.sched_setaffinity(0, {int(cpu) for cpu in cpus.split(",")})
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    gc.disable()  # a collection in a timed call would be booked to the runtime
    made = Candidate.model_validate_json(candidate)
    server = Server(made, int(threads), int(evict_bytes), Path(folder))
    for line in sys.stdin.buffer:
        question = json.loads(line)
        try:
            answer: dict[str, Any] = {"ok": getattr(server, question["do"])(question)}
        except Exception as error:  # noqa: BLE001 - runtimes raise what they like; it is recorded and the rest goes on
            answer = {"reason": f"{type(error).__name__}: {' '.join(str(error).split())[:_MOST_WORDS]}"}
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    main()
