"""Times executed layers alone, each in a worker process, from the performance database or afresh."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping

from stratoscope.host.capture import capture_hardware
from stratoscope.improve.variants import Variant
from stratoscope.measure.parts import default_candidates, executed_parts, run_parts
from stratoscope.spec.performance import Environment, PartMeasurement, Protocol
from stratoscope.stats.quantity import Quantity

OnResult = Callable[[PartMeasurement], None]


def executed_protocol(threads: int) -> Protocol:
    """How executed layers are measured: with L2 flushed, as if other layers had run."""
    return Protocol(threads=threads)


class ExecutedTimer:
    """Times executed layers of ONNX Runtime until its budget is spent; what it measured once it keeps.

    Args:
        budget_s: seconds for all calls together.
        known: times of before, by digest.
        on_result: receives each new measurement (a database keeps it).
    """

    def __init__(
        self,
        budget_s: float,
        known: Mapping[str, Quantity] | None = None,
        on_result: OnResult | None = None,
        on_progress: Callable[[str], None] | None = None,
    ) -> None:
        self._left_s = budget_s
        self._known = dict(known or {})
        self._on_result = on_result
        self._report = on_progress

    def __call__(self, variant: Variant, digests: frozenset[str]) -> dict[str, Quantity]:
        """Seconds by digest; digests that could not be measured are absent."""
        wanted = digests - self._known.keys()
        if wanted and self._left_s > 0:
            start = time.monotonic()
            parts = executed_parts(variant.model, variant.options.graph_optimization)
            run_parts(
                [part for part in parts if part.part.digest in wanted],
                default_candidates("executed"),
                [executed_protocol(variant.options.threads or len(os.sched_getaffinity(0)))],
                environment=Environment.of(capture_hardware()),
                budget_s=self._left_s,
                on_result=self._take,
                progress=self._progress,
            )
            self._left_s -= time.monotonic() - start
        return {digest: self._known[digest] for digest in digests if digest in self._known}

    def _take(self, measurement: PartMeasurement) -> None:
        seconds = measurement.seconds()
        if seconds.value is not None:
            self._known[measurement.part.digest] = seconds
        if self._on_result is not None:
            self._on_result(measurement)

    def _progress(self, text: str, share: float | None) -> None:
        if self._report is not None:
            self._report(f"advice: benchmarking {text}")
