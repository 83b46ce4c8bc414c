"""Attribute defaults of ONNX Runtime's own operators (com.microsoft, version 1), as its schemas in 1.31 state them."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, Final

MICROSOFT_DEFAULTS: Final[MappingProxyType[str, dict[str, Any]]] = MappingProxyType(
    {
        "Attention": {"unidirectional": 0},
        "BiasSoftmax": {"axis": 1},
        "ConvTransposeWithDynamicPads": {"group": 1, "auto_pad": "NOTSET"},
        "EmbedLayerNormalization": {"epsilon": 1e-12},
        "FusedConv": {"group": 1, "auto_pad": "NOTSET"},
        "FusedGemm": {"beta": 1.0, "transB": 0, "alpha": 1.0, "transA": 0},
        "FusedMatMul": {"transBatchB": 0, "transBatchA": 0, "transB": 0, "transA": 0, "alpha": 1.0},
        "FusedMatMulActivation": {"transBatchB": 0, "transBatchA": 0, "transB": 0, "transA": 0, "alpha": 1.0},
        "GatherBlockQuantized": {"bits": 4, "block_size": 128, "quantize_axis": 1, "gather_axis": 0},
        "GridSample": {"align_corners": 0, "padding_mode": "zeros", "mode": "bilinear"},
        "GroupNorm": {"channels_last": 1, "epsilon": 1e-05},
        "GroupQueryAttention": {
            "sliding_window_cache": 0,
            "causal": 1,
            "local_window_size": -1,
            "qk_output": 0,
            "qk_norm_epsilon": 1e-06,
            "v_quant_type": "NONE",
            "smooth_softmax": -1,
            "k_quant_type": "NONE",
        },
        "MatMulBnb4": {"transB": 1, "training_mode": 0},
        "MatMulFpQ4": {"blk_quant_type": 1},
        "MatMulNBits": {"weight_prepacked": 0, "accuracy_level": 0, "bits": 4},
        "MultiHeadAttention": {"unidirectional": 0},
        "NhwcConv": {"group": 1, "auto_pad": "NOTSET"},
        "NhwcFusedConv": {"group": 1, "auto_pad": "NOTSET"},
        "NhwcMaxPool": {"ceil_mode": 0, "auto_pad": "NOTSET"},
        "Pad": {"mode": "constant"},
        "QAttention": {"unidirectional": 0},
        "QGemm": {"transB": 0, "alpha": 1.0, "transA": 0},
        "QLinearAveragePool": {"ceil_mode": 0, "auto_pad": "NOTSET", "channels_last": 0, "count_include_pad": 0},
        "QLinearGlobalAveragePool": {"channels_last": 0},
        "QLinearLeakyRelu": {"alpha": 0.01},
        "QLinearSoftmax": {"axis": -1},
        "QuickGelu": {"alpha": 1.702},
        "RelativePositionBias": {"is_bidirectional": 0},
        "SkipGroupNorm": {"channels_last": 1, "epsilon": 1e-05},
        "SkipLayerNormalization": {"epsilon": 1e-12},
        "SkipSimplifiedLayerNormalization": {"epsilon": 1e-12},
        "TransposeMatMul": {"transB": 0, "transA": 0, "alpha": 1.0},
        "Trilu": {"upper": 1},
    }
)
