"""Runs parts with ONNX Runtime at a graph level, memory bound once; tells the nodes that it executes."""

from __future__ import annotations

import logging
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from stratoscope.graph.onnx_file import load_onnx
from stratoscope.measure.parts.library import Array, Job, Prepared, Unsupported

_LEVELS = {
    "off": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
#: Weights from this size on go beside the optimised graph, which is read back for its nodes only.
_EXTERNAL_FROM_BYTES = "1024"


def prepare(job: Job) -> Prepared:
    """A session with inputs and outputs bound to memory that is given once."""
    onnxruntime.set_default_logger_severity(4)
    level = job.candidate.implementation.rpartition("graph=")[2]
    quantized = job.candidate.precision == "int8" and not job.empty
    model = _quantized(job) if quantized else job.path
    optimised = job.folder / f"{uuid.uuid4().hex}.onnx"
    options = _options(job.threads, level)
    options.optimized_model_filepath = str(optimised)
    external = "session.optimized_model_external_initializers"
    options.add_session_config_entry(f"{external}_file_name", f"{optimised.name}.weights")
    options.add_session_config_entry(f"{external}_min_size_in_bytes", _EXTERNAL_FROM_BYTES)
    try:
        session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        operators = tuple(
            f"{node.domain}.{node.op_type}" if node.domain else node.op_type for node in load_onnx(optimised).graph.node
        )
    finally:
        optimised.unlink(missing_ok=True)
        optimised.with_name(f"{optimised.name}.weights").unlink(missing_ok=True)
    if quantized and not any("Integer" in name or "Quantize" in name for name in operators):
        raise Unsupported("nothing of it can be quantised while it runs")
    settings = session.get_session_options()
    told = {
        "threads": settings.intra_op_num_threads,
        "graph": settings.graph_optimization_level.name,
        "spinning": settings.get_session_config_entry("session.intra_op.allow_spinning") == "1",
        "provider": session.get_providers()[0],
    }
    return _bound(session, job, operators, told)


def _quantized(job: Job) -> Path:
    """The model with 8-bit weights, whose inputs are quantised at each call (products and convolutions)."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    path = job.folder / "quantized.onnx"
    logging.disable(logging.WARNING)  # it advises to preprocess models, which a single layer does not need
    try:
        quantize_dynamic(job.path, path, weight_type=QuantType.QInt8, extra_options={"MatMulConstBOnly": True})
    finally:
        logging.disable(logging.NOTSET)
    return path


def _options(threads: int, level: str) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, _LEVELS[level])
    for pool in ("intra_op", "inter_op"):
        options.add_session_config_entry(f"session.{pool}.allow_spinning", "0")
    return options


def _bound(session: Any, job: Job, operators: tuple[str, ...], told: dict[str, Any]) -> Prepared:
    feeds = {name: np.ascontiguousarray(value) for name, value in job.feeds.items()}
    names = [output.name for output in session.get_outputs()]
    first: list[Array] = session.run(names, feeds)
    binding = session.io_binding()
    kept: list[Any] = []  # the session does not own what is bound
    for name, value in feeds.items():
        kept.append(onnxruntime.OrtValue.ortvalue_from_numpy(value))
        binding.bind_ortvalue_input(name, kept[-1])
    results: list[Array] = []
    for name, value in zip(names, first, strict=True):
        results.append(np.empty_like(value, order="C"))
        kept.append(onnxruntime.OrtValue.ortvalue_from_numpy(results[-1]))
        binding.bind_ortvalue_output(name, kept[-1])
    run = session.run_with_iobinding

    def call(_held: object = (kept, feeds)) -> object:
        return run(binding)

    def outputs() -> list[Array]:
        call()
        return [value.copy() for value in results]

    return Prepared(call, outputs, operators, told)
