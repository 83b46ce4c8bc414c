"""The operator graph of one rank: each operator's shape, FLOPs and bytes, for one plan or for an array of plans
at once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from stratoscope.llm.base import Num
from stratoscope.llm.hardware import BYTES_PER_ELEMENT
from stratoscope.llm.plan import Engine, Precision
from stratoscope.llm.spec import (
    Attention,
    LatentAttention,
    Layer,
    Linear,
    MixtureOfExperts,
    ModelSpec,
    StateSpace,
    visible_pairs,
)

OpKind = Literal["gemm", "experts", "prefill_attention", "decode_attention", "stream", "batched_gemm"]
Phase = Literal["train", "prefill", "decode"]


# Fused attention backward: 2.5 x the FLOPs of the forward pass, at 63/73 of its best efficiency (arXiv
# 2307.08691 s. 4.1).
FLASH_BACKWARD = 2.5 * 73.0 / 63.0


# Elements read and written per element by eager PyTorch, counted on transformers' Llama: cast up, square, mean,
# scale, cast
# down, weight (34 bytes of 2); two products, a negation, a concatenation and a sum per rotated tensor (10 passes).
EAGER_RMS_NORM, EAGER_ROTARY = 17.0, 10.0
QUANTIZED = ("fp8", "fp4")  # units whose products take activations narrower than what norms and attention write


@dataclass(frozen=True)
class Op:
    """One operator of one rank. Numbers are floats, or arrays with one entry a plan."""

    name: str
    kind: OpKind
    flops: Num
    nbytes: Num
    m: Num = 0.0
    n: Num = 0.0
    k: Num = 0.0
    seq: Num = 0.0
    batch: Num = 1.0
    kernels: float = 1.0
    unit: str = "bf16"
    curve: str = "bf16"
    weight_elements: Num = 0.0
    quantize: Num = 0.0  # activations converted to the format that is multiplied, by kernels of their own
    flash_version: int = 3
    reread: float = 1.0  # of decode attention: how often the cache passes through the second-level cache


@dataclass(frozen=True)
class Shape:
    """What one rank sees in one pass over one (micro)batch.

    `queries` tokens per sequence are computed against `context` (cache included); `tokens` = batch x queries
    goes through
    the matrices. `split` is the divisor of norms and residuals: `tp` with sequence parallelism, else 1. `cp`
    ranks share
    a sequence's queries.
    """

    phase: Phase
    batch: Num
    queries: Num
    context: Num
    tp: Num = 1.0
    ep: Num = 1.0
    cp: Num = 1.0
    split: Num = 1.0
    dropout: bool = False

    @property
    def tokens(self) -> Num:
        """Tokens of this rank."""
        return self.batch * self.queries / self.cp


@dataclass(frozen=True)
class Formats:
    """Bytes per element and the matrix unit, resolved from a Precision once."""

    weight: float
    activation: float
    kv: float
    unit: str
    curve: str

    @classmethod
    def of(cls, precision: Precision) -> Formats:
        """`curve` names the kernel family: weight-only formats multiply on the activations' unit."""
        weights, compute = precision.weights, precision.compute
        curve = {"fp16": "bf16", "tf32": "bf16", "fp32": "bf16"}.get(compute, compute)
        if weights in ("int8", "int4") and compute not in ("int8", "int4"):
            curve = f"{weights}wo"
        size = BYTES_PER_ELEMENT
        return cls(size[weights], size[precision.activations], size[precision.kv], compute, curve)


def sharded_columns(linear: Linear, tp: Num) -> tuple[Num, Num]:
    """Input and output width of one rank's part; key-value heads are replicated once there are more ranks than
    heads.
    """
    if linear.shard == "col":
        return float(linear.n_in), linear.n_out / tp
    if linear.shard == "row":
        return linear.n_in / tp, float(linear.n_out)
    if linear.shard == "kv":
        return float(linear.n_in), linear.n_out / np.minimum(tp, float(linear.heads))
    return float(linear.n_in), float(linear.n_out)


def gemm(name: str, m: Num, k: Num, n: Num, formats: Formats) -> Op:
    """Activations m x k times weights k x n."""
    weight = k * n
    nbytes = formats.weight * weight + formats.activation * m * (k + n)
    return Op(
        name, "gemm", 2.0 * m * n * k, nbytes, m=m, n=n, k=k, unit=formats.unit, curve=formats.curve,
        weight_elements=weight, quantize=m * k if formats.unit in QUANTIZED else 0.0,
    )  # fmt: skip


def _linears(linears: tuple[Linear, ...], tokens: Num, tp: Num, formats: Formats, prefix: str = "") -> list[Op]:
    """One product per matrix; those that read the same input side by side run as one (q, k, v)."""
    fused: list[Op] = []
    together = [linear for linear in linears if linear.name in ("q", "k", "v")]
    for linear in linears:
        width_in, width_out = sharded_columns(linear, tp)
        if linear in together:
            if linear is not together[0]:
                continue
            width_out = sum((sharded_columns(part, tp)[1] for part in together[1:]), start=width_out)
            fused.append(gemm(prefix + "qkv", tokens, width_in, width_out, formats))
        else:
            fused.append(gemm(prefix + linear.name, tokens, width_in, width_out, formats))
    return fused


def _stream(name: str, nbytes: Num, kernels: float = 1.0) -> Op:
    return Op(name, "stream", 0.0, nbytes, kernels=kernels)


def attention_ops(mixer: Attention | LatentAttention, shape: Shape, formats: Formats, engine: Engine) -> list[Op]:
    """Scores, softmax and weighted sum: fused, unfused (all s^2 scores through memory), or one token against
    its cache.
    """
    heads = mixer.heads / shape.tp
    pairs = visible_pairs(shape.queries, shape.context, causal=mixer.causal, window=mixer.window) / shape.cp
    if shape.phase == "decode":
        op = _decode_attention(mixer, shape, formats, heads, engine)
        return [_stream("cache copy", 2.0 * engine.copy_cost * op.nbytes, 2.0), op] if engine.copies_cache else [op]
    size = formats.activation
    width = mixer.head_dim + mixer.v_head_dim
    if engine.flash_attention:
        flops = 2.0 * shape.batch * pairs * heads * width
        held = (shape.queries / shape.cp) * heads * width + shape.context * _kv_width(mixer, shape.tp)
        op = Op(
            "attention",
            "prefill_attention",
            flops,
            shape.batch * held * size,
            seq=shape.context,
            unit=_unit(formats),
            flash_version=engine.flash_version,
        )
        return [op]
    rows = shape.queries / shape.cp
    scores = shape.batch * heads * rows * shape.context
    into = shape.batch * heads * (rows * mixer.head_dim + shape.context * mixer.head_dim)
    value = shape.batch * heads * (rows + shape.context) * mixer.v_head_dim
    softmax = 2.0 * size * scores
    dropout = (2.0 * size + 1.0) * scores if shape.dropout else 0.0

    def product(name: str, k: float, nbytes: Num) -> Op:
        return Op(
            name, "batched_gemm", 2.0 * scores * k, nbytes, m=rows, n=shape.context, k=k, batch=shape.batch * heads,
            unit=_unit(formats),
        )  # fmt: skip

    return [
        product("scores", mixer.head_dim, size * (into + scores)),
        _stream("softmax", softmax + dropout, 2.0 if shape.dropout else 1.0),
        product("weighted sum", mixer.v_head_dim, size * (value + scores)),
    ]


def _unit(formats: Formats) -> str:
    """Attention multiplies in the activations' format, 16 bits under every weight quantisation modelled here."""
    return formats.unit if formats.unit in ("fp16", "bf16", "fp32") else "bf16"


def _kv_width(mixer: Attention | LatentAttention, tp: Num) -> Num:
    if isinstance(mixer, LatentAttention):
        return mixer.heads / tp * (mixer.head_dim + mixer.v_head_dim)
    return mixer.kv_heads / np.minimum(tp, float(mixer.kv_heads)) * (mixer.head_dim + mixer.v_head_dim)


def _decode_attention(
    mixer: Attention | LatentAttention, shape: Shape, formats: Formats, heads: Num, engine: Engine
) -> Op:
    held = shape.context if mixer.window is None else np.minimum(shape.context, float(mixer.window))
    if isinstance(mixer, LatentAttention):  # absorbed form: every head reads the same compressed vector
        width = mixer.kv_lora_rank + mixer.rope_dim
        nbytes = shape.batch * formats.kv * (held * width + (shape.context * mixer.index_dim))
        flops = 2.0 * shape.batch * held * heads * (width + mixer.kv_lora_rank)
    else:
        nbytes = shape.batch * formats.kv * held * _kv_width(mixer, shape.tp)
        flops = 2.0 * shape.batch * held * heads * (mixer.head_dim + mixer.v_head_dim)
    # kernels that give each query head a block of its own read a shared key-value head once per query head
    shared = mixer.heads / mixer.kv_heads if isinstance(mixer, Attention) else 1.0
    reread = 1.0 if engine.grouped_decode else shared
    return Op("attention", "decode_attention", flops, nbytes / shape.cp, unit=_unit(formats), reread=reread)


def recurrence_ops(mixer: StateSpace, shape: Shape, formats: Formats) -> list[Op]:
    """Short convolution and recurrence. Prefill runs in chunks (work scales with tokens), decode reads the
    whole state.
    """
    tokens, tp = shape.tokens, shape.tp
    conv = formats.activation * 2.0 * tokens * mixer.conv_channels / tp
    flops = tokens * mixer.mixing_flops_per_token() / tp
    if shape.phase == "decode":
        state = shape.batch * mixer.state_elements / tp * 2.0 * 4.0  # fp32, read and written
        return [_stream("convolution", conv), _stream("state update", state)]
    through = formats.activation * tokens * (2 * mixer.conv_channels + mixer.inner) / tp
    scan = Op("scan", "prefill_attention", flops, through, seq=shape.queries, unit=_unit(formats))
    return [_stream("convolution", conv), scan]


def moe_ops(moe: MixtureOfExperts, hidden: int, shape: Shape, formats: Formats) -> list[Op]:
    """Routed experts of one rank: `top_k` visits per token, weights of the experts that are touched at all."""
    tokens, ep = shape.tokens, np.asarray(shape.ep, dtype=float)
    expert = float(sum(linear.n_in * linear.n_out for linear in moe.expert(hidden)))
    by_tp = np.where(ep > 1, 1.0, shape.tp)
    local = moe.experts / ep
    group_tokens = tokens * np.maximum(ep / shape.tp, 1.0)
    touched = local * (1.0 - (1.0 - moe.top_k / moe.experts) ** group_tokens)
    visits = tokens * moe.top_k / np.where(ep > 1, shape.tp, 1.0)
    weights = touched * expert / by_tp
    flops = 2.0 * visits * expert / by_tp
    nbytes = formats.weight * weights + formats.activation * visits * (2 * hidden + 3 * moe.width / by_tp)
    op = Op(
        "experts", "experts", flops, nbytes, m=visits / np.maximum(touched, 1e-9), n=moe.width / by_tp,
        unit=formats.unit, curve=formats.curve, weight_elements=local * expert / by_tp,
    )  # fmt: skip
    shuffle = _stream("route and combine", formats.activation * tokens * hidden * 2 * (1 + moe.top_k), 3.0)
    return [op, shuffle]


def layer_ops(layer: Layer, model: ModelSpec, shape: Shape, formats: Formats, engine: Engine) -> list[Op]:
    """Forward operators of one layer on one rank, in order."""
    hidden, size = model.hidden, formats.activation
    passes = shape.tokens * hidden * size / shape.split
    norms = max(1, round(layer.norm_params / (2 * hidden))) if layer.mixer is not None and layer.ffn else 1
    out: list[Op] = []
    mixer, ffn = layer.mixer, layer.ffn
    residual = (3.5 if shape.dropout else 3.0) * passes
    eager = engine.eager and ffn is not None and ffn.gated
    norm_bytes = (EAGER_RMS_NORM if eager else 2.0) * passes
    norm = _stream("norm", norm_bytes, 6.0 if eager else 1.0)
    if mixer is not None:
        out += [norm, *_linears(mixer.linears(hidden), shape.tokens, shape.tp, formats)]
        if isinstance(mixer, StateSpace):
            out += recurrence_ops(mixer, shape, formats)
        else:
            if shape.phase != "decode" and isinstance(mixer, Attention) and mixer.rotary:
                turned = shape.tokens * (mixer.heads + mixer.kv_heads) * mixer.head_dim / shape.tp
                out.append(_stream("rotary", (EAGER_ROTARY if eager else 2.0) * size * turned, 8.0 if eager else 1.0))
            if engine.transposes_qkv and shape.phase == "prefill":
                moved = shape.tokens * (
                    mixer.heads / shape.tp * (mixer.head_dim + mixer.v_head_dim) + _kv_width(mixer, shape.tp)
                )
                out.append(_stream("bias and transpose", 2.0 * size * moved, 2.0))
            out += attention_ops(mixer, shape, formats, engine)
        out.append(_stream("residual", residual))
    if ffn is not None:
        if not layer.parallel:
            out.append(_stream("norm", norm_bytes * max(1, norms - 1), 6.0 if eager else 1.0))
        out += _linears(ffn.linears(hidden), shape.tokens, shape.tp, formats, "ffn ")
        width = ffn.width if not isinstance(ffn, MixtureOfExperts) else ffn.shared_width + ffn.dense_width
        if width:
            gate = (5.0 if eager else 3.0) if ffn.gated else 2.0
            out.append(_stream("activation", gate * size * shape.tokens * width / shape.tp))
        if isinstance(ffn, MixtureOfExperts):
            out += moe_ops(ffn, hidden, shape, formats)
        if not layer.parallel:
            out.append(_stream("residual", residual))
    out = [part for op in out for part in _quantized(op, engine)]
    return _fuse(out) if engine.fused_residual and shape.phase != "train" else out


def _quantized(op: Op, engine: Engine) -> list[Op]:
    """A product with the conversion of its activations as the engine does it: 2 bytes read, 1 written an element."""
    if op.kind != "gemm" or engine.quantization == "dynamic" or not np.any(np.asarray(op.quantize) > 0):
        return [op]
    bare = replace(op, quantize=0.0)
    if engine.quantization == "fused":
        return [bare]
    return [_stream("ffn quantize" if op.name.startswith("ffn ") else "quantize", 3.0 * op.quantize), bare]


def _fuse(ops: list[Op]) -> list[Op]:
    """Inference engines run a residual and the norm after it as one kernel: one read of the sum is saved."""
    out: list[Op] = []
    for op in ops:
        if op.name == "norm" and out and out[-1].name == "residual":
            last = out[-1]
            out[-1] = replace(last, name="residual", nbytes=last.nbytes + op.nbytes / 2)
        else:
            out.append(op)
    return out


def head_ops(model: ModelSpec, tokens: Num, tp: Num, formats: Formats, *, training: bool) -> list[Op]:
    """The language-model head on `tokens`, and in training the loss in fp32."""
    if not model.lm_head:
        return []
    width = float(model.embedding_dim or model.hidden)
    sixteen = Formats(
        2.0 if formats.weight < 2 else formats.weight, formats.activation, formats.kv, _unit(formats), "bf16"
    )
    out = [gemm("head", tokens, width, model.vocab / tp, sixteen)]
    if training:
        # cast, max, shift, exp, sum, normalise, scale, cast back: 54 bytes an fp32 logit, forward and backward together
        # (vocab_parallel_cross_entropy of Megatron-LM, counted by hand)
        out.append(_stream("loss", 54.0 * tokens * model.vocab / tp, 8.0))
    return out


def backward_ops(op: Op, formats: Formats, *, weight_gradient: bool = True, fused_attention: bool = True) -> list[Op]:
    """Backward operators of a forward one: two products for a matrix, 2.5 x the FLOPs for recomputing fused
    attention.
    """
    if op.kind == "gemm":
        size, weight = formats.activation, formats.weight
        nbytes = size * op.m * (op.k + op.n) + weight * op.n * op.k
        wide = op.m * op.n if np.any(np.asarray(op.quantize) > 0) else 0.0  # the gradient, once for both products
        grad_input = replace(op, name=op.name + " dX", n=op.k, k=op.n, nbytes=nbytes, quantize=wide)
        grad_weight = replace(
            op, name=op.name + " dW", m=op.k, n=op.n, k=op.m, nbytes=nbytes, weight_elements=0.0, quantize=0.0
        )
        return [grad_input, grad_weight] if weight_gradient else [grad_input]
    if op.kind == "experts":
        factor = 2.0 if weight_gradient else 1.0
        return [replace(op, name="experts d", flops=factor * op.flops, nbytes=factor * op.nbytes)]
    if op.kind == "prefill_attention":
        return [replace(op, name=op.name + " d", flops=FLASH_BACKWARD * op.flops, nbytes=2.5 * op.nbytes)]
    if op.kind == "batched_gemm":
        return [replace(op, name=op.name + " d", flops=2.0 * op.flops, nbytes=2.0 * op.nbytes, kernels=2.0)]
    grow = {"loss": 0.0, "residual": 2.0 / 3.0, "norm": 1.75, "softmax": 1.4, "activation": 1.5}.get(op.name, 1.0)
    return [replace(op, name=op.name + " d", nbytes=grow * op.nbytes)] if grow else []
