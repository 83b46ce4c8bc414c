"""Work of fused attention and of rotary embeddings: scores, softmax, weighted values; projections where fused in."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from stratoscope.graph.ir import Layer, Tensor, Work
from stratoscope.graph.work_functions.common import (
    MICROSOFT,
    ONNX,
    Functions,
    ShapeUnknown,
    build,
    dims,
    given,
    size,
)

_SOFTMAX_FLOPS: Final = 5


@dataclass(frozen=True, slots=True)
class _Attention:
    """Sizes of one attention: `queries` positions look at `keys` positions, in `heads` heads of `batch` sequences."""

    batch: int
    heads: int
    queries: int
    keys: int
    key_size: int
    value_size: int

    def macs(self, pairs: int) -> int:
        """Multiply-adds of the scores and of the weighted sum of values, for `pairs` (query, key) pairs a head."""
        return self.batch * self.heads * pairs * (self.key_size + self.value_size)

    def softmax(self, pairs: int, extra: int) -> int:
        """Operations on the scores: scaling and softmax, and `extra` (a mask or bias is added)."""
        return self.batch * self.heads * pairs * (_SOFTMAX_FLOPS + 1 + extra)

    def visible(self, *, causal: bool, window: int = -1) -> int:
        """(query, key) pairs that a causal mask leaves, the last query seeing the last key; all without one."""
        if not causal:
            return self.queries * self.keys
        past = self.keys - self.queries
        seen = (max(0, min(past + row + 1, self.keys)) for row in range(self.queries))
        return sum(min(count, window) if window > 0 else count for count in seen)


def _work(
    layer: Layer, sizes: _Attention, *, causal: bool, extra: int, window: int = -1, macs: int = 0, other: int = 0
) -> Work:
    """Nominal: every query with every key, as the dense kernels do. Valid: the pairs that the causal mask leaves."""
    pairs, visible = sizes.queries * sizes.keys, sizes.visible(causal=causal, window=window)
    return build(
        layer,
        macs=macs + sizes.macs(pairs),
        macs_valid=macs + sizes.macs(visible),
        other=other + sizes.softmax(pairs, extra),
        other_valid=other + sizes.softmax(visible, extra),
    )


def _onnx_attention(layer: Layer) -> Work:
    """Attention of the standard since operator set 23: 4-D [B, heads, S, size], or 3-D with the heads as attributes."""
    query, key, value = dims(layer.inputs[0]), dims(given(layer, 1)), dims(given(layer, 2))
    if len(query) == 4:
        batch, heads, queries, key_size = query
        keys, value_size = key[2], value[3]
    else:
        heads, kv_heads = int(layer.attributes["q_num_heads"]), int(layer.attributes["kv_num_heads"])
        batch, queries, hidden = query
        key_size, keys, value_size = hidden // heads, key[1], value[2] // kv_heads
    past = given(layer, 4)
    keys += dims(past)[2] if past is not None else 0
    sizes = _Attention(batch, heads, queries, keys, key_size, value_size)
    extra = (given(layer, 3) is not None) + (3 if layer.attributes.get("softcap") else 0)
    return _work(layer, sizes, causal=bool(layer.attributes.get("is_causal")), extra=extra)


def _projected_attention(layer: Layer) -> Work:
    """com.microsoft Attention and QAttention: the projections of Q, K and V from one input are part of it."""
    batch, queries, hidden = dims(layer.inputs[0])
    weight = dims(given(layer, 1))
    heads = int(layer.attributes["num_heads"])
    parts = layer.attributes.get("qkv_hidden_sizes") or (weight[1] // 3,) * 3
    quantized = layer.op == "QAttention"
    past = given(layer, 8 if quantized else 4)
    keys = queries + (dims(past)[3] if past is not None else 0)
    sizes = _Attention(batch, heads, queries, keys, int(parts[0]) // heads, int(parts[2]) // heads)
    bias = given(layer, 2) is not None
    masks = (5, 9) if quantized else (3, 5)
    extra = sum(given(layer, position) is not None for position in masks)
    projected = batch * queries * weight[1]
    return _work(
        layer,
        sizes,
        causal=bool(layer.attributes.get("unidirectional")),
        extra=extra,
        macs=projected * hidden,
        other=bias * projected,
    )


def _multi_head_attention(layer: Layer) -> Work:
    query = dims(layer.inputs[0])
    heads = int(layer.attributes["num_heads"])
    batch, queries = query[0], query[1]
    key, value = given(layer, 1), given(layer, 2)
    key_size = query[4] if len(query) == 5 else query[2] // heads
    value_size = key_size
    if key is None:
        keys = queries
    elif len(dims(key)) == 4:
        keys = dims(key)[2]
    else:
        keys = dims(key)[1]
    if value is not None:
        value_size = dims(value)[3] if len(dims(value)) == 4 else dims(value)[2] // heads
    past = given(layer, 6)
    keys += dims(past)[2] if past is not None else 0
    sizes = _Attention(batch, heads, queries, keys, key_size, value_size)
    extra = sum(given(layer, position) is not None for position in (4, 5))
    bias = given(layer, 3)
    other = size(layer.inputs[0]) + _optional(key) + _optional(value) if bias is not None else 0
    return _work(layer, sizes, causal=bool(layer.attributes.get("unidirectional")), extra=extra, other=other)


def _grouped_query_attention(layer: Layer) -> Work:
    """Causal; `heads` queries share `kv_num_heads` keys, which changes what is read but not the multiply-adds.

    The length of the cache is data (seqlens_k): its capacity, the shape of past_key, is only an upper bound, so a layer
    whose past is larger than the new tokens has no known work.
    """
    query = dims(layer.inputs[0])
    heads, kv_heads = int(layer.attributes["num_heads"]), int(layer.attributes["kv_num_heads"])
    packed = given(layer, 1) is None
    head_size = query[2] // (heads + 2 * kv_heads) if packed else query[2] // heads
    past = given(layer, 3)
    if past is not None and dims(past)[2] > 0:
        raise ShapeUnknown
    sizes = _Attention(query[0], heads, query[1], query[1], head_size, head_size)
    rotary = _ROTARY_FLOPS * query[0] * query[1] * (heads + kv_heads) * head_size
    return _work(
        layer,
        sizes,
        causal=bool(layer.attributes.get("causal", 1)),
        extra=3 if layer.attributes.get("softcap") else 0,
        window=int(layer.attributes.get("local_window_size", -1)),
        other=rotary if layer.attributes.get("do_rotary") else 0,
    )


def _optional(tensor: Tensor | None) -> int:
    return size(tensor) if tensor is not None else 0


_ROTARY_FLOPS: Final = 3  # x * cos + rotated x * sin


def _rotary(layer: Layer) -> Work:
    """x * cos + rotate(x) * sin on the rotated part of each head."""
    data = dims(layer.inputs[0])
    rotated = int(layer.attributes.get("rotary_embedding_dim", 0))
    elements = size(layer.inputs[0])
    if rotated:
        heads = int(layer.attributes.get("num_heads", 0))
        head_size = data[-1] if len(data) == 4 else data[-1] // heads if heads else rotated
        elements = elements * rotated // head_size
    return build(layer, other=_ROTARY_FLOPS * elements)


FUNCTIONS: Final[Functions] = MappingProxyType(
    {
        (ONNX, "Attention"): _onnx_attention,
        (ONNX, "RotaryEmbedding"): _rotary,
        (MICROSOFT, "Attention"): _projected_attention,
        (MICROSOFT, "QAttention"): _projected_attention,
        (MICROSOFT, "MultiHeadAttention"): _multi_head_attention,
        (MICROSOFT, "GroupQueryAttention"): _grouped_query_attention,
        (MICROSOFT, "RotaryEmbedding"): _rotary,
    }
)
