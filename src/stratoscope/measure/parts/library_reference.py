"""The reference outputs of a part: ONNX Runtime without optimisation, else ONNX's own reference implementation."""

from __future__ import annotations

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from stratoscope.backends.ort_errors import runtime_errors
from stratoscope.measure.parts import library_onnxruntime
from stratoscope.measure.parts.library import Array, Job, Prepared


def prepare(job: Job) -> Prepared:
    """The model at graph level off; where ONNX Runtime has no kernel for it, in plain NumPy."""
    try:
        return library_onnxruntime.prepare(job)
    except runtime_errors():
        evaluator = ReferenceEvaluator(onnx.load(str(job.path)))

        def outputs() -> list[Array]:
            return [np.asarray(value) for value in evaluator.run(None, dict(job.feeds))]

        outputs()
        return Prepared(outputs, outputs, ("onnx.reference",))
