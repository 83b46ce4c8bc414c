"""Where a model can be cut into pieces that run alone: at single live tensors, every G layers, or overlapping."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal

from stratoscope.graph.ir import Graph, Layer, Tensor
from stratoscope.graph.work import work_of

#: "tensor": where one live tensor crosses; "layers": every G layers (DLBricks); "overlap": sequences of G pieces of the
#: tensor rule that overlap by G - 1; "node": every layer.
Rule = Literal["tensor", "layers", "overlap", "node"]

#: A rough machine for deciding what is too small to time. Only an order of magnitude is needed, and the same on every
#: machine, so that a suite is the same wherever it is built.
NOMINAL_FLOPS_PER_S: Final = 100e9
NOMINAL_BYTES_PER_S: Final = 20e9
#: A call of a runtime costs about 5 us; a piece of 50 calls' worth is wrong by at most 2 % where that is misjudged.
CALL_OVERHEAD_S: Final = 5e-6
LEAST_CALLS: Final = 50
#: Operators with graphs of their own, which may read any tensor made before them without naming it as an input.
SUBGRAPH_OPS: Final = frozenset({"If", "Loop", "Scan", "SequenceMap"})
#: A piece of more layers than this, in which no single tensor crosses, is looked through for carried tensors.
LONG: Final = 16

Word = tuple[Hashable, ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive layers of a graph, `start` to `stop` (exclusive) of `live_layers`, counted `times` in the model.

    `times` is 1, and -1 for what two overlapping sequences share: the sum over a model's pieces is the model.
    """

    start: int
    stop: int
    times: int = 1


class Liveness:
    """Of each tensor of a graph's live layers: where it is made, and where it is read last. Linear in the graph.

    Attributes:
        layers: the layers that some output of the model needs, in their order; runtimes drop the others. What comes
            before a layer with subgraphs may be needed inside of it, and counts as needed.
        dead: the layers that nothing needs.
    """

    def __init__(self, graph: Graph) -> None:
        self.layers, self.dead = _live(graph)
        self.made: dict[str, int] = {tensor.name: -1 for tensor in graph.inputs}
        self.last_read: dict[str, int] = {}
        self.reads: dict[str, int] = {}
        self.delivered = frozenset(tensor.name for tensor in graph.outputs)
        for position, layer in enumerate(self.layers):
            for tensor in activations_of(layer):
                self.last_read[tensor.name] = position
                self.reads[tensor.name] = self.reads.get(tensor.name, 0) + 1
            for tensor in layer.outputs:
                self.made[tensor.name] = position
        self.delivered |= {
            tensor.name
            for layer in self.layers
            for tensor in layer.outputs
            if not any(one.name in self.last_read or one.name in self.delivered for one in layer.outputs)
        }

    def crossing(self, start: int, stop: int, carried: frozenset[str] = frozenset()) -> list[int]:
        """For each boundary in start+1 .. stop-1 the number of tensors made before it and read at or after it.

        Tensors that are `carried` do not count.
        """
        change = [0] * (stop - start + 1)
        for name, made, last in self._spans(start, stop):
            if name in carried:
                continue
            first, end = max(made + 1, start), min(last, stop)
            if first <= end:
                change[first - start] += 1
                if end - start + 1 < len(change):
                    change[end - start + 1] -= 1
        counts, alive = [], 0
        for offset in range(stop - start):
            alive += change[offset]
            if offset:
                counts.append(alive)
        return counts

    def long_lived(self, start: int, stop: int) -> frozenset[str]:
        """Tensors that cross more than half of the layers of [start, stop) and are read there more than once."""
        half = (stop - start) / 2
        return frozenset(
            name
            for name, made, last in self._spans(start, stop)
            if min(last, stop) - max(made, start) > half and self.reads.get(name, 0) > 1
        )

    def _spans(self, start: int, stop: int) -> list[tuple[str, int, int]]:
        """(name, made, last read) of the tensors that the layers of [start, stop) read or make."""
        names = dict.fromkeys(
            tensor.name for layer in self.layers[start:stop] for tensor in (*activations_of(layer), *layer.outputs)
        )
        return [(name, self.made.get(name, -1), self.last_read[name]) for name in names if name in self.last_read]


def activations_of(layer: Layer) -> list[Tensor]:
    """The inputs of a layer that are not constants, each once."""
    found = {
        tensor.name: tensor
        for tensor in layer.inputs
        if tensor is not None and tensor.role not in ("weight", "shape-constant")
    }
    return list(found.values())


def nominal_seconds(layer: Layer) -> float:
    """About how long a layer takes on the rough machine; of an unknown operator the time to move its data."""
    work = work_of(layer)
    if work is None:
        moved = sum(tensor.bytes or 0 for tensor in (*activations_of(layer), *layer.outputs))
        return moved / NOMINAL_BYTES_PER_S
    moved = work.bytes_read + work.bytes_written + work.parameter_bytes
    return max(work.flops_valid / NOMINAL_FLOPS_PER_S, moved / NOMINAL_BYTES_PER_S)


def cut(
    liveness: Liveness,
    rule: Rule = "tensor",
    *,
    granularity: int = 1,
    least_s: float = LEAST_CALLS * CALL_OVERHEAD_S,
    key: Callable[[Layer], Hashable] | None = None,
) -> tuple[Piece, ...]:
    """The pieces of a model under a rule, in order; each layer counts once in their sum.

    Args:
        granularity: "layers": layers of a piece (the paper's G); "tensor": segments of a piece; "overlap": segments of
            a sequence, at least 2.
        least_s: segments of the tensor rules are merged with their successors until they are nominally this long.
        key: what makes two layers the same; given it, merging follows an earlier piece where the same layers return,
            so that repeated blocks give repeated pieces.

    Raises ValueError for a granularity below 1, or below 2 for "overlap".
    """
    least = 2 if rule == "overlap" else 1
    if granularity < least:
        raise ValueError(f"granularity {granularity} for rule {rule!r}: at least {least}")
    count = len(liveness.layers)
    if count == 0:
        return ()
    if rule in ("layers", "node"):
        step = granularity if rule == "layers" else 1
        return tuple(Piece(start, min(start + step, count)) for start in range(0, count, step))
    edges = segment_edges(liveness)
    segments = _merged(liveness, edges, least_s, key)
    if rule == "overlap":
        return _overlapping(segments, granularity)
    grouped = [segments[first : first + granularity] for first in range(0, len(segments), granularity)]
    return tuple(Piece(group[0].start, group[-1].stop) for group in grouped)


def segment_edges(liveness: Liveness) -> list[int]:
    """The boundaries between layers that one live tensor crosses, with 0 and the number of layers.

    Tensors that a whole model carries along (an attention mask, rotary embeddings, the skips of a U-Net) would leave
    none. So in a segment of more than 16 layers, tensors that cross more than half of it and are read more than once
    are carried: they become further inputs of the pieces that read them and do not count; and so on inside.
    """
    edges = {0, len(liveness.layers)}
    open_: list[tuple[int, int, frozenset[str]]] = [(0, len(liveness.layers), frozenset())]
    while open_:
        start, stop, carried = open_.pop()
        counts = liveness.crossing(start, stop, carried)
        inner = [start + offset for offset, count in enumerate(counts, 1) if count <= 1]
        edges.update(inner)
        for left, right in pairwise([start, *inner, stop]):
            if right - left <= LONG:
                continue
            more = carried | liveness.long_lived(left, right)
            if more != carried:
                open_.append((left, right, more))
    return sorted(edges)


def _merged(
    liveness: Liveness, edges: Sequence[int], least_s: float, key: Callable[[Layer], Hashable] | None
) -> list[Piece]:
    """Neighbouring segments joined until they are nominally long enough, along earlier pieces where they return."""
    spans = list(pairwise(edges))
    times = [sum(nominal_seconds(one) for one in liveness.layers[a:b]) for a, b in spans]
    words: list[Word] = [tuple(key(one) for one in liveness.layers[a:b]) if key else () for a, b in spans]
    earlier: dict[Word, list[tuple[Word, ...]]] = {}
    pieces: list[Piece] = []
    first = 0
    while first < len(spans):
        candidates = earlier.get(words[first], []) if key else []
        matches = (len(one) for one in candidates if tuple(words[first : first + len(one)]) == one)
        length = max(matches, default=0)
        if not length:
            length = _long_enough(times, first, least_s)
            earlier.setdefault(words[first], []).append(tuple(words[first : first + length]))
        pieces.append(Piece(edges[first], edges[first + length]))
        first += length
    if len(pieces) > 1 and sum(times[bisect_left(edges, pieces[-1].start) :]) < least_s:
        last = pieces.pop()
        pieces[-1] = Piece(pieces[-1].start, last.stop)
    return pieces


def _long_enough(times: Sequence[float], first: int, least_s: float) -> int:
    """How many segments from `first` on are nominally `least_s` long; fewer only at the end."""
    total = 0.0
    for position in range(first, len(times)):
        total += times[position]
        if total >= least_s:
            return position - first + 1
    return len(times) - first


def _overlapping(segments: Sequence[Piece], granularity: int) -> tuple[Piece, ...]:
    """All sequences of `granularity` segments, and (counted -1) what each shares with the next."""
    if len(segments) <= granularity:
        return (Piece(segments[0].start, segments[-1].stop),)
    pieces = []
    for first in range(len(segments) - granularity + 1):
        last = segments[first + granularity - 1]
        pieces.append(Piece(segments[first].start, last.stop))
        if first + granularity < len(segments):
            pieces.append(Piece(segments[first + 1].start, last.stop, -1))
    return tuple(pieces)


def _live(graph: Graph) -> tuple[tuple[Layer, ...], tuple[Layer, ...]]:
    """(layers that an output needs, the others), by one walk from the end."""
    needed = {tensor.name for tensor in graph.outputs}
    live: list[Layer] = []
    dead: list[Layer] = []
    captured = False
    for layer in reversed(graph.layers):
        if captured or any(tensor.name in needed for tensor in layer.outputs):
            needed.update(tensor.name for tensor in activations_of(layer))
            live.append(layer)
            captured = captured or (layer.op in SUBGRAPH_OPS and layer.domain == "")
        else:
            dead.append(layer)
    return tuple(reversed(live)), tuple(reversed(dead))
