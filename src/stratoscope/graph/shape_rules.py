"""Output types and shapes of operators that the onnx package does not define: ONNX Runtime's fused and blocked ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from stratoscope.graph.geometry import sliding
from stratoscope.graph.ir import Shape
from stratoscope.graph.onnx_types import Typed

NCHWC: Final = "com.microsoft.nchwc"
MICROSOFT: Final = "com.microsoft"


Inputs = Sequence[Typed | None]
Rule = Callable[[Inputs, Mapping[str, Any]], Sequence[Typed]]


def infer(domain: str, op: str, inputs: Inputs, attributes: Mapping[str, Any]) -> Sequence[Typed]:
    """The outputs that can be told, in order; empty where there is no rule or the inputs' shapes are not known."""
    rule = _RULES.get((domain, op))
    if rule is None:
        return ()
    try:
        return rule(inputs, attributes)
    except (_Missing, IndexError, TypeError, ValueError):  # a shape is missing, symbolic, or not what the rule expects
        return ()


class _Missing(Exception):
    """An input that the rule needs has no known shape."""


def _shape(inputs: Inputs, position: int) -> Shape:
    tensor = inputs[position] if position < len(inputs) else None
    if tensor is None or tensor.shape is None:
        raise _Missing
    return tensor.shape


def _type(inputs: Inputs, position: int) -> str | None:
    tensor = inputs[position] if position < len(inputs) else None
    return tensor.element_type if tensor else None


def _sizes(dims: Shape) -> tuple[int, ...]:
    return tuple(int(dim) for dim in dims)


def same_as(position: int, outputs: int = 1, element_type_of: int | None = None) -> Rule:
    """Every output has the shape of one input."""

    def rule(inputs: Inputs, attributes: Mapping[str, Any]) -> Sequence[Typed]:
        kind = _type(inputs, position if element_type_of is None else element_type_of)
        return (Typed(kind, _shape(inputs, position)),) * outputs

    return rule


def _broadcast(one: Shape, other: Shape) -> Shape:
    rank = max(len(one), len(other))
    pairs = zip((1,) * (rank - len(one)) + tuple(one), (1,) * (rank - len(other)) + tuple(other), strict=True)
    return tuple(right if left == 1 else left for left, right in pairs)


def _broadcast_of(first: int, second: int) -> Rule:
    def rule(inputs: Inputs, attributes: Mapping[str, Any]) -> Sequence[Typed]:
        return (Typed(_type(inputs, first), _broadcast(_shape(inputs, first), _shape(inputs, second))),)

    return rule


def _matmul(inputs: Inputs, attributes: Mapping[str, Any]) -> Sequence[Typed]:
    return (Typed(_type(inputs, 0), matmul_shape(_shape(inputs, 0), _shape(inputs, 1), attributes)),)


def matmul_shape(left: Shape, right: Shape, attributes: Mapping[str, Any]) -> Shape:
    """The shape of a batched product with FusedMatMul's transpositions (transA, transB, transBatchA, transBatchB)."""
    left, right = _untransposed(left, attributes, "A"), _untransposed(right, attributes, "B")
    if len(left) == 1:
        return (*right[:-2], right[-1]) if len(right) > 1 else ()
    if len(right) == 1:
        return left[:-1]
    return (*_broadcast(left[:-2], right[:-2]), left[-2], right[-1])


def _untransposed(shape: Shape, attributes: Mapping[str, Any], side: str) -> Shape:
    if attributes.get(f"transBatch{side}") and len(shape) > 2:
        shape = (*shape[1:-1], shape[0], shape[-1])
    return (*shape[:-2], shape[-1], shape[-2]) if attributes.get(f"trans{side}") and len(shape) > 1 else shape


def _integer_matmul(inputs: Inputs, attributes: Mapping[str, Any]) -> Sequence[Typed]:
    return (Typed("float32", matmul_shape(_shape(inputs, 0), _shape(inputs, 1), {})),)


def _fused_gemm(inputs: Inputs, attributes: Mapping[str, Any]) -> Sequence[Typed]:
    left, right = _shape(inputs, 0), _shape(inputs, 1)
    rows = left[1] if attributes.get("transA") else left[0]
    return (Typed(_type(inputs, 0), (rows, right[0] if attributes.get("transB") else right[1])),)


def _quantized_gemm(inputs: Inputs, attributes: Mapping[str, Any]) -> Sequence[Typed]:
    left, right = _shape(inputs, 0), _shape(inputs, 3)
    rows = left[1] if attributes.get("transA") else left[0]
    kind = _type(inputs, 8) or "float32"  # without an output zero point the result is real
    return (Typed(kind, (rows, right[0] if attributes.get("transB") else right[1])),)


def _block_matmul(inputs: Inputs, attributes: Mapping[str, Any]) -> Sequence[Typed]:
    return (Typed(_type(inputs, 0), (*_shape(inputs, 0)[:-1], int(attributes["N"]))),)


def _spatial_out(sizes: Sequence[int], kernel: Sequence[int], attributes: Mapping[str, Any]) -> tuple[int, ...]:
    geometry = sliding(attributes, kernel, sizes)
    rank = len(kernel)
    out = []
    for axis, size in enumerate(sizes):
        padded = size + geometry.pads[axis] + geometry.pads[axis + rank]
        steps = padded - (geometry.dilations[axis] * (kernel[axis] - 1) + 1)
        if attributes.get("ceil_mode"):
            count = -(-steps // geometry.strides[axis])
            # A window may start in the data or its left padding only (ONNX, MaxPool since 11).
            if count * geometry.strides[axis] >= size + geometry.pads[axis]:
                count -= 1
        else:
            count = steps // geometry.strides[axis]
        out.append(count + 1)
    return tuple(out)


def convolution(*, channels_last: bool = False, weight: int = 1) -> Rule:
    """A convolution whose filter is [M, C/group, kernel...], on NCHW or NHWC."""

    def rule(inputs: Inputs, attributes: Mapping[str, Any]) -> Sequence[Typed]:
        data, filters = _shape(inputs, 0), _sizes(_shape(inputs, weight))
        last = channels_last or bool(attributes.get("channels_last"))
        kernel = attributes.get("kernel_shape") or filters[2:]
        spatial = _sizes(data[1:-1] if last else data[2:])
        out = _spatial_out(spatial, kernel, attributes)
        shape = (data[0], *out, filters[0]) if last else (data[0], filters[0], *out)
        return (Typed(_type(inputs, 0), shape),)

    return rule


def _pool(*, channels_last: bool = False) -> Rule:
    def rule(inputs: Inputs, attributes: Mapping[str, Any]) -> Sequence[Typed]:
        data = _shape(inputs, 0)
        last = channels_last or bool(attributes.get("channels_last"))
        spatial = _sizes(data[1:-1] if last else data[2:])
        out = _spatial_out(spatial, attributes["kernel_shape"], attributes)
        return (Typed(_type(inputs, 0), (data[0], *out, data[-1]) if last else (*data[:2], *out)),)

    return rule


def _global_pool(inputs: Inputs, attributes: Mapping[str, Any]) -> Sequence[Typed]:
    data = _shape(inputs, 0)
    ones = (1,) * (len(data) - 2)
    shape = (data[0], *ones, data[-1]) if attributes.get("channels_last") else (*data[:2], *ones)
    return (Typed(_type(inputs, 0), shape),)


def _reorder_input(inputs: Inputs, attributes: Mapping[str, Any]) -> Sequence[Typed]:
    data = _shape(inputs, 0)
    return (Typed(_type(inputs, 0), (data[0], data[-1], *data[1:-1]) if attributes.get("channels_last") else data),)


def _reorder_output(inputs: Inputs, attributes: Mapping[str, Any]) -> Sequence[Typed]:
    data = _shape(inputs, 0)
    channels = int(attributes["channels"])
    last = attributes.get("channels_last")
    return (Typed(_type(inputs, 0), (data[0], *data[2:], channels) if last else (data[0], channels, *data[2:])),)


def _upsample(inputs: Inputs, attributes: Mapping[str, Any]) -> Sequence[Typed]:
    data = _sizes(_shape(inputs, 0))
    scales = attributes["scales"]
    return (Typed(_type(inputs, 0), tuple(size * int(scale) for size, scale in zip(data, scales, strict=True))),)


def _skip_norm(inputs: Inputs, attributes: Mapping[str, Any]) -> Sequence[Typed]:
    data = Typed(_type(inputs, 0), _shape(inputs, 0))
    statistic = Typed("float32", (*_shape(inputs, 0)[:-1], 1))
    return (data, statistic, statistic, data)


def _simplified_norm(inputs: Inputs, attributes: Mapping[str, Any]) -> Sequence[Typed]:
    data = _shape(inputs, 0)
    axis = int(attributes.get("axis", -1)) % len(data)
    return (Typed(_type(inputs, 0), data), Typed("float32", (*data[:axis], *(1,) * (len(data) - axis))))


def _dropout(inputs: Inputs, attributes: Mapping[str, Any]) -> Sequence[Typed]:
    """The mask, whose shape the first operator sets do not infer; bool since 10, of the data's type before."""
    return (Typed(_type(inputs, 0), _shape(inputs, 0)), Typed(None, _shape(inputs, 0)))


def _embed_norm(inputs: Inputs, attributes: Mapping[str, Any]) -> Sequence[Typed]:
    ids, table = _shape(inputs, 0), _shape(inputs, 2)
    data = Typed(_type(inputs, 2), (*ids, table[-1]))
    return (data, Typed("int32", (ids[0],)), data)


def _packed_attention(inputs: Inputs, attributes: Mapping[str, Any]) -> Sequence[Typed]:
    """Attention and QAttention: input [B, S, H], weights [H, 3 * hidden] -> [B, S, hidden of V]."""
    data, weight = _shape(inputs, 0), _sizes(_shape(inputs, 1))
    sizes = attributes.get("qkv_hidden_sizes")
    return (Typed(_type(inputs, 2), (data[0], data[1], sizes[2] if sizes else weight[1] // 3)),)


def _multi_head(inputs: Inputs, attributes: Mapping[str, Any]) -> Sequence[Typed]:
    query = _shape(inputs, 0)
    kind = _type(inputs, 0)
    if len(query) == 5:  # packed [B, S, heads, 3, head size]
        return (Typed(kind, (query[0], query[1], int(query[2]) * int(query[4]))),)
    value = inputs[2] if len(inputs) > 2 else None
    if value is None or value.shape is None:  # packed key and value, [B, L, heads, 2, head size]
        return (Typed(kind, query),)
    hidden = value.shape[2] if len(value.shape) == 3 else int(value.shape[1]) * int(value.shape[3])
    return (Typed(kind, (query[0], query[1], hidden)),)


def _grouped_query(inputs: Inputs, attributes: Mapping[str, Any]) -> Sequence[Typed]:
    query = _shape(inputs, 0)
    if len(inputs) > 1 and inputs[1] is not None:
        return (Typed(_type(inputs, 0), query),)
    heads, kv_heads = int(attributes["num_heads"]), int(attributes["kv_num_heads"])
    head_size = int(query[2]) // (heads + 2 * kv_heads)
    return (Typed(_type(inputs, 0), (query[0], query[1], heads * head_size)),)


def _linear_concat(inputs: Inputs, attributes: Mapping[str, Any]) -> Sequence[Typed]:
    """QLinearConcat: scale and zero point of the output, then (tensor, scale, zero point) of each input."""
    shapes = [_shape(inputs, position) for position in range(2, len(inputs), 3)]
    axis = int(attributes["axis"]) % len(shapes[0])
    joined = sum(int(shape[axis]) for shape in shapes)
    return (Typed(_type(inputs, 2), (*shapes[0][:axis], joined, *shapes[0][axis + 1 :])),)


_SAME: Final = [
    "BiasGelu",
    "BiasSoftmax",
    "FastGelu",
    "Gelu",
    "QuickGelu",
    "RotaryEmbedding",
    "BiasAdd",
    "QLinearSigmoid",
    "QLinearLeakyRelu",
    "QLinearSoftmax",
    "GroupNorm",
    "Trilu",
]
_RULES: Final[Mapping[tuple[str, str], Rule]] = MappingProxyType(
    {
        **{(MICROSOFT, op): same_as(0) for op in _SAME},
        ("", "Dropout"): _dropout,
        ("", "SimplifiedLayerNormalization"): _simplified_norm,
        (MICROSOFT, "SkipLayerNormalization"): _skip_norm,
        (MICROSOFT, "SkipSimplifiedLayerNormalization"): _skip_norm,
        (MICROSOFT, "EmbedLayerNormalization"): _embed_norm,
        (MICROSOFT, "FusedMatMul"): _matmul,
        (MICROSOFT, "FusedMatMulActivation"): _matmul,
        (MICROSOFT, "TransposeMatMul"): _matmul,
        (MICROSOFT, "FusedGemm"): _fused_gemm,
        (MICROSOFT, "QGemm"): _quantized_gemm,
        (MICROSOFT, "DynamicQuantizeMatMul"): _integer_matmul,
        (MICROSOFT, "MatMulIntegerToFloat"): _integer_matmul,
        (MICROSOFT, "MatMulNBits"): _block_matmul,
        (MICROSOFT, "MatMulBnb4"): _block_matmul,
        (MICROSOFT, "Attention"): _packed_attention,
        (MICROSOFT, "QAttention"): _packed_attention,
        (MICROSOFT, "MultiHeadAttention"): _multi_head,
        (MICROSOFT, "GroupQueryAttention"): _grouped_query,
        (MICROSOFT, "FusedConv"): convolution(),
        (MICROSOFT, "QLinearConv"): convolution(weight=3),
        (MICROSOFT, "NhwcConv"): convolution(channels_last=True),
        (MICROSOFT, "NhwcFusedConv"): convolution(channels_last=True),
        (MICROSOFT, "NhwcMaxPool"): _pool(channels_last=True),
        (MICROSOFT, "QLinearAdd"): _broadcast_of(0, 3),
        (MICROSOFT, "QLinearMul"): _broadcast_of(0, 3),
        (MICROSOFT, "QLinearConcat"): _linear_concat,
        (MICROSOFT, "QLinearAveragePool"): _pool(),
        (MICROSOFT, "QLinearGlobalAveragePool"): _global_pool,
        (MICROSOFT, "QuantizeLinear"): same_as(0, element_type_of=2),
        (MICROSOFT, "DequantizeLinear"): same_as(0, element_type_of=1),
        (NCHWC, "Conv"): convolution(),
        (NCHWC, "MaxPool"): _pool(),
        (NCHWC, "AveragePool"): _pool(),
        (NCHWC, "GlobalAveragePool"): _global_pool,
        (NCHWC, "GlobalMaxPool"): _global_pool,
        (NCHWC, "ReorderInput"): _reorder_input,
        (NCHWC, "ReorderOutput"): _reorder_output,
        (NCHWC, "Upsample"): _upsample,
    }
)
