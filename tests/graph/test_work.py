"""Operations and bytes of layers, against counts made by hand and by brute force."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from stratoscope.graph.ir import Layer, Work
from stratoscope.graph.work import total, why_unknown, work_functions, work_of

LayerOf = Callable[..., Layer]


def _stored(*shape: int, kind: Any = np.float32) -> TensorProto:
    return numpy_helper.from_array(np.ones(shape, dtype=kind))


def _ints(*values: int) -> TensorProto:
    return numpy_helper.from_array(np.array(values, dtype=np.int64))


def _known(layer: Layer) -> Work:
    work = work_of(layer)
    assert work is not None, layer
    return work


def _taps(size: int, out: int, kernel: int, stride: int, dilation: int, pad: int) -> tuple[int, set[int]]:
    """Pairs on real inputs of one axis, and the inputs that they meet, counted one by one."""
    places = [o * stride + t * dilation - pad for o in range(out) for t in range(kernel)]
    real = [place for place in places if 0 <= place < size]
    return len(real), set(real)


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(4, 14),
    width=st.integers(4, 14),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    dilations=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    pads=st.tuples(*[st.integers(0, 2)] * 4),
    groups=st.sampled_from([1, 2, 4]),
    batch=st.integers(1, 2),
)
def test_convolutions_against_brute_force(
    layer_of: LayerOf,
    height: int,
    width: int,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    dilations: tuple[int, int],
    pads: tuple[int, int, int, int],
    groups: int,
    batch: int,
) -> None:
    channels, features = 4, 8
    filters = _stored(features, channels // groups, *kernel)
    layer = layer_of(
        "Conv",
        [(batch, channels, height, width), filters, _stored(features)],
        strides=strides,
        dilations=dilations,
        pads=pads,
        group=groups,
    )
    out = layer.outputs[0].shape
    assert out is not None
    work = _known(layer)
    outputs = batch * features * int(out[2]) * int(out[3])
    each = (channels // groups) * kernel[0] * kernel[1]
    assert work.macs == outputs * each
    assert work.flops == 2 * outputs * each + outputs
    rows, touched_rows = _taps(height, int(out[2]), kernel[0], strides[0], dilations[0], pads[0])
    columns, touched_columns = _taps(width, int(out[3]), kernel[1], strides[1], dilations[1], pads[1])
    assert work.flops_valid == 2 * batch * features * (channels // groups) * rows * columns + outputs
    assert work.bytes_read == 4 * batch * channels * len(touched_rows) * len(touched_columns)
    assert work.bytes_written == 4 * outputs
    assert work.parameters == features * each + features
    assert work.parameter_bytes == 4 * work.parameters


def test_a_pointwise_convolution_with_stride_two_reads_a_quarter(layer_of: LayerOf) -> None:
    work = _known(layer_of("Conv", [(1, 256, 56, 56), _stored(512, 256, 1, 1)], strides=[2, 2]))
    assert work.bytes_read * 4 == 256 * 56 * 56 * 4
    assert work.flops == work.flops_valid == 2 * 512 * 28 * 28 * 256


@settings(max_examples=30, deadline=None)
@given(
    size=st.integers(2, 9),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    pads=st.tuples(st.integers(0, 1), st.integers(0, 1)),
    groups=st.sampled_from([1, 2]),
)
def test_transposed_convolutions_against_brute_force(
    layer_of: LayerOf, size: int, kernel: int, stride: int, dilation: int, pads: tuple[int, int], groups: int
) -> None:
    channels, features = 4, 6
    assume((size - 1) * stride + (kernel - 1) * dilation + 1 - sum(pads) >= 1)
    filters = _stored(channels, features // groups, kernel)
    layer = layer_of(
        "ConvTranspose",
        [(2, channels, size), filters],
        strides=[stride],
        dilations=[dilation],
        pads=pads,
        group=groups,
    )
    out = layer.outputs[0].shape
    assert out is not None
    assert out[1] == features
    places = [i * stride + t * dilation - pads[0] for i in range(size) for t in range(kernel)]
    inside = sum(0 <= place < int(out[2]) for place in places)
    work = _known(layer)
    assert work.macs == 2 * channels * (features // groups) * size * kernel
    assert work.flops_valid == 2 * 2 * channels * (features // groups) * inside


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_transposed_convolution_with_automatic_pads(layer_of: LayerOf, auto_pad: str) -> None:
    layer = layer_of("ConvTranspose", [(1, 2, 5), _stored(2, 3, 4)], strides=[2], auto_pad=auto_pad)
    out = layer.outputs[0].shape
    assert out is not None
    spread = 2 * (5 - 1) + 4  # positions before cropping
    assert out[2] == (10 if auto_pad.startswith("SAME") else spread)
    begin = 1 if auto_pad.startswith("SAME") else 0
    inside = sum(0 <= i * 2 + t - begin < int(out[2]) for i in range(5) for t in range(4))
    assert _known(layer).flops_valid == 2 * 2 * 3 * inside


@settings(max_examples=30, deadline=None)
@given(
    size=st.integers(3, 12),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 4),
    pad=st.integers(0, 1),
    ceil=st.booleans(),
)
def test_pools_against_brute_force(
    layer_of: LayerOf, size: int, kernel: int, stride: int, pad: int, ceil: bool
) -> None:
    assume(pad < kernel)
    attributes = {"kernel_shape": [kernel], "strides": [stride], "pads": [pad, pad], "ceil_mode": int(ceil)}
    largest = layer_of("MaxPool", [(2, 3, size)], **attributes)
    average = layer_of("AveragePool", [(2, 3, size)], **attributes)
    out = largest.outputs[0].shape
    assert out is not None
    outputs = 2 * 3 * int(out[2])
    real, touched = _taps(size, int(out[2]), kernel, stride, 1, pad)
    work = _known(largest)
    assert (work.flops, work.flops_valid) == (outputs * (kernel - 1), max(6 * real - outputs, 0))
    assert work.bytes_read == 4 * 6 * len(touched)
    assert _known(average).flops == outputs * kernel
    assert _known(average).flops_valid == 6 * real


def test_matrix_products_broadcast_their_batch(layer_of: LayerOf) -> None:
    work = _known(layer_of("MatMul", [(7, 1, 3, 4), (5, 4, 6)]))
    assert work.macs == 7 * 5 * 3 * 6 * 4
    assert work.bytes_read == 4 * (7 * 3 * 4 + 5 * 4 * 6)
    assert _known(layer_of("MatMul", [(4,), (4,)])).macs == 4
    assert _known(layer_of("MatMul", [(3, 4), (4,)])).macs == 12


@pytest.mark.parametrize("transposed", [False, True])
def test_gemm_counts_bias_and_factors(layer_of: LayerOf, transposed: bool) -> None:
    shapes = [(4, 2), _stored(3, 4)] if transposed else [(2, 4), _stored(4, 3)]
    kind = {"transA": int(transposed), "transB": int(transposed)}
    assert _known(layer_of("Gemm", shapes, **kind)).flops == 2 * 2 * 3 * 4
    assert _known(layer_of("Gemm", [*shapes, _stored(3)], **kind)).flops == 2 * 2 * 3 * 4 + 6
    assert _known(layer_of("Gemm", [*shapes, _stored(3)], alpha=0.5, beta=2.0, **kind)).flops == 2 * 2 * 3 * 4 + 18


@pytest.mark.parametrize(
    ("equation", "shapes", "macs", "other"),
    [
        ("bij,bjk->bik", [(2, 3, 4), (2, 4, 5)], 2 * 3 * 4 * 5, 0),
        ("bhid,bhjd->bhij", [(2, 2, 3, 4), (2, 2, 5, 4)], 2 * 2 * 3 * 5 * 4, 0),
        ("...ij,jk->...ik", [(2, 6, 3, 4), (4, 5)], 2 * 6 * 3 * 4 * 5, 0),
        ("i,i->", [(7,), (7,)], 7, 0),
        ("i,j->ij", [(3,), (4,)], 0, 12),
        ("ij->i", [(3, 4)], 0, 9),
        ("ij->ji", [(3, 4)], 0, 0),
    ],
)
def test_einsum_counts_a_point_for_each_combination_of_labels(
    layer_of: LayerOf, equation: str, shapes: list[tuple[int, ...]], macs: int, other: int
) -> None:
    work = _known(layer_of("Einsum", shapes, equation=equation))
    assert (work.macs, work.flops) == (macs, 2 * macs + other)


def test_einsum_of_three_operands_is_not_known(layer_of: LayerOf) -> None:
    layer = layer_of("Einsum", [(2, 3), (3, 4), (4, 5)], equation="ij,jk,kl->il")
    assert work_of(layer) is None
    assert why_unknown(layer) == "depends on the data"


def _softmax_cost(pairs: int) -> int:
    return 6 * pairs  # scale, maximum, subtraction, exp, sum, division


@pytest.mark.parametrize("causal", [False, True])
def test_attention_of_the_standard(layer_of: LayerOf, causal: bool) -> None:
    layer = layer_of("Attention", [(2, 4, 5, 8), (2, 2, 7, 8), (2, 2, 7, 6)], opset=23, is_causal=int(causal))
    work = _known(layer)
    pairs = 2 * 4 * 5 * 7
    assert work.macs == pairs * (8 + 6)
    assert work.flops == 2 * work.macs + _softmax_cost(pairs)
    visible = 2 * 4 * sum(1 for q in range(5) for k in range(7) if not causal or k <= q + 2)
    assert work.flops_valid == 2 * visible * (8 + 6) + _softmax_cost(visible)


def test_fused_attention_has_the_work_of_its_parts(layer_of: LayerOf) -> None:
    """com.microsoft Attention against MatMul + Add + MatMul + scale + Softmax + MatMul, layer by layer."""
    batch, seq, hidden, heads = 2, 6, 16, 4
    fused = layer_of(
        "Attention",
        [(batch, seq, hidden), _stored(hidden, 3 * hidden), _stored(3 * hidden)],
        domain="com.microsoft",
        num_heads=heads,
    )
    assert fused.outputs[0].shape == (batch, seq, hidden)
    head = hidden // heads
    parts = [
        layer_of("MatMul", [(batch, seq, hidden), _stored(hidden, 3 * hidden)]),
        layer_of("Add", [(batch, seq, 3 * hidden), _stored(3 * hidden)]),
        layer_of("MatMul", [(batch, heads, seq, head), (batch, heads, head, seq)]),
        layer_of("Mul", [(batch, heads, seq, seq), _stored()]),
        layer_of("Softmax", [(batch, heads, seq, seq)]),
        layer_of("MatMul", [(batch, heads, seq, seq), (batch, heads, seq, head)]),
    ]
    work, whole = _known(fused), total([_known(part) for part in parts])
    assert (work.flops, work.macs, work.parameters) == (whole.flops, whole.macs, whole.parameters)
    assert work.bytes_read < whole.bytes_read


def test_grouped_query_attention_is_causal_and_its_cache_is_data(layer_of: LayerOf) -> None:
    def layer(past: int) -> Layer:
        return layer_of(
            "GroupQueryAttention",
            [(1, 6, 32), (1, 6, 16), (1, 6, 16), (1, 2, past, 8), (1, 2, past, 8), (1,), ()],
            types=[1, 1, 1, 1, 1, 6, 6],
            domain="com.microsoft",
            num_heads=4,
            kv_num_heads=2,
        )

    work = _known(layer(0))
    assert work.macs == 4 * 6 * 6 * (8 + 8)
    assert work.flops_valid == 2 * 4 * 21 * 16 + _softmax_cost(4 * 21)  # 21 = 6 * 7 / 2 pairs
    assert work_of(layer(16)) is None


@pytest.mark.parametrize(
    ("op", "inputs", "attributes", "flops"),
    [
        ("Add", [(2, 3), (3,)], {}, 6),
        ("Add", [(2, 1), (3,)], {}, 6),  # of the broadcast output
        ("Sum", [(4,), (4,), (4,)], {}, 8),
        ("Mean", [(4,), (4,), (4,)], {}, 12),
        ("Erf", [(5,)], {}, 5),
        ("Sigmoid", [(5,)], {}, 20),  # negate, exp, add, divide
        ("HardSigmoid", [(5,)], {}, 20),  # multiply, add, two bounds
        ("HardSwish", [(5,)], {}, 25),
        ("Gelu", [(5,)], {}, 25),  # divide, erf, add, two products
        ("Gelu", [(5,)], {"approximate": "tanh"}, 45),
        ("Softmax", [(2, 8)], {}, 80),
        ("LayerNormalization", [(2, 8), "w8", "w8"], {}, 7 * 16 + 5 * 2),
        ("LayerNormalization", [(2, 8), "w8"], {}, 6 * 16 + 5 * 2),
        ("LayerNormalization", [(2, 4, 2), "w42"], {"axis": 1}, 6 * 16 + 5 * 2),
        ("RMSNormalization", [(2, 8), "w8"], {}, 4 * 16 + 4 * 2),
        ("BatchNormalization", [(2, 8, 3), "w8", "w8", "w8", "w8"], {}, 2 * 48),
        ("InstanceNormalization", [(2, 8, 3), "w8", "w8"], {}, 7 * 48 + 5 * 16),
        ("ReduceSum", [(4, 8), "i1"], {}, 32 - 4),
        ("ReduceMean", [(4, 8), "i1"], {}, 32),
        ("ReduceMax", [(4, 8)], {"keepdims": 0}, 31),
        ("ReduceL2", [(4, 8), "i1"], {}, 32 + 28 + 4),
        ("ArgMax", [(4, 8)], {"axis": 1}, 28),
        ("GlobalAveragePool", [(2, 3, 4, 4)], {}, 96),
        ("GlobalMaxPool", [(2, 3, 4, 4)], {}, 90),
        ("CumSum", [(4, 8), "i1"], {}, 32),
        ("Where", ["b", (4,), (4,)], {}, 0),
        ("Cast", [(4,)], {"to": 10}, 0),
        ("Transpose", [(4, 2)], {}, 0),
        ("Resize", [(1, 2, 3, 3), None, "f1122"], {"mode": "linear"}, 7 * 2 * 36),  # four products, three sums
        ("Resize", [(1, 2, 3, 3), None, "f1122"], {"mode": "nearest"}, 0),
    ],
)
def test_operations_of_one_layer(
    layer_of: LayerOf, op: str, inputs: list[Any], attributes: dict[str, Any], flops: int
) -> None:
    stored = {
        "w8": lambda: _stored(8),
        "w42": lambda: _stored(4, 2),
        "i1": lambda: _ints(1),
        "f1122": lambda: numpy_helper.from_array(np.array([1, 1, 2, 2], dtype=np.float32)),
        "b": lambda: numpy_helper.from_array(np.ones(4, dtype=bool)),
    }
    given_inputs = [stored[one]() if isinstance(one, str) else one for one in inputs]
    opset = 23 if op == "RMSNormalization" else 21
    work = _known(layer_of(op, given_inputs, opset=opset, **attributes))
    assert work.flops == work.flops_valid == flops
    assert work.macs == 0


def test_local_response_normalisation_cuts_its_window_at_the_borders(layer_of: LayerOf) -> None:
    work = _known(layer_of("LRN", [(2, 6, 4, 4)], size=5))
    assert work.flops == 2 * 6 * 16 * (5 + 4)
    channels = sum(0 <= c + d < 6 for c in range(6) for d in range(-2, 3))
    assert work.flops_valid == 2 * 16 * (channels + 4 * 6)


@pytest.mark.parametrize(("op", "gates", "cell"), [("RNN", 1, 2), ("GRU", 3, 17), ("LSTM", 4, 22)])
def test_recurrent_layers(layer_of: LayerOf, op: str, gates: int, cell: int) -> None:
    layer = layer_of(op, [(7, 2, 5), _stored(1, gates * 3, 5), _stored(1, gates * 3, 3)], hidden_size=3)
    work = _known(layer)
    assert work.macs == 7 * 2 * gates * (3 * 5 + 3 * 3)
    assert work.flops == 2 * work.macs + 7 * 2 * 3 * cell
    assert work.parameters == gates * 3 * 8


def test_views_do_and_move_nothing(layer_of: LayerOf) -> None:
    layers = [
        layer_of("Reshape", [(4, 4), _ints(16)]),
        layer_of("Flatten", [(4, 2, 2)]),
        layer_of("Squeeze", [(1, 4), _ints(0)]),
        layer_of("Unsqueeze", [(4,), _ints(0)]),
        layer_of("Identity", [(4,)]),
        layer_of("Dropout", [(4,)], outputs=2),
    ]
    for layer in layers:
        assert _known(layer) == Work(0, 0, 0, 0, 0, 0, 0)


def test_a_lookup_reads_the_rows_that_it_returns(layer_of: LayerOf) -> None:
    work = _known(layer_of("Gather", [_stored(30_000, 8), (3, 5)], types=[1, 7]))
    assert work.parameters == 240_000
    assert work.parameter_bytes == 15 * 8 * 4
    assert work.bytes_read == 15 * 8  # the 64-bit indices
    assert work.bytes_written == 15 * 8 * 4
    small = _known(layer_of("Gather", [_stored(2, 8), (3, 5)], types=[1, 7]))
    assert small.parameter_bytes == 2 * 8 * 4  # never more than the table


def test_slices_read_what_they_keep_and_scatters_copy(layer_of: LayerOf) -> None:
    assert _known(layer_of("Slice", [(100,), _ints(10), _ints(20)])).bytes_read == 40
    work = _known(layer_of("ScatterND", [(10, 4), (2, 1), (2, 4)], types=[1, 7, 1], reduction="add"))
    assert (work.flops, work.bytes_read, work.bytes_written) == (8, 160 + 16 + 32, 160)


def test_a_tensor_that_is_read_twice_counts_once(layer_of: LayerOf) -> None:
    layer = layer_of("Mul", [(4,), (4,)])
    square = Layer(0, "square", "Mul", "", {}, (layer.inputs[0], layer.inputs[0]), layer.outputs)
    assert _known(layer).bytes_read == 32
    assert _known(square).bytes_read == 16


def test_literals_are_not_parameters(layer_of: LayerOf) -> None:
    assert _known(layer_of("Div", [(4,), _stored()])).parameters == 0
    assert _known(layer_of("Div", [(4,), _stored(1)])).parameters == 1
    assert _known(layer_of("Gather", [(4, 4), _ints(*range(100))])).parameters == 0


def test_quantised_products(layer_of: LayerOf) -> None:
    byte, scale = numpy_helper.from_array(np.ones((8, 4, 3, 3), dtype=np.int8)), _stored
    zero = helper.make_tensor("", TensorProto.UINT8, [], [0])
    inputs = [
        (1, 4, 6, 6),
        scale(),
        zero,
        byte,
        scale(),
        helper.make_tensor("", TensorProto.INT8, [], [0]),
        scale(),
        helper.make_tensor("", TensorProto.UINT8, [], [0]),
        numpy_helper.from_array(np.ones(8, dtype=np.int32)),
    ]
    work = _known(layer_of("QLinearConv", inputs, types=[TensorProto.UINT8] * 9))
    outputs = 8 * 16
    assert work.macs == outputs * 36
    assert work.flops == 2 * work.macs + 6 * outputs  # bias; scale, round, zero point, two bounds
    assert work.parameters == 8 * 36 + 8
    assert work.bytes_read == 4 * 36
    last = layer_of(
        "QLinearConv",
        [(1, 6, 6, 4), *inputs[1:]],
        types=[TensorProto.UINT8] * 9,
        domain="com.microsoft",
        channels_last=1,
    )
    assert last.outputs[0].shape == (1, 4, 4, 8)
    assert _known(last) == work
    assert _known(layer_of("MatMulInteger", [(2, 4), (4, 3)], types=[2, 2])).macs == 24
    assert _known(layer_of("QuantizeLinear", [(10,), _stored()])).flops == 50
    assert _known(layer_of("DequantizeLinear", [(10,), _stored()], types=[3, 1])).flops == 20


def test_block_quantised_weights_count_as_the_weights_that_they_are(layer_of: LayerOf) -> None:
    packed = numpy_helper.from_array(np.zeros((16, 2, 16), dtype=np.uint8))
    layer = layer_of(
        "MatMulNBits", [(3, 64), packed, _stored(32)], domain="com.microsoft", K=64, N=16, bits=4, block_size=32
    )
    work = _known(layer)
    assert layer.outputs[0].shape == (3, 16)
    assert work.macs == 3 * 64 * 16
    assert work.parameters == 64 * 16 + 32
    assert work.parameter_bytes == 512 + 128


def test_fused_convolution_has_the_work_of_its_parts(layer_of: LayerOf) -> None:
    inputs = [(1, 8, 6, 6), _stored(8, 8, 3, 3), _stored(8)]
    plain = _known(layer_of("Conv", inputs, pads=[1, 1, 1, 1]))
    fused = _known(
        layer_of("FusedConv", [*inputs, (1, 8, 6, 6)], domain="com.microsoft", pads=[1, 1, 1, 1], activation="Relu")
    )
    assert fused.flops == plain.flops + 2 * 8 * 36  # the addition and the activation
    assert fused.bytes_read == 2 * plain.bytes_read
    last = _known(layer_of("NhwcConv", [(1, 6, 6, 8), *inputs[1:]], domain="com.microsoft", pads=[1, 1, 1, 1]))
    assert last == plain


def test_skip_layer_normalisation_has_the_work_of_its_parts(layer_of: LayerOf) -> None:
    fused = _known(
        layer_of("SkipLayerNormalization", [(2, 3, 8), (2, 3, 8), _stored(8), _stored(8)], domain="com.microsoft")
    )
    parts = [
        layer_of("Add", [(2, 3, 8), (2, 3, 8)]),
        layer_of("LayerNormalization", [(2, 3, 8), _stored(8), _stored(8)]),
    ]
    assert fused.flops == sum(_known(part).flops for part in parts)


def test_unknown_is_none_and_never_zero(layer_of: LayerOf) -> None:
    layer = layer_of("Det", [(3, 3)])
    assert work_of(layer) is None
    assert why_unknown(layer) == "no work function"
    boxes = layer_of("NonZero", [(3, 3)])
    assert work_of(boxes) is None
    assert why_unknown(boxes) == "unknown shape"


#: Operators in the light models and in exports of BERT, DistilBERT, GPT-2, Llama, T5, ViT, Swin, ConvNeXt, MobileNetV2
#: and Whisper, and what ONNX Runtime makes of them.
NEEDED = {
    "": "Add And AveragePool BatchNormalization Cast Clip Concat Conv CumSum Div Dropout Einsum Equal Erf Exp Expand "
    "Flatten Gather GatherElements GatherND Gelu Gemm GlobalAveragePool Greater HardSigmoid HardSwish Identity IsNaN "
    "LRN LayerNormalization Less LessOrEqual Log MatMul Max MaxPool Min Mod Mul Neg Not Or Pad Pow RMSNormalization "
    "Reciprocal ReduceMax ReduceMean ReduceSum Relu Reshape Resize ScatterElements ScatterND Sigmoid Sign Sin Cos "
    "SimplifiedLayerNormalization Slice Softmax Split Sqrt Squeeze Sub Sum Tanh Tile TopK Transpose Trilu Unsqueeze "
    "Where QLinearConv QLinearMatMul MatMulInteger ConvInteger QuantizeLinear DequantizeLinear DynamicQuantizeLinear "
    "ConvTranspose LSTM GRU RNN Attention RotaryEmbedding",
    "com.microsoft": "FusedConv FusedMatMul FusedGemm Gelu FastGelu BiasGelu QuickGelu SkipLayerNormalization "
    "SkipSimplifiedLayerNormalization EmbedLayerNormalization Attention MultiHeadAttention GroupQueryAttention "
    "RotaryEmbedding MatMulNBits QLinearAdd QLinearMul QLinearConcat QLinearAveragePool QLinearGlobalAveragePool "
    "QLinearSigmoid QLinearLeakyRelu QLinearSoftmax QGemm QAttention DynamicQuantizeMatMul MatMulIntegerToFloat "
    "NhwcConv NhwcMaxPool NhwcFusedConv BiasSoftmax",
    "com.microsoft.nchwc": "Conv MaxPool AveragePool GlobalAveragePool GlobalMaxPool ReorderInput ReorderOutput "
    "Upsample",
}


@pytest.mark.parametrize("domain", NEEDED)
def test_the_registry_has_the_operators_of_the_zoo(domain: str) -> None:
    known = {op for place, op in work_functions() if place == domain}
    assert set(NEEDED[domain].split()) <= known
