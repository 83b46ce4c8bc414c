"""The key of a layer: equal for layers that do the same work on other weights, different for all others."""

from __future__ import annotations

from typing import Any, Final

from stratoscope.graph.canonical import canonical_attributes, canonical_setting, window_geometry
from stratoscope.graph.element_types import short_name
from stratoscope.graph.ir import Layer, Shape, Tensor
from stratoscope.spec.base import digest_of

_SCHEMA: Final = "stratoscope/layer/1"
_SHORT_OPS: Final = {
    "BatchNormalization": "batchnorm",
    "LayerNormalization": "layernorm",
    "ConvTranspose": "convtranspose",
}


def signature(layer: Layer) -> str:
    """`sha256:` and the digest of what the layer is.

    In it: operator and the version of its definition, attributes in canonical form, role, type and shape of each input
    (None where omitted), the numbers of settings, type and shape of each output, and which inputs are the same tensor.
    Not in it: names and the values of weights. The batch is part of the shapes.
    """
    return digest_of(layer_key(layer))


def layer_key(layer: Layer) -> dict[str, Any]:
    """What `signature` digests, ready for JSON."""
    first_use: dict[str, int] = {}
    for position, tensor in enumerate(layer.inputs):
        if tensor is not None:
            first_use.setdefault(tensor.name, position)
    return {
        "schema": _SCHEMA,
        "domain": layer.domain,
        "op": layer.op,
        "since": layer.since,
        "attributes": canonical_attributes(layer),
        "inputs": [None if one is None else _input_key(layer, one, first_use[one.name]) for one in layer.inputs],
        "outputs": [[tensor.element_type, _shape_key(tensor.shape)] for tensor in layer.outputs],
    }


def _input_key(layer: Layer, tensor: Tensor, first_use: int) -> list[Any]:
    role = "activation" if tensor.role in ("input", "output") else tensor.role
    return [role, tensor.element_type, _shape_key(tensor.shape), canonical_setting(layer, tensor), first_use]


def _shape_key(shape: Shape | None) -> list[int | str] | None:
    return None if shape is None else list(shape)


def slug(layer: Layer) -> str:
    """A layer in one readable word: conv_3x3s1p1_64-64_56x56_f32, gemm_1x2048x1000_f32, relu_1x64x56x56_f32.

    Convolutions and pools: kernel, stride, pad (dilation and groups where not 1), channels in and out, spatial input;
    matrix products: rows, inner size, columns; others: the shape of the first input. Not unique: `signature` is.
    """
    kind = short_name(layer.outputs[0].element_type if layer.outputs else None)
    name = _SHORT_OPS.get(layer.op, layer.op.lower())
    geometry = window_geometry(layer)
    if geometry is not None:
        return "_".join((name, *_window_words(layer, geometry), kind))
    product = _product_word(layer)
    return "_".join((name, product or _shape_word(layer), kind))


def _window_words(layer: Layer, geometry: tuple[tuple[int, ...], ...]) -> list[str]:
    kernel, strides, dilations, pads = geometry
    data, out = layer.inputs[0], layer.outputs[0]
    window = f"{_by(kernel)}s{_same(strides)}p{_same(pads)}"
    if set(dilations) != {1}:
        window += f"d{_same(dilations)}"
    groups = layer.attributes.get("group", 1)
    if groups != 1:
        window += f"g{groups}"
    if data is None or data.shape is None or out.shape is None:
        return [window]
    last = "Nhwc" in layer.op or layer.domain.endswith("nhwc")
    channel, spatial = (-1, data.shape[1:-1]) if last else (1, data.shape[2:])
    words = [window, f"{data.shape[channel]}-{out.shape[channel]}", _by(spatial)]
    return words if data.shape[0] == 1 else [f"n{data.shape[0]}", *words]


def _product_word(layer: Layer) -> str | None:
    left = layer.inputs[0].shape if layer.inputs and layer.inputs[0] else None
    out = layer.outputs[0].shape if layer.outputs else None
    if layer.op not in ("Gemm", "MatMul", "FusedMatMul", "FusedGemm", "MatMulInteger") or not left or not out:
        return None
    transposed = layer.attributes.get("transA") and len(left) > 1
    inner = left[-2] if transposed else left[-1]
    return _by((*out[:-1], inner, out[-1]))


def _shape_word(layer: Layer) -> str:
    tensor = next((one for one in (*layer.inputs, *layer.outputs) if one is not None), None)
    if tensor is None or tensor.shape is None:
        return "unknown"
    return _by(tensor.shape) or "scalar"


def _by(sizes: Shape | tuple[int, ...]) -> str:
    return "x".join(str(size) for size in sizes)


def _same(values: tuple[int, ...]) -> str:
    """One number where all are equal."""
    return str(values[0]) if len(set(values)) == 1 else _by(values)
