"""Which layers of the authored model each layer of the executed graph covers: fused, re-laid out, or folded away."""

from __future__ import annotations

import dataclasses
import re
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from stratoscope.graph.ir import Graph, Layer, Work
from stratoscope.graph.work import total, work_of
from stratoscope.graph.work_functions import movement

#: Layers with one defining operation: at most one of them is in an executed layer, unless that is an attention.
_CORES: Final = frozenset(
    {
        "Conv",
        "ConvInteger",
        "QLinearConv",
        "ConvTranspose",
        "MatMul",
        "MatMulInteger",
        "QLinearMatMul",
        "Gemm",
        "Einsum",
        "MaxPool",
        "AveragePool",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "LpPool",
        "LRN",
        "Softmax",
        "LogSoftmax",
        "RNN",
        "GRU",
        "LSTM",
        "Attention",
        "Resize",
        "TopK",
    }
)
#: Operators of OpenVINO that are called otherwise than what they hold.
_OTHER_NAMES: Final = {
    "FullyConnected": ("MatMul", "Gemm"),
    "MaxPool": ("GlobalMaxPool",),
    "AvgPool": ("AveragePool", "GlobalAveragePool"),
    "ReduceMean": ("GlobalAveragePool",),
    "ReduceMax": ("GlobalMaxPool",),
    "Interpolate": ("Resize",),
}
_CONVOLUTIONS: Final = frozenset({"Conv", "ConvInteger", "QLinearConv", "ConvTranspose"})
_PRODUCTS: Final = frozenset({"MatMul", "MatMulInteger", "QLinearMatMul", "Gemm", "Einsum"})
#: What the runtime appends to the name of a tensor or node that it replaced.
_BLOCKED_NAME: Final = re.compile(r"(?P<tensor>.+)_nchwc(?:_token_\d+)?$")
_FUSION_SUFFIX: Final = re.compile(r"(?:/(?:MatMulAddFusion|MatMulScaleFusion|MatMulBNFusion)/?)?(?:_token_\d+)?$")
_ADDITIONS: Final = frozenset({"Add", "Sum"})
_SCALINGS: Final = frozenset({"Mul", "Div"})
_STORED: Final = ("weight", "shape-constant")
_QUANTIZATIONS: Final = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})


@dataclass(frozen=True, slots=True)
class ExecutedLayer:
    """A layer that the runtime executes and what it does of the authored model.

    Attributes:
        layer: the layer of the executed graph.
        authored: the authored layers that it covers, in their order; none for a change of layout.
        work: the sum of their work, None where that of one is not known. A layer that covers none has the work of
            moving its data, or None where it computes something that no authored layer was found for.
        own_work: the work of the executed layer by itself: its bytes are the traffic that fusion leaves. Where its
            operator is not known, the work of what it covers with that traffic, or None.
    """

    layer: Layer
    authored: tuple[Layer, ...]
    work: Work | None
    own_work: Work | None


def map_executed(authored: Graph, executed: Graph) -> list[ExecutedLayer]:
    """The executed layers in order, each with the authored layers that it covers. No authored layer is covered twice.

    An executed layer is anchored at authored layers: first by the names of its output tensors, then by the names that
    the runtime derives from tensors and nodes. From its anchors the authored graph is walked upstream to what the
    executed layer takes as inputs, and for fused additions and activations downstream. Layers that are left are those
    that the optimiser removed or merged: `folded_away` lists them.
    """
    return _Mapper(authored, executed).run()


def folded_away(authored: Graph, mapped: Iterable[ExecutedLayer]) -> tuple[Layer, ...]:
    """The authored layers that no executed layer covers: dead, merged with an equal one, or without effect."""
    covered = {layer.index for one in mapped for layer in one.authored}
    return tuple(layer for layer in authored.layers if layer.index not in covered)


@dataclass(slots=True)
class _Mapper:
    authored: Graph
    executed: Graph
    producer: dict[str, Layer] = field(default_factory=dict)  # authored tensor -> layer
    consumers: dict[str, list[Layer]] = field(default_factory=dict)
    by_name: dict[str, Layer] = field(default_factory=dict)
    anchors: dict[int, list[Layer]] = field(default_factory=dict)  # executed index -> authored
    anchored: dict[int, int] = field(default_factory=dict)  # authored index -> executed index
    owner: dict[int, int] = field(default_factory=dict)  # authored index -> executed index
    owned: dict[int, list[Layer]] = field(default_factory=dict)  # executed index -> authored
    meaning: dict[str, frozenset[str]] = field(default_factory=dict)  # executed tensor -> authored tensors

    def run(self) -> list[ExecutedLayer]:
        for layer in self.authored.layers:
            if layer.named:
                self.by_name.setdefault(layer.name, layer)
            for tensor in layer.outputs:
                self.producer[tensor.name] = layer
            for name in _activations(layer):
                self.consumers.setdefault(name, []).append(layer)
        self._find_anchors()
        for layer in self.executed.layers:
            self._cover(layer)
        return [self._result(layer) for layer in self.executed.layers]

    def _find_anchors(self) -> None:
        """Anchors by output name (through changes of layout, from the end), then by derived names."""
        alias: dict[str, str] = {}  # executed tensor -> the authored tensor that it becomes
        for layer in reversed(self.executed.layers):
            found = [alias.get(tensor.name, tensor.name) for tensor in layer.outputs]
            known = [self.producer[name] for name in found if name in self.producer]
            if known and self._only_passes(layer, known):
                source = next(iter(_activations(layer)), None)
                if source is not None and source not in self.producer:
                    alias[source] = found[0]
                continue
            self._anchor(layer, known)
        for layer in self.executed.layers:
            by_name = self._by_derived_name(layer)
            if by_name is not None:
                self._anchor(layer, [by_name])

    def _only_passes(self, layer: Layer, known: Sequence[Layer]) -> bool:
        """Whether a layer that moves data stands at the end of an authored layer that computes."""
        if not _moves(layer):
            return False
        return not any(_moves(one) for one in known)

    def _anchor(self, layer: Layer, found: Iterable[Layer]) -> None:
        mine = self.anchors.setdefault(layer.index, [])
        for one in found:
            if one.index not in self.anchored:
                self.anchored[one.index] = layer.index
                mine.append(one)

    def _by_derived_name(self, layer: Layer) -> Layer | None:
        blocked = _BLOCKED_NAME.match(layer.name)
        if blocked:
            tensor = blocked["tensor"]
            for name in (tensor, tensor.removesuffix("_bn"), tensor.removesuffix("_mul")):
                if name in self.producer:
                    return self.producer[name]
            return None
        if not layer.named:
            return None
        found = self.by_name.get(layer.name) or self.by_name.get(_FUSION_SUFFIX.sub("", layer.name))
        return found if found is not None and (found.op == layer.op or _holds(layer, found.op)) else None

    def _cover(self, layer: Layer) -> None:
        """Walks from the anchors of an executed layer up to its inputs, then down over what is fused behind."""
        inputs = frozenset().union(*(self._meaning_of(name) for name in _activations(layer)))
        cores = 0
        pending = deque((one, False) for one in self.anchors.get(layer.index, ()))
        while pending:
            one, past_core = pending.popleft()
            anchored = self.anchored.get(one.index)
            if one.index in self.owner or anchored not in (None, layer.index):
                continue
            if anchored is None and not _takes_in(layer, one, cores=cores, past_core=past_core):
                continue
            cores += one.op in _CORES
            self._own(layer, one)
            above = (self.producer.get(name) for name in _activations(one) if name not in inputs)
            pending.extend((found, past_core or one.op in _CORES) for found in above if found is not None)
        self._extend(layer)
        if not self.anchors.get(layer.index) and _moves(layer):
            for tensor in layer.outputs:
                self.meaning[tensor.name] = inputs

    def _own(self, layer: Layer, one: Layer) -> None:
        self.owner[one.index] = layer.index
        self.owned.setdefault(layer.index, []).append(one)

    def _extend(self, layer: Layer) -> None:
        """Takes in the addition and the activation that a product or convolution got fused behind it.

        The runtime fuses them after it gave the layer its name, so that only what the layer has tells of them.
        """
        mine = self.owned.get(layer.index)
        if not mine or not layer.outputs or layer.outputs[0].name in self.producer:
            return
        last = max(mine, key=lambda one: one.index)
        for ops in _fused_behind(layer, {one.op for one in mine}):
            following = [one for one in self._after(last) if one.op in ops]
            if len(following) != 1 or following[0].index in self.anchored or following[0].index in self.owner:
                continue
            last = following[0]
            self._own(layer, last)
        self.meaning[layer.outputs[0].name] = frozenset(tensor.name for tensor in last.outputs)

    def _after(self, layer: Layer) -> list[Layer]:
        return [one for tensor in layer.outputs for one in self.consumers.get(tensor.name, ())]

    def _meaning_of(self, name: str) -> frozenset[str]:
        """The authored tensors that an executed tensor stands for."""
        if name in self.producer:
            return frozenset({name})
        return self.meaning.get(name, frozenset())

    def _result(self, layer: Layer) -> ExecutedLayer:
        mine = tuple(sorted(self.owned.get(layer.index, ()), key=lambda one: one.index))
        own = work_of(layer)
        works = [work_of(one) for one in mine]
        known = [work for work in works if work is not None]
        if mine:
            work = total(known) if len(known) == len(works) else None
            own = own or _fused_work(layer, mine, work)
        else:
            work = own if own is not None and own.flops == 0 else None
        return ExecutedLayer(layer, mine, work, own)


def _fused_work(layer: Layer, covered: Sequence[Layer], work: Work | None) -> Work | None:
    """The work of an executed layer of an unknown operator: that of what it covers, without the traffic inside.

    Reads what the covered layers read of tensors that none of them makes (of a strided convolution or a lookup that is
    less than the whole tensor), no more than its own inputs hold, and writes its own outputs.
    """
    own = {tensor.name: tensor for tensor in layer.inputs if tensor is not None and tensor.role not in _STORED}
    sizes = [tensor.bytes for tensor in (*own.values(), *layer.outputs)]
    if work is None or None in sizes:
        return None
    made = {tensor.name for one in covered for tensor in one.outputs}
    inner = {(one.index, tensor.name): tensor for one in covered for tensor in one.inputs if tensor is not None}
    inside = sum(tensor.bytes or 0 for (_, name), tensor in inner.items() if name in made)
    read = min(sum(one.bytes or 0 for one in own.values()), max(0, work.bytes_read - inside))
    written = min(sum(one.bytes or 0 for one in layer.outputs), work.bytes_written)
    return dataclasses.replace(work, bytes_read=read, bytes_written=written)


def _activations(layer: Layer) -> list[str]:
    return [tensor.name for tensor in layer.inputs if tensor and tensor.role in ("input", "activation", "output")]


def _moves(layer: Layer) -> bool:
    """Whether a layer changes layout, shape or type only."""
    return (layer.domain, layer.op) in movement.FUNCTIONS


def _is_attention(layer: Layer) -> bool:
    """Whether it may hold several defining operations: an attention, or what OpenVINO's compiler fused."""
    return "Attention" in layer.op or layer.op == "Subgraph"


def _fused_behind(layer: Layer, covered: set[str]) -> list[frozenset[str]]:
    """The operators that the inputs and attributes of an executed layer tell of, and that are not covered yet."""
    wanted: list[frozenset[str]] = []
    convolution = "Conv" in layer.op
    bias = "Gemm" in layer.op and "Gemm" not in covered and len(layer.inputs) > 2 and layer.inputs[2] is not None
    addend = convolution and len(layer.inputs) > 3 and layer.inputs[3] is not None
    if (bias or addend) and not covered & _ADDITIONS:
        wanted.append(_ADDITIONS)
    activation = layer.attributes.get("activation")
    if activation and str(activation) not in covered:
        wanted.append(frozenset({str(activation)}))
    return wanted


def _takes_in(layer: Layer, one: Layer, *, cores: int, past_core: bool) -> bool:
    """Whether an executed layer may cover an authored layer that lies upstream of its anchors.

    What only moves data, anything may take in. A second defining operation goes into an attention only. Ahead of its
    defining operation a convolution, product or pool takes in scaling and quantisation, not other arithmetic: that
    belongs to a layer that was merged with an equal one.
    """
    if _moves(one):
        return True
    if _moves(layer):
        return False
    if _is_attention(layer):
        return one.op not in _CORES or _holds(layer, one.op)
    if one.op in _CORES:
        return not cores and _holds(layer, one.op)
    if past_core:
        return one.op in _QUANTIZATIONS or (one.op in _SCALINGS and _holds(layer, "MatMul"))
    return True


def _holds(layer: Layer, op: str) -> bool:
    """Whether an executed layer may contain an authored operator with a defining operation."""
    if layer.op == op or (_is_attention(layer) and (op in _PRODUCTS or op == "Softmax")):
        return True
    if op in _OTHER_NAMES.get(layer.op, ()):
        return True
    if op in _CONVOLUTIONS:
        return "Conv" in layer.op
    if op in _PRODUCTS:
        return "MatMul" in layer.op or "Gemm" in layer.op
    return op in _CORES and layer.op.endswith(op)
