"""Holds our operation and parameter counts against those of onnx-tool, model by model and operator by operator.

    python benchmarks/work_model.py [MODEL ...] [--operators]

MODEL is an ONNX file or a name of the zoo; without one, the nine light models of the onnx package. Printed as Markdown:
multiply-adds of convolutions and matrix products and parameters, ours, theirs and the ratio; with --operators the other
operations of each operator. Needs onnx-tool.

onnx-tool gets a copy of the model in which weights are zeros, what nodes compute of constants and shapes is stored (it
does not count weights that nodes make, and fails on some arithmetic on shapes), and IsNaN is replaced by Not, which
costs the same: it has no rule for IsNaN.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_tool
from onnx import ModelProto, TensorProto, helper, numpy_helper

from stratoscope.graph.element_types import stored_bytes, type_code, type_name
from stratoscope.graph.ir import Graph
from stratoscope.graph.onnx_file import load_onnx
from stratoscope.graph.onnx_reader import read_graph
from stratoscope.graph.summary import summarize
from stratoscope.graph.work import work_of

LIGHT = Path(onnx.__path__[0]) / "backend" / "test" / "data" / "light"
#: Operators that onnx-tool and we count in multiply-adds.
CONSTANT = ("weight", "shape-constant")
PRODUCTS = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm"})


@dataclass(frozen=True, slots=True)
class Count:
    """What one tool says of a model: multiply-adds in products, other operations by operator, parameters."""

    macs: int
    others: Mapping[str, int]
    parameters: int


def ours(graph: Graph) -> Count:
    """Our counts; raises SystemExit where a layer's work is not known, since sums would not compare."""
    macs, others = 0, defaultdict[str, int](int)
    for layer in graph.layers:
        work = work_of(layer)
        if work is None:
            raise SystemExit(f"the work of {layer.op} {layer.name!r} is not known")
        macs += work.macs
        others[layer.op] += work.flops - 2 * work.macs
    return Count(macs, others, int(summarize(graph).parameters.require()))


def theirs(model: ModelProto, graph: Graph) -> Count:
    """onnx-tool's counts. It books the bias of a convolution or Gemm as a multiply-add an output: taken out here."""
    with contextlib.redirect_stdout(io.StringIO()):
        peer = onnx_tool.Model(_for_peer(model, graph))
        peer.graph.shape_infer(None)
        peer.graph.profile()
    macs, others = 0, defaultdict[str, int](int)
    for node in peer.graph.nodemap.values():
        if node.op_type in PRODUCTS:
            macs += int(node.macs[0])
        else:
            others[node.op_type] += int(node.macs[0])
    biases = 0
    for layer in graph.layers:
        if layer.op in PRODUCTS and len(layer.inputs) > 2 and layer.inputs[2] is not None:
            biases += math.prod(int(size) for size in layer.outputs[0].shape or ())
    others["bias"] = biases
    return Count(macs - biases, others, int(peer.graph.params))


def _for_peer(model: ModelProto, graph: Graph) -> ModelProto:
    """The model as onnx-tool can read it."""
    copy = ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            _fill_with_zeros(tensor)
    stored = {tensor.name for tensor in copy.graph.initializer}
    constants = {one.name: one for layer in graph.layers for one in layer.inputs if one and one.role in CONSTANT}
    for tensor in constants.values():
        made_of_weights = tensor.value is None and any(source in stored for source in tensor.sources)
        if tensor.name in stored or made_of_weights:
            continue  # onnx-tool counts the weights that are stored
        constant = TensorProto(name=tensor.name, data_type=type_code(tensor.element_type), dims=tensor.shape)
        _fill_with_zeros(constant)
        if tensor.value is not None:
            shape = tuple(int(size) for size in tensor.shape or ())
            constant.CopyFrom(
                numpy_helper.from_array(np.array(tensor.value, tensor.element_type).reshape(shape), tensor.name)
            )
        copy.graph.initializer.append(constant)
        copy.graph.node.remove(next(node for node in copy.graph.node if tensor.name in node.output))
    for node in copy.graph.node:
        if node.op_type == "IsNaN":
            node.op_type = "Not"
    known = {tensor.name for tensor in graph.inputs}
    for value in copy.graph.input:
        if value.name in known:
            shape = next(tensor.shape for tensor in graph.inputs if tensor.name == value.name)
            value.CopyFrom(helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, shape))
    _drop_unused(copy)
    return copy


def _drop_unused(model: ModelProto) -> None:
    """Removes what only made the weights that are stored now."""
    outputs = {value.name for value in model.graph.output}
    while True:
        needed = outputs | {name for node in model.graph.node for name in node.input}
        dead = [node for node in model.graph.node if not needed.intersection(node.output)]
        for node in dead:
            model.graph.node.remove(node)
        for tensor in [tensor for tensor in model.graph.initializer if tensor.name not in needed]:
            model.graph.initializer.remove(tensor)
        if not dead:
            return


def _fill_with_zeros(tensor: TensorProto) -> None:
    size = stored_bytes(type_name(tensor.data_type), math.prod(tensor.dims))
    if size is None:
        raise SystemExit(f"tensor {tensor.name!r} has no fixed size")
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")
    tensor.raw_data = bytes(size)


def _graphs(names: Iterable[str]) -> Iterable[tuple[str, Path, Graph]]:
    """Name, file and graph of each model; those of the zoo with their inputs' shapes at batch size 1."""
    for name in names:
        if Path(name).suffix == ".onnx":
            yield Path(name).stem, Path(name), read_graph(name)
        else:
            from stratoscope.models.resolve import resolve

            model = resolve(name)
            if model.path is None:
                raise SystemExit(f"{name} has no ONNX file")
            shapes = {one.name: tuple(int(size) for size in one.shape) for one in model.manifest.inputs}
            yield name, model.path, read_graph(model.path, shapes)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--operators", action="store_true", help="the other operations of each operator too")
    arguments = parser.parse_args()
    names = arguments.models or [str(path) for path in sorted(LIGHT.glob("*.onnx"))]
    print("| model | MMAC ours | MMAC onnx-tool | ratio | parameters ours | onnx-tool | ratio | MFLOP ours, all |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    tables: list[str] = []
    for name, path, graph in _graphs(names):
        mine, peer = ours(graph), theirs(load_onnx(path), graph)
        flops = 2 * mine.macs + sum(mine.others.values())
        print(
            f"| {name.removeprefix('light_')} | {mine.macs / 1e6:.3f} | {peer.macs / 1e6:.3f} "
            f"| {mine.macs / peer.macs:.4f} | {mine.parameters:,} | {peer.parameters:,} "
            f"| {mine.parameters / peer.parameters:.4f} | {flops / 1e6:.2f} |"
        )
        tables += _operators(name, mine, peer)
    if arguments.operators:
        print("\n| model | operator | operations ours | onnx-tool's MACs | ratio |")
        print("|---|---|--:|--:|--:|")
        print("\n".join(tables))


def _operators(name: str, mine: Count, peer: Count) -> list[str]:
    rows = []
    for op in sorted(mine.others.keys() | peer.others.keys()):
        if op in PRODUCTS or op == "bias":
            continue
        one, other = mine.others.get(op, 0), peer.others.get("Not" if op == "IsNaN" else op, 0)
        if one or other:
            ratio = f"{one / other:.3f}" if other else "-"
            rows.append(f"| {name.removeprefix('light_')} | {op} | {one:,} | {other:,} | {ratio} |")
    return rows


if __name__ == "__main__":
    main()
