"""Rewrites dense layers so that their weights lie in the file as the kernel reads them, and need no packing at load.

ONNX Runtime packs the constant matrix of a MatMul into panels of as many columns as a vector register holds, in private
memory, at every load. The weights of its blocked 1x1 convolution (`com.microsoft.nchwc`) have the same order in memory:
[N / b, K, b] for b columns a panel. So y = x W is written as that convolution over x taken as an image of
1 x M pixels with K channels, and its weights are used where they lie: in a file or a sealed memory that all share.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

NCHWC: Final = "com.microsoft.nchwc"
#: Smaller matrices stay as they are: a private copy of them costs less than the nodes around the convolution.
MIN_WEIGHT_BYTES: Final = 128 * 1024
_DENSE: Final = {("", "MatMul"), ("", "Gemm"), ("com.microsoft", "FusedGemm"), ("com.microsoft", "FusedMatMul")}
#: Activations that the blocked convolution applies itself.
_ACTIVATIONS: Final = ("Relu", "Tanh", "Sigmoid")
_ATTRIBUTES: Final = {"alpha", "beta", "transA", "transB", "transBatchA", "transBatchB", "activation"}


def block_size(folder: Path) -> int | None:
    """Channels of one block of the blocked convolution on this machine, or None where the runtime has none.

    Found by what the runtime does: it pads the single output channel of a small convolution to a whole block.
    """
    import onnxruntime

    weight = numpy_helper.from_array(np.ones((1, 64, 3, 3), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])],
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        path = Path(scratch) / "optimised.onnx"
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 4
        settings.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
        optimised = onnx.load(str(path))
    if not any(node.domain == NCHWC and node.op_type == "Conv" for node in optimised.graph.node):
        return None
    sizes = [tensor.dims[0] for tensor in optimised.graph.initializer if len(tensor.dims) == 4]
    return int(sizes[0]) if len(sizes) == 1 and sizes[0] > 1 else None


def to_panels(weight: np.ndarray, block: int) -> np.ndarray:
    """`weight` [K, N] in the order of the blocked convolution's filter, [N', K, 1, 1] with N' = N padded to blocks.

    In memory: [N' / block, K, block]. K must be a multiple of `block`.
    """
    depth, width = weight.shape
    padded = -(-width // block) * block
    if padded != width:
        weight = np.pad(weight, ((0, 0), (0, padded - width)))
    panels = weight.reshape(depth, padded // block, block).transpose(1, 0, 2)
    return np.ascontiguousarray(panels).reshape(padded, depth, 1, 1)


@dataclass(slots=True)
class _Layer:
    """A dense layer that can be rewritten: y = activation(alpha x W + bias), and the nodes that it replaces."""

    nodes: list[onnx.NodeProto]
    source: str
    output: str
    weight: str
    transposed: bool
    alpha: float
    bias: np.ndarray | None
    activation: str | None
    rank_two: bool


@dataclass(slots=True)
class _Rewriter:
    graph: onnx.GraphProto
    block: int
    constants: dict[str, TensorProto]
    consumers: dict[str, list[onnx.NodeProto]]
    fixed: frozenset[str]  # graph outputs, and what subgraphs read: names that must stay
    added: list[TensorProto] = field(default_factory=list)
    panels: dict[tuple[str, bool, float], tuple[str, int]] = field(default_factory=dict)
    blocked: dict[str, str] = field(default_factory=dict)  # tensor -> the same in blocks
    leading: dict[str, str] = field(default_factory=dict)  # output -> an earlier tensor that differs in the last size
    rewritten: int = 0


def rewrite_dense(model: onnx.ModelProto, block: int) -> int:
    """Rewrites, in place, what can be; returns how many layers were.

    `model` holds its weights. Rewritten are MatMul, Gemm, FusedGemm and FusedMatMul of the main graph with a constant
    float32 matrix of at least `MIN_WEIGHT_BYTES` whose rows are a multiple of `block`; a constant bias and an
    activation behind it are taken along. The result depends on this machine's vector width.
    """
    graph = model.graph
    inputs = {value.name for value in graph.input}
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    fixed = frozenset({value.name for value in graph.output} | set(_read_by_subgraphs(graph.node)))
    constants = {tensor.name: tensor for tensor in graph.initializer if tensor.name not in inputs}
    rewriter = _Rewriter(graph, block, constants, consumers, fixed)
    layers = {id(layer.nodes[0]): layer for node in graph.node if (layer := _layer_at(rewriter, node))}
    if not layers:
        return 0
    replaced = {id(node) for layer in layers.values() for node in layer.nodes}
    heads = {layer.source for layer in layers.values()}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if id(node) in layers:
            nodes.extend(_write(rewriter, layers[id(node)], heads))
        elif id(node) not in replaced:
            nodes.append(node)
    nodes = _without_dead(nodes, rewriter.fixed)
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(rewriter.added)
    used = {name for node in graph.node for name in node.input} | rewriter.fixed
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    if not any(entry.domain == NCHWC for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid(NCHWC, 1))
    return rewriter.rewritten


def _layer_at(rewriter: _Rewriter, node: onnx.NodeProto) -> _Layer | None:
    """The dense layer that begins with `node`, or None where it is none that can be rewritten exactly."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    if (domain, node.op_type) not in _DENSE or len(node.input) < 2:
        return None
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if set(attributes) - _ATTRIBUTES or any(attributes.get(n, 0) for n in ("transA", "transBatchA", "transBatchB")):
        return None
    weight = rewriter.constants.get(node.input[1])
    transposed = bool(attributes.get("transB", 0))
    if weight is None or weight.data_type != TensorProto.FLOAT or len(weight.dims) != 2:
        return None
    depth, width = reversed(weight.dims) if transposed else weight.dims
    if depth * width * 4 < MIN_WEIGHT_BYTES or depth % rewriter.block or node.input[0] in rewriter.constants:
        return None
    activation = attributes.get("activation", b"").decode() or None
    if activation is not None and activation not in _ACTIVATIONS:
        return None
    bias = None
    if len(node.input) > 2 and node.input[2]:
        bias = _bias(rewriter, node.input[2], width)
        if bias is None:
            return None
        bias = bias * np.float32(attributes.get("beta", 1.0))
    layer = _Layer(
        [node],
        node.input[0],
        node.output[0],
        node.input[1],
        transposed,
        float(attributes.get("alpha", 1.0)),
        bias,
        activation,
        node.op_type in ("Gemm", "FusedGemm"),
    )
    _take_along(rewriter, layer, width)
    return layer


def _take_along(rewriter: _Rewriter, layer: _Layer, width: int) -> None:
    """Adds the bias and the activation behind the layer to it, where nothing else reads what lies between."""
    follower = _only_consumer(rewriter, layer.output)
    if follower is not None and follower.op_type == "Add" and layer.bias is None and layer.activation is None:
        other = follower.input[1] if follower.input[0] == layer.output else follower.input[0]
        bias = _bias(rewriter, other, width)
        if bias is not None and other != layer.output:
            layer.bias, layer.output = bias, follower.output[0]
            layer.nodes.append(follower)
            follower = _only_consumer(rewriter, layer.output)
    if follower is not None and follower.op_type in _ACTIVATIONS and not follower.domain and layer.activation is None:
        layer.activation, layer.output = follower.op_type, follower.output[0]
        layer.nodes.append(follower)


def _only_consumer(rewriter: _Rewriter, name: str) -> onnx.NodeProto | None:
    readers = rewriter.consumers.get(name, [])
    return readers[0] if len(readers) == 1 and name not in rewriter.fixed else None


def _bias(rewriter: _Rewriter, name: str, width: int) -> np.ndarray | None:
    """The constant `name` as one value a column, or None where it is something else."""
    tensor = rewriter.constants.get(name)
    if tensor is None or tensor.data_type != TensorProto.FLOAT:
        return None
    shape = tuple(tensor.dims)
    if shape not in ((width,), (1, width), (), (1,), (1, 1)):
        return None
    return np.broadcast_to(numpy_helper.to_array(tensor).reshape(-1), (width,)).astype(np.float32)


def _write(rewriter: _Rewriter, layer: _Layer, heads: Iterable[str]) -> list[onnx.NodeProto]:
    """The nodes that stand for `layer`."""
    stem = f"{layer.output}/shared"
    filter_name, width = _panels(rewriter, layer)
    depth = rewriter.constants[layer.weight].dims[1 if layer.transposed else 0]
    nodes: list[onnx.NodeProto] = []
    source = rewriter.blocked.get(layer.source)
    if source is None:
        source = rewriter.blocked[layer.source] = f"{layer.source}/blocked"
        image = f"{layer.source}/image"
        nodes.append(helper.make_node("Reshape", [layer.source, _shape(rewriter, (1, 1, -1, depth))], [image]))
        nodes.append(helper.make_node("ReorderInput", [image], [source], domain=NCHWC, channels_last=1))
    names = [source, filter_name]
    if layer.bias is not None:
        padded = np.zeros(-(-width // rewriter.block) * rewriter.block, np.float32)
        padded[:width] = layer.bias
        names.append(_add(rewriter, f"{stem}/bias", padded))
    blocked = f"{layer.output}/blocked"
    unit = {"kernel_shape": [1, 1], "strides": [1, 1], "dilations": [1, 1], "pads": [0, 0, 0, 0], "group": 1}
    extra: dict[str, Any] = {} if layer.activation is None else {"activation": layer.activation}
    first = layer.nodes[0]
    nodes.append(helper.make_node("Conv", names, [blocked], name=first.name or stem, domain=NCHWC, **unit, **extra))
    if layer.output in heads and width % rewriter.block == 0:
        rewriter.blocked[layer.output] = blocked
    image = f"{stem}/image"
    nodes.append(helper.make_node("ReorderOutput", [blocked], [image], domain=NCHWC, channels=width, channels_last=1))
    nodes.extend(_shaped_like(rewriter, layer, image, width, stem))
    rewriter.rewritten += 1
    return nodes


def _shaped_like(rewriter: _Rewriter, layer: _Layer, image: str, width: int, stem: str) -> list[onnx.NodeProto]:
    """Nodes that give `image` the shape of the layer's input with `width` as the last dimension."""
    if layer.rank_two:
        return [helper.make_node("Reshape", [image, _shape(rewriter, (-1, width))], [layer.output])]
    origin = rewriter.leading[layer.output] = rewriter.leading.get(layer.source, layer.source)
    shape, head, whole = f"{stem}/shape", f"{stem}/head", f"{stem}/whole"
    start, end = _shape(rewriter, (0,)), _shape(rewriter, (-1,))
    return [
        helper.make_node("Shape", [origin], [shape]),
        helper.make_node("Slice", [shape, start, end], [head]),
        helper.make_node("Concat", [head, _shape(rewriter, (width,))], [whole], axis=0),
        helper.make_node("Reshape", [image, whole], [layer.output]),
    ]


def _panels(rewriter: _Rewriter, layer: _Layer) -> tuple[str, int]:
    """The name of the layer's filter, made once a weight, and its columns before padding."""
    key = (layer.weight, layer.transposed, layer.alpha)
    if key not in rewriter.panels:
        weight = numpy_helper.to_array(rewriter.constants[layer.weight])
        weight = weight.T if layer.transposed else weight
        if layer.alpha != 1.0:
            weight = weight * np.float32(layer.alpha)
        name = f"{layer.weight}/panels{len(rewriter.panels)}"
        rewriter.panels[key] = (_add(rewriter, name, to_panels(weight, rewriter.block)), weight.shape[1])
    return rewriter.panels[key]


def _shape(rewriter: _Rewriter, values: tuple[int, ...]) -> str:
    name = "shared/" + "x".join(map(str, values))
    if all(tensor.name != name for tensor in rewriter.added):
        _add(rewriter, name, np.array(values, np.int64))
    return name


def _add(rewriter: _Rewriter, name: str, values: np.ndarray) -> str:
    rewriter.added.append(numpy_helper.from_array(values, name))
    return name


def _without_dead(nodes: list[onnx.NodeProto], outputs: frozenset[str]) -> list[onnx.NodeProto]:
    """`nodes`, in order, without those whose results nobody reads: the way out of blocks between two dense layers."""
    wanted = set(outputs)
    kept = []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(node.input)
            wanted.update(_read_by_subgraphs([node]))
    return kept[::-1]


def _read_by_subgraphs(nodes: Iterable[onnx.NodeProto]) -> Iterable[str]:
    """Every name that graphs inside nodes (bodies of If, Loop, Scan) may read from outside."""
    for node in nodes:
        for attribute in node.attribute:
            graphs = [attribute.g] if attribute.HasField("g") else list(attribute.graphs)
            for graph in graphs:
                for inner in graph.node:
                    yield from inner.input
                yield from (value.name for value in graph.output)
                yield from _read_by_subgraphs(graph.node)
