"""Give a graph without weights its weights: seeded, of trained magnitude, the same bits on every machine.

The `light_*` graphs of the onnx package are well-known trained networks whose weights were replaced by constants (0.02)
to make the files small. Constant weights distort latency: activations become constant or denormal. Here each parameter
is drawn from a seeded generator; the graph is otherwise left as its authors exported it, moved to a current operator
set, with a free batch dimension.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper, shape_inference, version_converter

from stratoscope.errors import ModelError

OPSET = 18
IR_VERSION = 8  # the lowest that goes with opset 18
BATCH = "N"

_LANES = np.uint64(0x0000_FFFF_0000_FFFF)
_STEPS_PER_SIGMA = 2 * math.sqrt(4 * (2**32 - 1) / 12)  # twice the deviation of a sum of four uniform 16-bit integers
_CHUNK = 1 << 20
_SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)
_MAX_POOL_GAIN = 2.0  # independent values: 3 for a window of 4, 5 for one of 9; neighbours are correlated
_SPREAD = 0.05  # of parameters that sit near a constant: biases near 0, scales and variances near 1


def light_folder() -> Path:
    """The folder of the weightless graphs in the installed onnx package; raises ModelError where it is missing."""
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    if not folder.is_dir():
        raise ModelError(
            f"the installed onnx package {onnx.__version__} has no folder {folder}",
            hint="reinstall it: pip install --force-reinstall onnx",
        )
    return folder


def materialize_light(source: str, seed: int) -> onnx.ModelProto:
    """The light graph `source` (a file name) with weights drawn from `seed` and a free batch dimension."""
    path = light_folder() / source
    if not path.is_file():
        raise ModelError(
            f"the installed onnx package {onnx.__version__} does not carry {source}",
            hint="install another onnx release, for example 1.23",
        )
    model = modernize(onnx.load(str(path)))
    free_batch(model)
    verify_batch(model)
    fill_weights(model, seed)
    return model


def modernize(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph in opset 18: initializers are no inputs, unused ones are gone, `Constant` nodes are initializers.

    Softmax up to opset 12 works on the input flattened to two dimensions at `axis`; where all dimensions behind `axis`
    are 1, that is softmax along `axis`, and it is written so instead of as the converter's Flatten-Softmax-Reshape.
    """
    model = onnx.ModelProto.FromString(model.SerializeToString())
    graph = model.graph
    used = {name for node in graph.node for name in node.input}
    held = {tensor.name for tensor in graph.initializer}
    _keep(graph.input, lambda value: value.name not in held)
    _keep(graph.initializer, lambda tensor: tensor.name in used)
    model.ir_version = IR_VERSION
    shapes = _inferred_shapes(model)
    parked: dict[str, int] = {}
    for node in graph.node:
        if node.op_type == "Softmax":
            parked[node.output[0]] = _softmax_axis(node, shapes)
            del node.attribute[:]
            node.op_type = "Identity"
    model = version_converter.convert_version(model, OPSET)
    model.ir_version = IR_VERSION
    for node in model.graph.node:
        if node.output[0] in parked:
            node.op_type = "Softmax"
            node.attribute.append(onnx.helper.make_attribute("axis", parked[node.output[0]]))
    _constants_to_initializers(model.graph)
    return model


def free_batch(model: onnx.ModelProto) -> None:
    """Makes dimension 0 of inputs and outputs the symbol `N`, in place; constant targets of Reshape copy it."""
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    activations = {value.name for value in graph.input}
    for node in graph.node:
        if not activations.intersection(node.input):
            continue
        activations.update(node.output)
        if node.op_type != "Reshape":
            continue
        target = constants[node.input[1]]
        values = numpy_helper.to_array(target).copy()
        if values[0] != 1:
            raise ModelError(f"Reshape {node.output[0]!r} folds the batch into {values.tolist()}: it cannot be freed")
        values[0] = 0  # "copy from the input"
        target.CopyFrom(numpy_helper.from_array(values, target.name))
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = BATCH


def verify_batch(model: onnx.ModelProto) -> None:
    """Raises ModelError unless shape inference carries a batch of 1 and of 3 from the inputs to every output."""
    for batch in (1, 3):
        trial = onnx.ModelProto.FromString(model.SerializeToString())
        for value in trial.graph.input:
            value.type.tensor_type.shape.dim[0].dim_value = batch
        for value in trial.graph.output:
            value.type.tensor_type.shape.dim[0].ClearField("dim_param")
        shapes = _inferred_shapes(trial)
        for value in trial.graph.output:
            if not shapes[value.name] or shapes[value.name][0] != batch:
                raise ModelError(f"output {value.name!r} has shape {shapes[value.name]} at batch size {batch}")


def fill_weights(model: onnx.ModelProto, seed: int) -> None:
    """Replaces every float parameter, in place, by seeded values of the magnitude that training would leave.

    Weights of Conv and Gemm are normal with deviation 1/sqrt(fan-in x E[x^2] of the input): behind a ReLU that is
    He et al. 2015 (Delving Deep into Rectifiers, eq. 10). E[x^2] is carried through the graph by `second_moments`, so
    activations keep unit size through residual sums and pooling too. Biases and means are near 0, scales and variances
    near 1. All parameters are replaced, also the few trained ones that the light graphs kept: they belong to weights
    which are no longer there.
    """
    graph = model.graph
    moments = second_moments(graph)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    filled = {n.output[0]: n for n in graph.node if n.op_type == "ConstantOfShape" and n.input[0] in constants}
    shapes = {name: tuple(numpy_helper.to_array(constants[node.input[0]]).tolist()) for name, node in filled.items()}
    shapes |= {t.name: tuple(t.dims) for t in graph.initializer if t.dims and t.data_type == onnx.TensorProto.FLOAT}
    _keep(graph.node, lambda node: node.output[0] not in filled)
    uses = _uses(graph)
    fresh = []
    for name in sorted(shapes):
        values = draw(name, shapes[name], seed, *_distribution(name, shapes[name], uses, moments))
        _check_values(name, values)
        fresh.append(numpy_helper.from_array(values, name))
    used = {name for node in graph.node for name in node.input}
    _keep(graph.initializer, lambda tensor: tensor.name in used and tensor.name not in shapes)
    graph.initializer.extend(fresh)


def draw(name: str, shape: tuple[int, ...], seed: int, mean: float, deviation: float) -> np.ndarray:
    """Seeded float32 values [shape], close to normal (the sum of four uniform variates, within 3.5 deviations).

    The stream depends on (seed, name) only. The values come from the PCG64 bit stream, whose stability NumPy
    guarantees, by integer arithmetic and one IEEE multiplication: the same bits on every machine and NumPy version.
    """
    key = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    bits = np.random.PCG64(int.from_bytes(key[:16], "little"))
    values = np.empty(math.prod(shape), np.float32)
    scale = np.float32(deviation / _STEPS_PER_SIGMA)
    for start in range(0, values.size, _CHUNK):
        count = min(_CHUNK, values.size - start)
        raw = bits.random_raw(count)
        pairs = (raw & _LANES) + ((raw >> np.uint64(16)) & _LANES)
        lanes = pairs.view(np.uint32)
        total = (lanes[0::2] + lanes[1::2]).astype(np.int32)
        # Odd integers, symmetric about zero: no value is exactly 0, and none is below `scale`.
        values[start : start + count] = (2 * total - (4 * 65535 + 1)).astype(np.float32) * scale
    return (values + np.float32(mean)).reshape(shape) if mean else values.reshape(shape)


def second_moments(graph: onnx.GraphProto) -> Mapping[str, float]:
    """An estimate of E[x^2] for every activation, given inputs of unit size and the weights of `fill_weights`.

    Each activation is taken as the sum of a part that is symmetric about zero and a part that is never negative; ReLU
    halves the first and leaves the second (the skip connection of a residual block is the second). Layers with weights
    give 1, all symmetric, by construction; a sum of branches adds. Max pooling over k values is taken to multiply by
    `_MAX_POOL_GAIN`. Good to a small factor, which is all that is needed to keep activations far from overflow and
    denormals.
    """
    symmetric = {value.name: 1.0 for value in graph.input}
    positive = {value.name: 0.0 for value in graph.input}
    for node in graph.node:
        known = [name for name in node.input if name in symmetric]
        if not known:
            continue
        share = 1.0 if node.op_type == "Sum" else 1 / len(known)
        even, above = share * sum(symmetric[n] for n in known), share * sum(positive[n] for n in known)
        if node.op_type in ("Conv", "Gemm"):
            even, above = 1.0, 0.0
        elif node.op_type == "Relu":
            even, above = 0.0, above + even / 2
        elif node.op_type == "MaxPool":
            even, above = 0.0, _MAX_POOL_GAIN * (even + above)
        symmetric |= dict.fromkeys(node.output, even)
        positive |= dict.fromkeys(node.output, above)
    return {name: even + positive[name] for name, even in symmetric.items()}


def _distribution(
    name: str, shape: tuple[int, ...], uses: Mapping[str, tuple[onnx.NodeProto, int]], moments: Mapping[str, float]
) -> tuple[float, float]:
    """(mean, deviation) of the parameter `name`, by the place where it is used."""
    node, place = uses[name]
    while node.op_type in ("Unsqueeze", "Reshape"):  # a parameter brought into shape before its use
        node, place = uses[node.output[0]]
    kind = (node.op_type, place)
    if kind in (("Conv", 1), ("Gemm", 1)):
        rows_first = _attribute(node, "transB", 0)  # Gemm: [out, in]; Inception v1 keeps it as [1, 1, out, in]
        fan_in = math.prod(shape[1:]) if node.op_type == "Conv" else shape[-1] if rows_first else shape[-2]
        return 0.0, 1 / math.sqrt(fan_in * moments[node.input[0]])
    if kind in (("Conv", 2), ("Gemm", 2), ("BatchNormalization", 2), ("BatchNormalization", 3), ("Add", 1)):
        return 0.0, _SPREAD
    if kind in (("BatchNormalization", 1), ("BatchNormalization", 4), ("Mul", 1)):
        return 1.0, _SPREAD
    raise ModelError(f"no distribution is known for parameter {name!r}, input {place} of {node.op_type}")


def _check_values(name: str, values: np.ndarray) -> None:
    magnitude = np.abs(values)
    smallest, largest = float(magnitude.min()), float(magnitude.max())
    if not math.isfinite(largest) or smallest < _SMALLEST_NORMAL:
        raise ModelError(f"parameter {name!r} has values that are zero, denormal or not finite")
    if values.size > 1 and float(values.min()) == float(values.max()):
        raise ModelError(f"parameter {name!r} is constant")


def _uses(graph: onnx.GraphProto) -> dict[str, tuple[onnx.NodeProto, int]]:
    return {name: (node, place) for node in graph.node for place, name in enumerate(node.input) if name}


def _softmax_axis(node: onnx.NodeProto, shapes: Mapping[str, tuple[int | None, ...]]) -> int:
    axis = int(_attribute(node, "axis", 1))
    shape = shapes[node.input[0]]
    if any(size != 1 for size in shape[axis + 1 :]):
        raise ModelError(f"Softmax {node.output[0]!r} over the flattened shape {shape} has no single axis")
    return axis


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    return next((onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def _inferred_shapes(model: onnx.ModelProto) -> dict[str, tuple[int | None, ...]]:
    graph = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    return {
        value.name: tuple(
            dim.dim_value if dim.HasField("dim_value") else None for dim in value.type.tensor_type.shape.dim
        )
        for value in (*graph.input, *graph.value_info, *graph.output)
    }


def _constants_to_initializers(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        if node.op_type == "Constant":
            tensor = onnx.TensorProto()
            tensor.CopyFrom(_attribute(node, "value", None))
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
    _keep(graph.node, lambda node: node.op_type != "Constant")


def _keep(repeated: Any, wanted: Callable[[Any], bool]) -> None:
    """Filters a repeated protobuf field in place."""
    kept = [item for item in repeated if wanted(item)]
    del repeated[:]
    repeated.extend(kept)
