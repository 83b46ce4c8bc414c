"""What a call costs that does next to nothing: measured for each candidate and protocol, subtracted from its parts."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from onnx import TensorProto, helper

from stratoscope.graph.brick_model import IR_VERSION
from stratoscope.measure.parts.trial import LEAST_SLICES, SLICE_CALLS, SLICE_S, shared_cpu
from stratoscope.measure.parts.workers import CandidateRefused, Worker
from stratoscope.spec.performance import Candidate, Protocol
from stratoscope.stats.quantile import low_quartile
from stratoscope.stats.quantity import Quantity

_SLICES: Final = 6
_MOST_TRIES: Final = 30


def empty_model() -> bytes:
    """One Identity of one number: its call is what every call costs, dispatch of one node included."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "empty", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=IR_VERSION)
    return bytes(model.SerializeToString())


class Overheads:
    """The overheads of a run, each measured once in the worker that runs the candidate."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], Quantity] = {}

    def get(self, worker: Worker, candidate: Candidate, protocol: Protocol, model: Path) -> Quantity:
        """p25 of an empty call with its interval, in seconds. Raises what `Worker.ask` raises."""
        key = (candidate.digest, protocol.digest)
        if key not in self._found:
            self._found[key] = _measure(worker, candidate, protocol, model)
        return self._found[key]


def _measure(worker: Worker, candidate: Candidate, protocol: Protocol, model: Path) -> Quantity:
    opened = worker.ask("open", model=str(model), seed=0, candidate=candidate.model_dump(), empty=True)
    samples: list[float] = []
    quiet = 0
    for _ in range(_MOST_TRIES):
        told = worker.ask("sample", key=opened["key"], cache=protocol.cache, calls=SLICE_CALLS, seconds=SLICE_S)
        if protocol.threads == 1 and shared_cpu(told["wall_ns"], told["cpu_ns"]):
            continue
        samples += [one * 1e-9 for one in told["wall_ns"]]
        quiet += 1
        if quiet >= _SLICES:
            break
    if quiet < LEAST_SLICES:
        raise CandidateRefused("refused", "another process took the CPU while the cost of a call was measured")
    return low_quartile(samples)
