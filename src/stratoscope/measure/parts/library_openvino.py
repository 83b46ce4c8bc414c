"""Runs parts with OpenVINO in a precision that is forced and read back; tells the nodes and kernels it executes."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import openvino

from stratoscope.measure.parts.library import Array, Job, Prepared, Unsupported

_HINTS: Final = {"float32": "f32", "bfloat16": "bf16"}
_NAMES: Final = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}
#: Nodes of the executed graph that compute nothing.
_BORDER: Final = frozenset({"Input", "Output", "Constant", "Parameter", "Result", "Const"})
_KEYS: Final = frozenset({"layerType", "primitiveType"})


def prepare(job: Job) -> Prepared:
    """A compiled model with an inference request whose tensors are set once."""
    wanted = _HINTS[job.candidate.precision]
    core = openvino.Core()
    if wanted == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise Unsupported("this CPU has no bfloat16 for OpenVINO")
    compiled = core.compile_model(
        core.read_model(str(job.path)),
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": wanted,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": job.threads,
            "ENABLE_CPU_PINNING": False,  # the worker is pinned already
        },
    )
    precision = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    if precision != wanted:
        raise Unsupported(f"it computes in {precision} where {wanted} was asked for")
    operators = _operators(compiled)
    if wanted == "bf16" and not job.empty and not any(name.endswith("bf16)") for name in operators):
        raise Unsupported("OpenVINO computes it in float32 whatever the precision hint says")
    request = compiled.create_infer_request()
    kept = [np.ascontiguousarray(value) for value in job.feeds.values()]  # in the order of the graph's inputs
    tensors = [openvino.Tensor(value, shared_memory=True) for value in kept]
    for place, tensor in enumerate(tensors):
        request.set_input_tensor(place, tensor)
    start, wait = request.start_async, request.wait

    def call(_held: object = (kept, tensors, compiled)) -> object:
        start()
        return wait()

    def outputs() -> list[Array]:
        call()
        return [request.get_output_tensor(place).data.copy() for place in range(len(compiled.outputs))]

    settings = {
        "threads": int(compiled.get_property("INFERENCE_NUM_THREADS")),
        "precision": _NAMES.get(precision, precision),
        "streams": int(compiled.get_property("NUM_STREAMS")),
    }
    return Prepared(call, outputs, operators, settings)


def _operators(compiled: Any) -> tuple[str, ...]:
    """Type and kernel of each executed node, reorders among them: Convolution(brgconv_avx512_f32)."""
    told = []
    for node in compiled.get_runtime_model().get_ordered_ops():
        information = {key: str(value.value) for key, value in node.get_rt_info().items() if key in _KEYS}
        kind = information.get("layerType", node.get_type_name())
        if kind not in _BORDER:
            told.append(f"{kind}({information.get('primitiveType', 'unknown')})")
    return tuple(told)
