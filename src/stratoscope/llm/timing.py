"""Prices the operators of a pass over the whole model on one rank, communication included."""

from __future__ import annotations

import numpy as np

from stratoscope.llm.base import Num, UnsupportedError
from stratoscope.llm.collectives import collective, group
from stratoscope.llm.efficiency import Cost, Efficiency
from stratoscope.llm.ops import Formats, Op, Phase, Shape, backward_ops, gemm, head_ops, layer_ops
from stratoscope.llm.plan import Engine, Precision
from stratoscope.llm.report import Term
from stratoscope.llm.spec import Attention, Layer, MixtureOfExperts, ModelSpec, StateSpace

# One block of a segmented radix sort orders a row of logits: A100 whole-device 14.7e9 key-value pairs a second
# (half the
# 29.4e9 keys of Adinets and Merrill, arXiv 2206.01784) over 108 multiprocessors.
SORT_PAIRS_PER_S_PER_UNIT = 14.7e9 / 108
SORT_UNITS = 108
# FlashAttention-2 reaches 35 % of an H100 (arXiv 2407.08608, abstract) where the fitted kernels reach 60 %.
FLASH2_ON_HOPPER = 0.60 / 0.35
# Version 2 runs 1.3 to 2.5 times as fast as version 1 in Triton (arXiv 2307.08691 s. 4.1); their geometric mean.
FLASH1 = (1.3 * 2.5) ** 0.5


def price(op: Op, efficiency: Efficiency) -> Cost:
    """Seconds of one operator."""
    if op.kind == "gemm":
        return efficiency.gemm(
            op.m, op.n, op.k, kind=op.curve, unit=op.unit, nbytes=op.nbytes, quantize=op.quantize
        )  # fmt: skip
    if op.kind == "batched_gemm":
        return efficiency.gemm(op.m, op.n, op.k, kind="bf16", unit=op.unit, nbytes=op.nbytes, batch=op.batch)
    if op.kind == "experts":
        return efficiency.experts(op.flops, op.nbytes, op.unit, op.m, op.n)
    if op.kind == "prefill_attention":
        newer = efficiency.hardware.generation in ("hopper", "blackwell") and efficiency.level == "prior"
        slow = FLASH2_ON_HOPPER if op.flash_version <= 2 and newer else 1.0
        slow *= FLASH1 if op.flash_version == 1 and efficiency.level == "prior" else 1.0
        return efficiency.prefill_attention(slow * op.flops, op.nbytes, op.seq, op.unit)
    if op.kind == "decode_attention":
        return efficiency.decode_attention(op.nbytes, op.flops, op.unit, op.reread)
    return efficiency.stream(op.nbytes, op.kernels)


FAMILY = {
    "gemm": "gemm",
    "batched_gemm": "gemm",
    "experts": "experts",
    "prefill_attention": "prefill attention",
    "decode_attention": "decode attention",
    "stream": "elementwise",
}


def term(group_name: str, op: Op, efficiency: Efficiency, count: Num = 1.0) -> Term:
    """An operator as a term of a sum."""
    return Term(group_name, op.name, price(op, efficiency), count, op.kernels, FAMILY[op.kind])


def group_name(op: Op) -> str:
    """Which part of a layer an operator belongs to, for the explanation and the plots."""
    if op.name.startswith(("ffn ", "experts", "route", "activation")):
        return "feed-forward"
    if op.kind == "stream":
        return "norms and residuals" if op.name.startswith(("norm", "residual")) else "attention"
    return "attention"


def check_supported(model: ModelSpec) -> None:
    """Raises UnsupportedError for models whose time this module does not compute."""
    if any(layer.cross is not None for layer in model.layers):
        raise UnsupportedError(f"{model.name}: time of encoder-decoder models is not modelled, only their size")


def reduces_per_layer(layer: Layer) -> int:
    """All-reduces of a forward pass under tensor parallelism: one after each block that ends in a row-split matrix."""
    blocks = (layer.mixer is not None) + (layer.ffn is not None)
    return 1 if layer.parallel and blocks == 2 else blocks


def tp_terms(
    layer: Layer,
    hidden: int,
    shape: Shape,
    formats: Formats,
    engine: Engine,
    efficiency: Efficiency,
    count: Num,
    *,
    sequence_parallel: bool = False,
    passes: float = 1.0,
) -> list[Term]:
    """Tensor-parallel collectives of a layer: all-reduces, or all-gathers and reduce-scatters of the same bytes."""
    nbytes = shape.tokens * hidden * formats.activation
    members = group(efficiency.hardware, shape.tp, 1.0)
    times = count * reduces_per_layer(layer) * passes
    if sequence_parallel:
        return [
            Term("tensor parallel", op, collective(efficiency, name, nbytes, members), times, 1.0, "collective")
            for op, name in (("all-gather", "all_gather"), ("reduce-scatter", "reduce_scatter"))
        ]
    cost = collective(efficiency, "all_reduce", nbytes, members, one_shot=engine.custom_allreduce)
    return [Term("tensor parallel", "all-reduce", cost, times, 1.0, "collective")]


def expert_terms(
    layer: Layer, hidden: int, shape: Shape, formats: Formats, efficiency: Efficiency, count: Num, passes: float = 1.0
) -> list[Term]:
    """Dispatch and combine of expert parallelism: an all-to-all each, top_k copies of a token."""
    if not isinstance(layer.ffn, MixtureOfExperts) or not np.any(np.asarray(shape.ep) > 1):
        return []
    nbytes = shape.tokens / shape.tp * layer.ffn.top_k * hidden * formats.activation
    members = group(efficiency.hardware, shape.ep, 1.0)
    cost = collective(efficiency, "alltoall", nbytes, members)
    return [Term("expert parallel", "all-to-all", cost, 2.0 * passes * count, 1.0, "collective")]


def context_terms(
    layer: Layer, shape: Shape, formats: Formats, efficiency: Efficiency, count: Num, passes: float = 1.0
) -> list[Term]:
    """Context parallelism: every layer gathers the keys and values of its sequence."""
    if not isinstance(layer.mixer, Attention) or not np.any(np.asarray(shape.cp) > 1):
        return []
    width = layer.mixer.cache_elements_per_token / np.minimum(shape.tp, float(layer.mixer.kv_heads))
    nbytes = shape.batch * shape.queries * width * formats.activation
    members = group(efficiency.hardware, shape.cp, shape.tp)
    cost = collective(efficiency, "all_gather", nbytes, members)
    return [Term("context parallel", "all-gather", cost, passes * count, 1.0, "collective")]


def forward_terms(
    model: ModelSpec,
    shape: Shape,
    formats: Formats,
    engine: Engine,
    efficiency: Efficiency,
    *,
    sequence_parallel: bool = False,
    head_tokens: Num | None = None,
) -> list[Term]:
    """One forward pass over all layers, the embedding and the head (on `head_tokens`), as one rank would run
    them all.
    """
    out: list[Term] = []
    for layer, count in model.groups:
        ops = layer_ops(layer, model, shape, formats, engine)
        out += [term(group_name(op), op, efficiency, float(count)) for op in ops]
        times = float(count)
        out += tp_terms(
            layer, model.hidden, shape, formats, engine, efficiency, times, sequence_parallel=sequence_parallel
        )
        out += expert_terms(layer, model.hidden, shape, formats, efficiency, times)
        out += context_terms(layer, shape, formats, efficiency, times)
    out += ends(model, shape, formats, efficiency, head_tokens)
    return out


def ends(
    model: ModelSpec, shape: Shape, formats: Formats, efficiency: Efficiency, head_tokens: Num | None
) -> list[Term]:
    """Embedding look-up and language-model head."""
    entry = Op("embedding", "stream", 0.0, 2.0 * shape.tokens * model.hidden * formats.activation)
    patches = dict(model.extra_params).get("patch embedding")
    if patches is not None:  # an image: each token is a patch times a matrix
        entry = gemm("patch embedding", shape.tokens, float(patches // model.hidden), float(model.hidden), formats)
    out = [term("head", entry, efficiency)]
    tokens = shape.tokens if head_tokens is None else head_tokens
    if (
        shape.phase != "train" and model.lm_head
    ):  # sampling wants the logits of the whole vocabulary on one rank, in fp32
        members = group(efficiency.hardware, shape.tp, 1.0)
        gather = collective(efficiency, "all_gather", 4.0 * tokens * model.vocab, members)
        out.append(Term("head", "all-gather logits", gather, 1.0, 1.0, "collective"))
    out += [
        term("head", op, efficiency)
        for op in head_ops(model, tokens, shape.tp, formats, training=shape.phase == "train")
    ]
    return out


def backward_terms(
    model: ModelSpec,
    shape: Shape,
    formats: Formats,
    engine: Engine,
    efficiency: Efficiency,
    *,
    weight_gradient: bool = True,
) -> list[Term]:
    """The backward pass of the layers (without recomputation and communication)."""
    out: list[Term] = []
    for layer, count in model.groups:
        for op in layer_ops(layer, model, shape, formats, engine):
            backs = backward_ops(op, formats, weight_gradient=weight_gradient)
            out += [term(group_name(op), back, efficiency, float(count)) for back in backs]
    return out


def sampling_term(efficiency: Efficiency, vocab: int, batch: Num, *, top_p: bool) -> list[Term]:
    """Sampling of one token per sequence: a softmax pass, and for nucleus sampling a sort of each row of logits."""
    if not top_p or efficiency.level == "peak":
        return []
    waves = np.ceil(np.asarray(batch, dtype=float) / SORT_UNITS)
    time = vocab * waves / SORT_PAIRS_PER_S_PER_UNIT
    cost = Cost(time, time * 0.5, time * 1.5, 0.0, 0.0, time, "radix sort of logits", efficiency.level)
    return [Term("sampling", "top-p sort", cost, 1.0, 4.0, "sampling")]


def has_state_space(model: ModelSpec) -> bool:
    """Whether any layer is recurrent."""
    return any(isinstance(layer.mixer, StateSpace) for layer in model.layers)


def layer_prices(
    model: ModelSpec, phase: Phase, batch: int, tokens: int, tp: float, precision: Precision, engine: Engine,
    efficiency: Efficiency,
) -> list[tuple[Op, float]]:  # fmt: skip
    """The forward operators of each distinct layer with their seconds: `tokens` queries, or one against `tokens`."""
    queries = 1.0 if phase == "decode" else float(tokens)
    shape = Shape(phase, float(batch), queries, float(tokens), tp=tp)
    formats = Formats.of(precision)
    return [
        (op, float(np.max(price(op, efficiency).time)))
        for layer, _ in model.groups
        for op in layer_ops(layer, model, shape, formats, engine)
    ]
