"""The process behind sequence.py: holds the bricks of a model, and calls them as the model would, or hot, or evicted.

One JSON line in, one out. All sessions allocate from one arena, and tensors of one type and size share a few buffers in
turn, so that a brick finds its input where the brick before left its output, as inside the model.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime

from stratoscope.graph.brick_model import index_ranges, with_weights

_LEVELS: Final = {
    "off": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
_SPREAD: Final = 3.0  # deviation of inputs: as that of BENCH's parts, so that clipping activations clip
_MOST_WORDS: Final = 300


class Server:
    """The loaded bricks by number."""

    def __init__(self, level: str, threads: int, evict_bytes: int) -> None:
        self._level, self._threads = level, threads
        self._calls: dict[int, Callable[[], object]] = {}
        self._buffers: dict[tuple[str, int, int], np.ndarray[Any, Any]] = {}
        self._filler = np.ones(max(evict_bytes, 8) // 8, np.int64)
        memory = onnxruntime.OrtMemoryInfo(
            "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
        )
        onnxruntime.create_and_register_allocator(memory, None)

    def open(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Loads one brick: weights drawn, session made, memory bound; tells what the session runs with."""
        model = with_weights(Path(question["model"]).read_bytes(), question["seed"])
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, _LEVELS[self._level])
        options.add_session_config_entry("session.use_env_allocators", "1")
        for pool in ("intra_op", "inter_op"):
            options.add_session_config_entry(f"session.{pool}.allow_spinning", "0")
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        message = onnx.load_model_from_string(model)
        for initializer in message.graph.initializer:
            initializer.ClearField("raw_data")
        self._calls[question["number"]] = self._bound(session, message, question["seed"])
        return {"threads": session.get_session_options().intra_op_num_threads, "graph": self._level}

    def open_model(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Loads a whole model as a user would: its own arena, its own weights, graph level all."""
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        for pool in ("intra_op", "inter_op"):
            options.add_session_config_entry(f"session.{pool}.allow_spinning", "0")
        session = onnxruntime.InferenceSession(question["model"], options, providers=["CPUExecutionProvider"])
        binding = session.io_binding()
        held: list[Any] = [session]
        with np.load(question["feeds"], allow_pickle=False) as feeds:
            for name in feeds.files:
                held += [np.ascontiguousarray(feeds[name])]
                held += [onnxruntime.OrtValue.ortvalue_from_numpy(held[-1])]
                binding.bind_ortvalue_input(name, held[-1])
        for output in session.get_outputs():
            binding.bind_output(output.name, "cpu")
        self._calls[question["number"]] = _holding(session, binding, held)
        return {"threads": session.get_session_options().intra_op_num_threads}

    def _bound(self, session: Any, model: onnx.ModelProto, seed: int) -> Callable[[], object]:
        generator = np.random.Generator(np.random.PCG64([seed, 1]))
        ranges = index_ranges(model)
        binding = session.io_binding()
        held: list[Any] = [session]
        feeds: dict[str, np.ndarray[Any, Any]] = {}
        taken: set[int] = set()
        for value in model.graph.input:
            tensor = value.type.tensor_type
            dims = [dim.dim_value for dim in tensor.shape.dim]
            dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
            if dtype == np.float32:
                buffer = self._buffer(dims, taken)
                np.copyto(buffer, generator.standard_normal(dims, dtype=np.float32) * np.float32(_SPREAD))
            elif dtype.kind in "fV":
                buffer = generator.standard_normal(dims, dtype=np.float32).astype(dtype)
            elif dtype == np.bool_:
                buffer = np.ones(dims, np.bool_)
            else:
                buffer = generator.integers(0, max(ranges.get(value.name, 2), 1), dims).astype(dtype)
            feeds[value.name] = buffer
            held.append(onnxruntime.OrtValue.ortvalue_from_numpy(buffer))
            binding.bind_ortvalue_input(value.name, held[-1])
        names = [output.name for output in session.get_outputs()]
        for name, result in zip(names, session.run(names, feeds), strict=True):
            place = self._buffer(result.shape, taken) if result.dtype == np.float32 else np.empty_like(result)
            held += [place, onnxruntime.OrtValue.ortvalue_from_numpy(place)]
            binding.bind_ortvalue_output(name, held[-1])
        return _holding(session, binding, [held, feeds])

    def _buffer(self, dims: Any, taken: set[int]) -> np.ndarray[Any, Any]:
        """A shared float32 buffer of this shape that the brick does not use yet."""
        size = int(np.prod(dims, dtype=np.int64))
        turn = 0
        while (key := ("float32", size, turn)) in self._buffers and id(self._buffers[key]) in taken:
            turn += 1
        flat = self._buffers.setdefault(key, np.ones(size, np.float32))
        taken.add(id(flat))
        return flat.reshape(tuple(dims))

    def sample(self, question: Mapping[str, Any]) -> dict[str, dict[str, list[int]]]:
        """Wall nanoseconds of calls by number, and CPU nanoseconds likewise, in one cache state."""
        order: list[int] = question["order"]
        wall: dict[int, list[int]] = {number: [] for number in order}
        cpu: dict[int, list[int]] = {number: [] for number in order}
        state, repeats = question["cache"], question["repeats"]
        if state == "sequence":
            for turn in range(repeats + 1):  # the first pass brings caches to what passes leave in them
                for number in order:
                    self._time(number, wall, cpu, keep=turn > 0)
        for number in order if state != "sequence" else ():
            if state == "hot":
                self._calls[number]()
            for _ in range(repeats):
                if state == "evicted":
                    self._filler.sum()
                self._time(number, wall, cpu, keep=True)
        return {"wall_ns": {str(k): v for k, v in wall.items()}, "cpu_ns": {str(k): v for k, v in cpu.items()}}

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


def _holding(session: Any, binding: Any, held: list[Any]) -> Callable[[], object]:
    """The cheapest call of a session with its memory bound; `held` lives as long as the call."""
    run = session.run_with_iobinding

    def call(_held: object = held) -> object:
        return run(binding)

    return call


def main() -> None:
    """Serves on standard input and output: graph level, threads, CPUs, bytes that evict all caches."""
    level, threads, cpus, evict_bytes = sys.argv[1:5]
    os.sched_setaffinity(0, {int(cpu) for cpu in cpus.split(",")})
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    gc.disable()  # a collection in a timed call would be booked to the runtime
    server = Server(level, int(threads), int(evict_bytes))
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
