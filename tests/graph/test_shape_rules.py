"""Shapes and types of ONNX Runtime's own operators against what ONNX Runtime returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import ModelProto, helper

from stratoscope.graph.onnx_reader import read_graph
from stratoscope.graph.work import work_of

F32, I32, U8, I8 = np.float32, np.int32, np.uint8, np.int8


def _array(shape: Sequence[int], kind: Any = F32) -> np.ndarray[Any, Any]:
    """Small values: valid as ids, lengths and quantised numbers too."""
    return np.ones(shape, dtype=kind)


def _check(model: ModelProto, feeds: dict[str, np.ndarray[Any, Any]]) -> None:
    """Every output that ONNX Runtime gives has the shape and type that we infer without running it."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    graph = read_graph(model)
    for tensor, array in zip(graph.outputs, session.run(None, feeds), strict=True):
        assert tensor.shape == array.shape
        assert tensor.element_type == array.dtype.name
    work = work_of(graph.layers[0])
    assert work is not None
    assert work.bytes_written > 0


def _quantized(*shape: int, kind: Any = U8) -> list[np.ndarray[Any, Any]]:
    """A quantised tensor with its scale and zero point."""
    return [_array(shape, kind), _array(()), _array((), kind)]


_OUT = _quantized()[1:]  # scale and zero point of the result
_X, _IDS = _array((2, 3, 8)), _array((2, 3), I32)
_TABLES = [_array((10, 8)), _array((5, 8)), _array((2, 8))]
_KEYS = _array((1, 3, 16))
#: name -> operator, inputs (None: omitted), outputs, attributes
CASES: dict[str, tuple[str, list[np.ndarray[Any, Any] | None], int, dict[str, Any]]] = {
    "grouped convolution": (
        "FusedConv",
        [_array((2, 4, 9, 8)), _array((6, 2, 3, 3))],
        1,
        {"group": 2, "strides": [2, 1]},
    ),
    "padded convolution": (
        "FusedConv",
        [_array((1, 4, 9, 8)), _array((6, 4, 3, 3)), _array((6,))],
        1,
        {"pads": [1, 0, 1, 2], "dilations": [2, 1], "activation": "Relu"},
    ),
    "scaled product": ("FusedMatMul", [_array((2, 3, 4)), _array((4, 5))], 1, {"alpha": 0.5}),
    "transposed product": ("FusedMatMul", [_array((2, 4, 3)), _array((2, 5, 4))], 1, {"transA": 1, "transB": 1}),
    "product with its batch inside": ("FusedMatMul", [_array((3, 2, 4)), _array((2, 4, 5))], 1, {"transBatchA": 1}),
    "fused Gemm": (
        "FusedGemm",
        [_array((4, 2)), _array((3, 4)), _array((3,))],
        1,
        {"transA": 1, "transB": 1, "activation": "Relu"},
    ),
    "Gelu": ("Gelu", [_X], 1, {}),
    "FastGelu": ("FastGelu", [_X, _array((8,))], 1, {}),
    "BiasGelu": ("BiasGelu", [_X, _array((8,))], 1, {}),
    "QuickGelu": ("QuickGelu", [_X], 1, {}),
    "skip": ("SkipLayerNormalization", [_X, _X, _array((8,)), _array((8,))], 1, {}),
    "simplified skip": ("SkipSimplifiedLayerNormalization", [_X, _X, _array((8,))], 1, {}),
    "embedding": ("EmbedLayerNormalization", [_IDS, _IDS, *_TABLES, _array((8,)), _array((8,)), _IDS], 2, {}),
    "attention": ("Attention", [_X, _array((8, 24)), _array((24,))], 1, {"num_heads": 2}),
    "attention with sizes": (
        "Attention",
        [_X, _array((8, 20)), _array((20,))],
        1,
        {"num_heads": 2, "qkv_hidden_sizes": [8, 8, 4]},
    ),
    "multi-head": ("MultiHeadAttention", [_X, _array((2, 5, 8)), _array((2, 5, 12))], 1, {"num_heads": 2}),
    "grouped query": (
        "GroupQueryAttention",
        [_array((1, 3, 32)), _KEYS, _KEYS, None, None, np.array([2], I32), np.array(3, I32)],
        1,
        {"num_heads": 4, "kv_num_heads": 2},
    ),
    "4-bit product": (
        "MatMulNBits",
        [_array((2, 3, 32)), _array((6, 1, 16), U8), _array((6,))],
        1,
        {"K": 32, "N": 6, "bits": 4, "block_size": 32},
    ),
    "dynamic quantised product": ("DynamicQuantizeMatMul", [_array((2, 3, 4)), *_quantized(4, 5)[:2]], 1, {}),
    "quantised product": (
        "MatMulIntegerToFloat",
        [_array((2, 4), U8), _array((4, 5), U8), _array(()), _array(())],
        1,
        {},
    ),
    "quantised addition": ("QLinearAdd", [*_quantized(2, 3), *_quantized(3), *_OUT], 1, {}),
    "quantised join": ("QLinearConcat", [*_OUT, *_quantized(2, 3), *_quantized(2, 4)], 1, {"axis": 1}),
    "quantised pool": (
        "QLinearAveragePool",
        [*_quantized(1, 3, 8, 8), *_OUT],
        1,
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    ),
    "quantised global pool": ("QLinearGlobalAveragePool", [*_quantized(1, 3, 8, 8), *_OUT], 1, {}),
    "quantised convolution on NHWC": (
        "QLinearConv",
        [*_quantized(1, 9, 8, 4), *_quantized(6, 4, 3, 3), *_OUT],
        1,
        {"channels_last": 1, "pads": [1, 1, 0, 0], "strides": [2, 1]},
    ),
    "quantised Gemm": ("QGemm", [*_quantized(2, 4), *_quantized(4, 3, kind=I8), None, *_OUT], 1, {}),
    "pool on NHWC": (
        "NhwcMaxPool",
        [_array((1, 9, 8, 4), U8)],
        1,
        {"kernel_shape": [3, 2], "strides": [2, 2], "ceil_mode": 1},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_fused_operators(model_of: Callable[..., ModelProto], name: str) -> None:
    op, arrays, count, attributes = CASES[name]
    names = ["" if array is None else f"in{position}" for position, array in enumerate(arrays)]
    feeds = {key: array for key, array in zip(names, arrays, strict=True) if array is not None}
    outputs = [f"out{position}" for position in range(count)]
    model = model_of(
        [helper.make_node(op, names, outputs, domain="com.microsoft", **attributes)],
        {key: array.shape for key, array in feeds.items()},
        outputs,
        types={key: helper.np_dtype_to_tensor_dtype(array.dtype) for key, array in feeds.items()},
        domains={"com.microsoft": 1},
    )
    for output in model.graph.output:
        output.type.Clear()  # nothing is declared
    _check(model, feeds)
