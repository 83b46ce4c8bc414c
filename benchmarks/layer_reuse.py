"""How much benchmarking a filled performance database saves when models of a known family come in (Benanza, IPDPS'20).

    python benchmarks/layer_reuse.py [--markdown]

Fills an empty database with ResNet-18 to -152 v1 (He et al., arXiv 1512.03385: a bottleneck's stride is in its first
1x1 convolution), then adds ResNet-18 to -152 v2 (arXiv 1603.05027; stride in the 3x3 convolution, as they are
distributed). Each layer is measured with ONNX Runtime at two graph levels, one thread,
hot and with L2 flushed. What a model would have taken alone is the sum over its own unique layers of the time that
their measurement took. Benanza reports 75 % saved for adding ResNet*-v2.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

from onnx import ModelProto, TensorProto, helper

from stratoscope.graph.onnx_reader import read_graph
from stratoscope.graph.signature import signature
from stratoscope.host.capture import capture_hardware
from stratoscope.measure.parts import default_candidates, layer_parts
from stratoscope.measure.parts.fill import Group, ModelParts, Plan, Wanted, fill
from stratoscope.spec.performance import Environment
from stratoscope.store.performance import PerformanceDatabase

DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
WANTED = Wanted(libraries=("onnxruntime",))


class Builder:
    """An ONNX graph that grows at its end; weights have a shape and no data."""

    def __init__(self) -> None:
        self.nodes: list[object] = []
        self.weights: list[TensorProto] = []

    def weight(self, *shape: int) -> str:
        name = f"w{len(self.weights)}"
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        self.weights.append(tensor)
        return name

    def add(self, op: str, inputs: list[str], **attributes: object) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attributes))
        return name

    def conv(self, x: str, channels: int, filters: int, size: int, stride: int = 1) -> str:
        weight = self.weight(filters, channels, size, size)
        return self.add("Conv", [x, weight], strides=[stride] * 2, pads=[size // 2] * 4, kernel_shape=[size] * 2)

    def norm(self, x: str, channels: int) -> str:
        return self.add("BatchNormalization", [x, *(self.weight(channels) for _ in range(4))])

    def relu(self, x: str) -> str:
        return self.add("Relu", [x])


def resnet(depth: int, version: int) -> ModelProto:
    """ResNet of this depth for 224x224 images."""
    b = Builder()
    x = b.conv("image", 3, 64, 7, 2)
    x = b.relu(b.norm(x, 64))
    x = b.add("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    channels = 64
    for stage, blocks in enumerate(DEPTHS[depth]):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            width = 64 << stage
            outgoing = width if depth < 50 else 4 * width
            make = block_v1 if version == 1 else block_v2
            x = make(b, x, channels, width, outgoing, stride, bottleneck=depth >= 50)
            channels = outgoing
    if version == 2:
        x = b.relu(b.norm(x, channels))
    x = b.add("Flatten", [b.add("GlobalAveragePool", [x])])
    x = b.add("Gemm", [x, b.weight(1000, channels), b.weight(1000)], transB=1)
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 224, 224])]
    outputs = [helper.make_tensor_value_info(x, TensorProto.FLOAT, [1, 1000])]
    graph = helper.make_graph(b.nodes, f"resnet{depth}-v{version}", inputs, outputs, b.weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def convolutions(
    channels: int, width: int, outgoing: int, stride: int, bottleneck: bool, version: int
) -> Iterator[tuple[int, ...]]:
    """(channels, filters, size, stride) of the convolutions of a block."""
    if bottleneck:
        first, second = (stride, 1) if version == 1 else (1, stride)
        yield from ((channels, width, 1, first), (width, width, 3, second), (width, outgoing, 1, 1))
    else:
        yield from ((channels, width, 3, stride), (width, outgoing, 3, 1))


def block_v1(b: Builder, x: str, channels: int, width: int, outgoing: int, stride: int, *, bottleneck: bool) -> str:
    """Convolution, normalisation, activation; the sum is activated."""
    y = x
    sizes = list(convolutions(channels, width, outgoing, stride, bottleneck, 1))
    for number, size in enumerate(sizes):
        y = b.norm(b.conv(y, *size), size[1])
        y = b.relu(y) if number < len(sizes) - 1 else y
    if channels != outgoing or stride != 1:
        x = b.norm(b.conv(x, channels, outgoing, 1, stride), outgoing)
    return b.relu(b.add("Add", [y, x]))


def block_v2(b: Builder, x: str, channels: int, width: int, outgoing: int, stride: int, *, bottleneck: bool) -> str:
    """Normalisation and activation before each convolution; the sum is passed on as it is."""
    y = before = b.relu(b.norm(x, channels))
    for number, size in enumerate(convolutions(channels, width, outgoing, stride, bottleneck, 2)):
        y = b.conv(b.relu(b.norm(y, size[0])) if number else y, *size)
    if channels != outgoing or stride != 1:
        x = b.conv(before, channels, outgoing, 1, stride)
    return b.add("Add", [y, x])


def parts_of(model: ModelProto) -> ModelParts:
    """The unique layers of a model with the candidates of this benchmark."""
    graph = read_graph(model)
    uses: dict[str, int] = {}
    for layer in graph.layers:
        key = signature(layer)
        uses[key] = uses.get(key, 0) + 1
    group = Group(tuple(layer_parts(graph)), tuple(default_candidates("layer", WANTED.libraries)))
    return ModelParts(model.graph.name, uses, (group,))


def main() -> None:
    """Prints what each model would have taken alone, and what was measured."""
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--markdown", action="store_true", help="as a Markdown table")
    markdown = arguments.parse_args().markdown
    environment = Environment.of(capture_hardware())
    models = [parts_of(resnet(depth, version)) for version in (1, 2) for depth in DEPTHS]
    rows = []
    with tempfile.TemporaryDirectory() as folder, PerformanceDatabase(Path(folder) / "results.db") as database:
        for model in models:
            plan = Plan((model,), tuple(WANTED.protocols()))
            new = len({part.digest for part, _, _ in plan.missing(database, environment)})
            done = fill(plan, database, environment)
            keys = set(model.uses)
            alone = sum(one.duration_s for one in database.find(keys))
            rows.append((model.name, sum(model.uses.values()), len(keys), new, alone, done.seconds))
        union = {key for model in models[len(DEPTHS) :] for key in model.uses}
        once = sum(one.duration_s for one in database.find(union))
    head = ("model", "layers", "unique", "new", "alone", "measured", "saved")
    print(line(head, markdown))
    if markdown:
        print(line(["---"] + ["---:"] * 6, markdown))
    for name, layers, unique, new, alone, took in rows:
        saved = max(0.0, 1 - took / alone)
        print(line((name, layers, unique, new, f"{alone:.1f} s", f"{took:.1f} s", f"{saved:.0%}"), markdown))
    added = rows[len(DEPTHS) :]
    alone, took = sum(row[4] for row in added), sum(row[5] for row in added)
    print(f"\nadding the five v2 models: {took:.1f} s instead of {alone:.1f} s, {1 - took / alone:.0%} saved")
    print(f"of the {once:.1f} s that their layers take, each once, into an empty database: {1 - took / once:.0%} saved")
    if took > 0.25 * alone:
        raise SystemExit("less than 75 % was saved")


def line(cells: object, markdown: bool) -> str:
    """A row of the table."""
    words = [str(cell) for cell in cells]  # type: ignore[attr-defined]
    if markdown:
        return f"| {' | '.join(words)} |"
    return "  ".join([words[0].ljust(14), *(word.rjust(9) for word in words[1:])])


if __name__ == "__main__":
    main()
