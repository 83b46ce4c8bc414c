"""A brick: consecutive layers as a network of their own, with a Merkle key that ignores names and weights."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from stratoscope.graph.cuts import SUBGRAPH_OPS, Liveness, Piece, Rule, activations_of, cut
from stratoscope.graph.ir import Graph, Layer, Tensor, Work
from stratoscope.graph.onnx_types import elements_of
from stratoscope.graph.signature import layer_key, slug
from stratoscope.graph.work import total, work_of
from stratoscope.spec.base import canonical_json, digest_of

_SCHEMA: Final = "stratoscope/brick/1"
#: Operators that say what a brick is about, most telling first, for its slug.
_TELLING: Final = ("Conv", "FusedConv", "Attention", "MultiHeadAttention", "MatMul", "FusedMatMul", "Gemm", "FusedGemm")


@dataclass(frozen=True, slots=True)
class Brick:
    """A piece of a model that can be built and run by itself.

    Attributes:
        key: `sha256:` and the digest of topology, operators, attributes, settings, types and shapes. Names, the
            values of weights, and the order in which a file lists independent nodes are not in it.
        slug: the key in readable words; not unique.
        layers: in canonical order, with the names that they have in their model.
        inputs, outputs: the activations that cross its border, in canonical order.
        opset: operator set versions of the model that it comes from.
        work: the sum over its layers whose work is known.
        unknown_work: operators of the layers whose work is not known.
        problem: why it cannot be built; None where it can.
    """

    key: str
    slug: str
    layers: tuple[Layer, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    opset: Mapping[str, int]
    work: Work
    unknown_work: tuple[str, ...]
    problem: str | None

    @property
    def operators(self) -> tuple[str, ...]:
        """The operators of its layers, with their domains where not the standard one, in order."""
        return tuple(f"{one.domain}.{one.op}" if one.domain else one.op for one in self.layers)


@dataclass(frozen=True, slots=True)
class Use:
    """A brick at one place of a model: the layers `start` to `stop` of it, counted `times` (see `Piece`)."""

    brick: Brick
    start: int
    stop: int
    times: int


@dataclass(frozen=True, slots=True)
class Wall:
    """A model as bricks, in order; `dead` are layers that no output needs, which runtimes drop."""

    uses: tuple[Use, ...]
    dead: tuple[Layer, ...]

    def unique(self) -> dict[str, Brick]:
        """Key -> brick, in the order of first use."""
        found: dict[str, Brick] = {}
        for use in self.uses:
            found.setdefault(use.brick.key, use.brick)
        return found


def bricks_of(graph: Graph, rule: Rule = "tensor", *, granularity: int = 1, least_s: float | None = None) -> Wall:
    """The model as bricks under a rule of `cuts.cut`; linear in its layers. Raises ValueError as `cut` does."""
    liveness = Liveness(graph)
    keys = _LayerKeys()
    options: dict[str, Any] = {} if least_s is None else {"least_s": least_s}
    pieces = cut(liveness, rule, granularity=granularity, key=keys.word, **options)
    return Wall(tuple(_use(graph, liveness, piece, keys) for piece in pieces), liveness.dead)


class _LayerKeys:
    """What each layer is, without its names: computed once for each layer of a graph."""

    def __init__(self) -> None:
        self._known: dict[int, str] = {}

    def word(self, layer: Layer) -> Hashable:
        """The canonical JSON of the layer's key."""
        word = self._known.get(layer.index)
        if word is None:
            word = self._known[layer.index] = canonical_json(layer_key(layer))
        return word


def _use(graph: Graph, liveness: Liveness, piece: Piece, keys: _LayerKeys) -> Use:
    layers = liveness.layers[piece.start : piece.stop]
    outputs = [
        tensor
        for layer in layers
        for tensor in layer.outputs
        if tensor.name in liveness.delivered or liveness.last_read.get(tensor.name, -1) >= piece.stop
    ]
    return Use(make_brick(layers, outputs, graph.opset, keys.word), piece.start, piece.stop, piece.times)


def make_brick(layers: Sequence[Layer], outputs: Sequence[Tensor], opset: Mapping[str, int], word: Any = None) -> Brick:
    """The brick of these layers that delivers `outputs`. Layers that no output needs are not in it."""
    word = word or _LayerKeys().word
    maker = {tensor.name: layer for layer in layers for tensor in layer.outputs}
    delivered = _in_canonical_order(outputs, layers, maker, word)
    ordered = _from_outputs(delivered, maker)
    inputs: dict[str, Tensor] = {}
    for layer in ordered:
        for tensor in activations_of(layer):
            if tensor.name not in maker:
                inputs.setdefault(tensor.name, tensor)
    works = [work_of(layer) for layer in ordered]
    used = {layer.domain for layer in ordered} | {""}
    return Brick(
        key=digest_of(_content(ordered, tuple(inputs.values()), delivered, word)),
        slug=_slug(ordered),
        layers=ordered,
        inputs=tuple(inputs.values()),
        outputs=tuple(delivered),
        opset={domain: version for domain, version in sorted(opset.items()) if domain in used},
        work=total([work for work in works if work is not None]),
        unknown_work=tuple(layer.op for layer, work in zip(ordered, works, strict=True) if work is None),
        problem=_problem(ordered, (*inputs.values(), *delivered)),
    )


def _from_outputs(outputs: Iterable[Tensor], maker: Mapping[str, Layer]) -> tuple[Layer, ...]:
    """The layers in the order of a walk from the outputs that visits inputs before a layer, by position.

    It depends on the graph only, not on the order in which its file lists the nodes.
    """
    done: dict[int, Layer] = {}
    for output in outputs:
        stack = [(maker[output.name], False)]
        while stack:
            layer, expanded = stack.pop()
            if layer.index in done:
                continue
            if expanded:
                done[layer.index] = layer
                continue
            stack.append((layer, True))
            stack += [(maker[one.name], False) for one in reversed(activations_of(layer)) if one.name in maker]
    return tuple(done.values())


def _in_canonical_order(
    outputs: Sequence[Tensor], layers: Sequence[Layer], maker: Mapping[str, Layer], word: Any
) -> list[Tensor]:
    """Outputs by the Merkle hash of what they are computed from, equal ones by their place in the graph."""
    if len(outputs) < 2:
        return list(outputs)
    hashes: dict[str, str] = {}
    for layer in layers:
        inputs = [hashes.get(one.name, "") if one.name in maker else "" for one in activations_of(layer)]
        for position, tensor in enumerate(layer.outputs):
            hashes[tensor.name] = digest_of([word(layer), inputs, position])
    return sorted(outputs, key=lambda tensor: hashes[tensor.name])


def _content(layers: Sequence[Layer], inputs: Sequence[Tensor], outputs: Sequence[Tensor], word: Any) -> dict[str, Any]:
    """What the key digests: each layer's own key, and which tensor each of its inputs is, by local numbers."""
    place: dict[str, list[Any]] = {tensor.name: ["in", number] for number, tensor in enumerate(inputs)}
    weights = 0
    nodes = []
    for number, layer in enumerate(layers):
        references = []
        for tensor in layer.inputs:
            if tensor is not None and tensor.role == "weight" and tensor.name not in place:
                place[tensor.name] = ["weight", weights]
                weights += 1
            references.append(None if tensor is None else place.get(tensor.name, ["setting"]))
        nodes.append([word(layer), references])
        for position, tensor in enumerate(layer.outputs):
            place[tensor.name] = ["layer", number, position]
    return {"schema": _SCHEMA, "nodes": nodes, "outputs": [place[tensor.name] for tensor in outputs]}


def _problem(layers: Sequence[Layer], border: Iterable[Tensor]) -> str | None:
    for layer in layers:
        if layer.op in SUBGRAPH_OPS and layer.domain == "":
            return f"{layer.op} has subgraphs, which refer to tensors outside of it"
        for tensor in layer.inputs:
            if tensor is None or tensor.role not in ("shape-constant", "weight"):
                continue
            if tensor.role == "shape-constant" and tensor.value is None:
                return f"a setting of {layer.op} has no known value"
            if elements_of(tensor.shape) is None or tensor.element_type is None:
                return f"a weight of {layer.op} has no known shape"
    for tensor in border:
        if elements_of(tensor.shape) is None or tensor.element_type is None:
            return "the shape of a tensor at its border depends on the data or on a free dimension"
    return None


def _slug(layers: Sequence[Layer]) -> str:
    """The most telling layer's slug, and how many layers there are besides."""
    if not layers:
        return "empty"
    ranked = sorted(
        layers, key=lambda one: (_TELLING.index(one.op) if one.op in _TELLING else len(_TELLING), -_flops(one))
    )
    rest = len(layers) - 1
    return slug(ranked[0]) + (f"+{rest}" if rest else "")


def _flops(layer: Layer) -> int:
    work = work_of(layer)
    return work.flops if work else 0
