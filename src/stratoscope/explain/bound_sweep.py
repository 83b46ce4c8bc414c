"""What a model is bound by at each batch size: its work in the graph over its measured latency, under the roofs."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from stratoscope.explain.analyses.choice import roofs
from stratoscope.explain.analyses.kernels import ROOFLINE, located, place_notes, roof_facts
from stratoscope.explain.analyses.layer_sites import layers_of
from stratoscope.explain.analyses.leveled_trace import LeveledTrace
from stratoscope.explain.analyses.model import latencies
from stratoscope.explain.analyses.result import COUNT, REAL, Analysis, AnalysisOptions, Column, Missing, Rows, notes
from stratoscope.explain.roofs import DEFAULT_TYPE, place

COLUMNS: Final = (
    Column("batch_size", COUNT, "1", "inputs of one inference"),
    Column("latency_s", REAL, "s", "of a batch, as in A1"),
    Column("flops", REAL, "FLOP", "of a batch"),
    Column("bytes", REAL, "byte", "parameters once, and each activation written and read once"),
    *ROOFLINE,
)


def bound_by_batch(trace: LeveledTrace, options: AnalysisOptions) -> Rows:
    """The class of the whole model at each batch size.

    FLOPs and activations grow with the batch, parameters are read once: so the intensity grows, and the class may
    change from memory-bound to compute-bound. Bytes are those of the layers as authored, without what fusion saves.
    """
    told = roofs(options)
    graph = trace.graph
    if graph is None or graph.flops.value is None or graph.activation_bytes.value is None:
        raise Missing("the model's work is not known: there is no graph that tells it")
    if graph.parameter_bytes.value is None:
        raise Missing(f"the bytes of the parameters are not known: {graph.parameter_bytes.reason}")
    base = trace.graph_batch
    points = latencies(trace)
    if not points or base is None:
        raise Missing("no unprofiled latency at a known batch size")
    kind, assumed = _arithmetic(trace)
    rows: list[tuple[Any, ...]] = []
    places = []
    for size, (time, _) in sorted(points.items()):
        flops = graph.flops.value * size / base
        moved = graph.parameter_bytes.value + graph.activation_bytes.value * size / base
        spot = place({kind: flops}, moved, time.value, told)
        places.append(spot)
        rows.append((size, time.value, flops, moved, *located(spot)))
    least = f"work is a lower bound: {graph.flops.reason}" if graph.flops.statistic == "at least" else ""
    return Rows(rows, {**roof_facts(told), "element_type": kind}, notes(assumed, least, *place_notes(places)))


def _arithmetic(trace: LeveledTrace) -> tuple[str, str]:
    """The type of most of the operations of the layers, and what to say where they do not tell it."""
    counts: Counter[str] = Counter()
    for size in trace.batch_sizes[:1]:
        for layer in layers_of(trace, size).sites:
            for kind, count in (layer.facts.operations or {}).items():
                counts[kind] += int(count)
    if counts:
        return counts.most_common(1)[0][0], ""
    return DEFAULT_TYPE, f"the type of the arithmetic is not told: the roof of {DEFAULT_TYPE} is taken"


BOUND_SWEEP = Analysis("bound-sweep", "Bound class by batch size", ("model",), COLUMNS, bound_by_batch)
