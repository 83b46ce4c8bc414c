"""What a model is, in a few numbers: layers, work and parameters, with the operators whose work is not known."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

from stratoscope.graph.ir import Graph, Layer, Work
from stratoscope.graph.signature import signature
from stratoscope.graph.work import why_unknown, work_of
from stratoscope.graph.work_functions.common import is_parameter
from stratoscope.spec.record import GraphSection
from stratoscope.stats.quantity import Quantity


def summarize(graph: Graph) -> GraphSection:
    """The section of a record that describes the graph.

    Where the work of some layers is not known, FLOPs and bytes are those of the others: a lower bound, with the
    statistic "at least" and the layers as its reason. Parameters are counted as they are stored, each once: also where
    several layers share one, or a part of a table is all that is used. A model has as many unique layers as there are
    different signatures.
    """
    works = [(layer, work_of(layer)) for layer in graph.layers]
    known = [work for _, work in works if work is not None]
    unknown = [layer for layer, work in works if work is None]
    parameters, parameter_bytes = _parameters(graph)
    by_type = Counter(qualified_op(layer) for layer in graph.layers)
    return GraphSection(
        layers=len(graph.layers),
        unique_layers=len({signature(layer) for layer in graph.layers}),
        flops=_sum(known, unknown, "FLOP", lambda work: work.flops),
        parameters=parameters,
        parameter_bytes=parameter_bytes,
        activation_bytes=_sum(known, unknown, "byte", lambda work: work.bytes_read + work.bytes_written),
        by_type=dict(sorted(by_type.items(), key=lambda item: (-item[1], item[0]))),
        unknown_work=_named(unknown),
    )


def qualified_op(layer: Layer) -> str:
    """The operator with its domain, where that is not the standard one."""
    return f"{layer.domain}.{layer.op}" if layer.domain else layer.op


def _sum(known: list[Work], unknown: list[Layer], unit: str, pick: Callable[[Work], int]) -> Quantity:
    value = sum(map(pick, known))
    if not unknown:
        return Quantity.exact(value, unit)
    reason = "not known: " + ", ".join(_named(unknown))
    if not value:
        return Quantity.unavailable(unit, reason)
    return Quantity(value=value, unit=unit, statistic="at least", reason=reason)


def _named(layers: list[Layer]) -> tuple[str, ...]:
    """`Op (n)` for operators without a work function; `Op (n, reason)` where one could not be applied."""
    counts = Counter((qualified_op(layer), why_unknown(layer)) for layer in layers)
    return tuple(
        f"{op} ({count})" if reason == "no work function" else f"{op} ({count}, {reason})"
        for (op, reason), count in sorted(counts.items())
    )


def _parameters(graph: Graph) -> tuple[Quantity, Quantity]:
    """The number and the bytes of the stored tensors that the layers' parameters come from, each once."""
    counted: set[str] = set()
    packed: dict[str, int] = {}
    for layer in graph.layers:
        for tensor in layer.inputs:
            if tensor is None or not is_parameter(tensor, layer):
                continue
            counted.update(tensor.sources)
            if layer.op in ("MatMulNBits", "MatMulBnb4") and layer.inputs[1] is tensor:
                # Packed blocks hold K * N weights, whatever their bytes.
                packed.update(dict.fromkeys(tensor.sources, int(layer.attributes["K"]) * int(layer.attributes["N"])))
    stored = [tensor for tensor in graph.stored if tensor.name in counted and tensor.shape]
    unsized = [tensor.name for tensor in stored if tensor.bytes is None]
    if unsized:
        reason = f"size not known: {', '.join(unsized[:5])}"
        return Quantity.unavailable("1", reason, "count"), Quantity.unavailable("byte", reason, "count")
    number = sum(packed.get(tensor.name, math.prod(int(dim) for dim in tensor.shape or ())) for tensor in stored)
    return Quantity.exact(number, "1"), Quantity.exact(sum(tensor.bytes or 0 for tensor in stored), "byte")
