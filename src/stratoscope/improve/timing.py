"""Times layers alone, each in a worker process, from the performance database or afresh: as they run, and otherwise."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from stratoscope.graph.ir import Graph
from stratoscope.host.capture import capture_hardware
from stratoscope.improve.predict import Pairs
from stratoscope.improve.variants import Variant
from stratoscope.measure.parts import default_candidates, executed_parts, layer_parts, run_parts
from stratoscope.spec.performance import Candidate, Environment, Part, PartMeasurement, Protocol
from stratoscope.stats.quantity import Quantity

OnResult = Callable[[PartMeasurement], None]
#: (library, implementation, layout) of how PyTorch runs a layer where nothing else is asked for.
AS_IT_RUNS: Final = ("pytorch", "eager", "NCHW")


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
        """Seconds by digest; digests that could not be measured are absent, and so are all of another runtime."""
        if variant.backend != "onnxruntime":
            return {}
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


class CallTimer:
    """Times authored layers both as PyTorch runs them and by another call, in turns, until its budget is spent.

    Args:
        budget_s: seconds for all calls together.
        known: measurements of before.
        on_result: receives each new measurement (a database keeps it).
    """

    def __init__(
        self,
        budget_s: float,
        threads: int,
        known: Iterable[PartMeasurement] = (),
        on_result: OnResult | None = None,
        on_progress: Callable[[str], None] | None = None,
    ) -> None:
        self._left_s = budget_s
        self._protocol = executed_protocol(threads)
        self._known = {_key(one): one for one in known if one.protocol == self._protocol}
        self._on_result = on_result
        self._report = on_progress

    def __call__(self, graph: Graph, call: tuple[str, str, str], digests: Sequence[str]) -> Pairs:
        """Seconds as it runs and by `call` of each layer of `graph` in `digests`, the first ones first; see `Pairs`.

        Raises:
            MeasurementError: a library is not installed.
        """
        candidates = [
            one
            for one in default_candidates("layer", sorted({AS_IT_RUNS[0], call[0]}))
            if (one.library, one.implementation, one.layout) in (AS_IT_RUNS, call)
        ]
        if self._left_s > 0:
            start = time.monotonic()
            parts = {one.part.digest: one for one in layer_parts(graph)}
            run_parts(
                [parts[digest] for digest in digests if digest in parts],
                candidates,
                [self._protocol],
                environment=Environment.of(capture_hardware()),
                budget_s=self._left_s,
                on_result=self._take,
                progress=self._progress,
                known=self._is_known,
            )
            self._left_s -= time.monotonic() - start
        new = next(one for one in candidates if (one.library, one.implementation, one.layout) == call)
        now = next(one for one in candidates if one != new)
        return self._pairs(digests, now, new)

    def _pairs(self, digests: Sequence[str], now: Candidate, new: Candidate) -> Pairs:
        times: dict[str, tuple[Quantity, Quantity]] = {}
        left: set[str] = set()
        for digest in digests:
            both = [self._known.get((digest, one.digest)) for one in (now, new)]
            known = [one.seconds() for one in both if one is not None and one.status == "ok"]
            if None in both or any(one is not None and one.status == "refused" for one in both):
                left.add(digest)
            elif len(known) == len(both) and all(one.value is not None for one in known):
                times[digest] = (known[0], known[1])
        return Pairs(times, frozenset(left))

    def _is_known(self, part: Part, candidate: Candidate, protocol: Protocol) -> bool:
        found = self._known.get((part.digest, candidate.digest))
        return found is not None and found.status != "refused"

    def _take(self, measurement: PartMeasurement) -> None:
        self._known[_key(measurement)] = measurement
        if self._on_result is not None:
            self._on_result(measurement)

    def _progress(self, text: str, share: float | None) -> None:
        if self._report is not None:
            self._report(f"advice: benchmarking {text}")


def _key(measurement: PartMeasurement) -> tuple[str, str]:
    return measurement.part.digest, measurement.candidate.digest
