"""Places the layers of a profile in the executed graph, so that bounds know their work and what they wait for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stratoscope.backends.registry import get_backend
from stratoscope.explain.bounds.layers import PlacedLayer, input_names
from stratoscope.graph.ir import Graph, Layer
from stratoscope.graph.onnx_reader import read_graph
from stratoscope.improve.variants import Variant
from stratoscope.measure.leveled_join import ProfiledLayer, executed_model, join
from stratoscope.spec.record import ProfileSection


def placed_layers(original: Variant, profile: ProfileSection) -> list[PlacedLayer]:
    """The profiled layers in order; where a runtime does not tell its graph, with what they cover by name only."""
    executed = executed_model(get_backend(original.backend), original.model, original.options)
    if executed.why is not None:
        return _by_name(original, profile)
    told = [ProfiledLayer(row.name, row.op, row.output_type, row.output_shape) for row in profile.layers]
    joined = join(executed.nodes, told)
    timed = {found.layer.index for found in joined if not isinstance(found, str)}
    untimed = [node.layer.layer for node in executed.nodes if node.layer and node.layer.layer.index not in timed]
    through = {tensor.name: input_names(one) for one in untimed for tensor in one.outputs}
    return [
        PlacedLayer(row, None, (), None)
        if isinstance(found, str)
        else PlacedLayer(row, found.layer, found.authored, found.own_work, _reads(found.layer, through))
        for row, found in zip(profile.layers, joined, strict=True)
    ]


def _reads(layer: Layer, through: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The tensors that a layer waits for: its inputs, and `through` layers without a time, theirs."""
    found: dict[str, None] = {}
    pending = list(input_names(layer))
    while pending:
        name = pending.pop()
        if name not in found:
            found[name] = None
            pending.extend(through.get(name, ()))
    return tuple(found)


def _by_name(original: Variant, profile: ProfileSection) -> list[PlacedLayer]:
    names: dict[str, Layer] = {}
    if original.model.path is not None:
        names = _unique_names(read_graph(original.model.path, original.model.bound_shapes()))
    placed = []
    for row in profile.layers:
        covered = tuple(names[name] for name in row.authored if name in names)
        known = covered if len(covered) == len(row.authored) else ()
        placed.append(PlacedLayer(row, None, known, None))
    return placed


def _unique_names(graph: Graph) -> dict[str, Layer]:
    counts: dict[str, int] = {}
    for layer in graph.layers:
        counts[layer.name] = counts.get(layer.name, 0) + 1
    return {layer.name: layer for layer in graph.layers if counts[layer.name] == 1}
