"""Time of one optimizer step: microbatches through pipeline stages, exposed communication, gradients, optimizer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stratoscope.llm.base import Num
from stratoscope.llm.collectives import Group, collective, group, point_to_point
from stratoscope.llm.efficiency import Efficiency
from stratoscope.llm.offload import offloaded_optimizer
from stratoscope.llm.ops import Formats, Op, Shape, gemm, layer_ops
from stratoscope.llm.plan import Engine, Lora, Precision
from stratoscope.llm.report import Term, Total, total
from stratoscope.llm.size import lora_params, rank_params
from stratoscope.llm.spec import MixtureOfExperts, ModelSpec
from stratoscope.llm.timing import (
    backward_terms,
    context_terms,
    ends,
    expert_terms,
    forward_terms,
    term,
    tp_terms,
)

# Bytes moved per parameter by a mixed-precision Adam step: gradient norm (4), fused update (16 in, 12 out), copy back
# to 16 bits (4 + 2), zeroing the fp32 gradients (4); fp16 adds the unscale-and-check pass (8). Counted on apex's
# multi-tensor kernels.
ADAM_BYTES = {"bf16": 42.0, "fp16": 50.0, "fp32": 40.0, "fp8": 42.0}
# A 16-bit gradient added into an fp32 buffer: 2 read, 4 read, 4 written.
ACCUMULATE_BYTES = 10.0
# Of the multiprocessors, what a collective behind compute takes away: 16 channels of 108; NCCL defaults, recalled.
COLLECTIVE_SHARE = 0.15


@dataclass(frozen=True)
class Split:
    """A plan's numbers for the time of a step; floats, or arrays with one entry a plan."""

    tp: Num
    cp: Num
    pp: Num
    vpp: Num
    ep: Num
    dp: Num
    micro_batch: Num
    global_batch: Num
    seq: float
    zero: int = 0
    replicas: Num = 1.0
    sequence_parallel: bool = False
    recompute: str = "none"
    offload: bool = False  # optimizer states in the host's memory
    outward: tuple[str, ...] = ("tp", "cp", "dp", "pp")  # placement, from neighbours outwards

    def stride(self, *axes: str) -> Num:
        """How far apart the innermost of `axes` lies in the placement."""
        inner: Num = 1.0
        for name in self.outward:
            if name in axes:
                break
            inner = inner * getattr(self, name)
        return inner

    @property
    def expert_replicas(self) -> Num:
        """Ranks that hold the same experts: experts are spread over dp, cp and tp together."""
        spread = self.dp * self.cp * self.tp / np.asarray(self.ep, dtype=float)
        return np.where(np.asarray(self.ep) > 1, np.maximum(spread, 1.0), self.dp * self.cp)

    @property
    def microbatches(self) -> Num:
        """Gradient accumulation steps of one replica."""
        return self.global_batch / (self.dp * self.micro_batch)


@dataclass(frozen=True)
class StepTime:
    """One step: its parts in seconds, their terms for the explanation, and the whole."""

    whole: Total
    forward: list[Term]
    backward: list[Term]
    bubble: Num
    pipeline: Num
    gradients: list[Term]
    exposed: Num
    optimizer: Term
    microbatches: Num
    stage_share: Num  # of the layers, on the fullest stage


def step_time(
    model: ModelSpec, at: Split, precision: Precision, engine: Engine, efficiency: Efficiency, lora: Lora | None = None
) -> StepTime:
    """Seconds of one optimizer step.

    (m - 1) slowest stage + all stages once, the latter divided by the interleaving (arXiv 2104.04473 s. 2.2), plus
    pipeline hops, exposed data-parallel communication and the optimizer.
    """
    formats = Formats.of(precision)
    split = at.tp if at.sequence_parallel else 1.0
    shape = Shape(
        "train", at.micro_batch, at.seq, at.seq, tp=at.tp, ep=at.ep, cp=at.cp, split=split, dropout=engine.dropout
    )
    layers = float(len(model.layers))
    forward = forward_terms(model, shape, formats, engine, efficiency, sequence_parallel=at.sequence_parallel)
    backward = _backward(model, at, shape, formats, engine, efficiency, lora)
    layer_part = total([item for item in forward + backward if item.group not in ("head", "head backward")])
    end_part = total([item for item in forward + backward if item.group in ("head", "head backward")])
    pp = np.asarray(at.pp, dtype=float)
    slow_share = np.ceil(layers / pp) / layers
    slowest = layer_part.time * slow_share + end_part.time
    launches = sum((np.asarray(item.count) * item.kernels for item in forward + backward), start=np.zeros(()))
    if efficiency.level != "peak":
        slowest = np.maximum(slowest, launches * slow_share * engine.host_launch_s)
    everything = np.maximum(layer_part.time + end_part.time, slowest)
    m = at.microbatches
    bubble = (everything - slowest) / at.vpp
    hops = point_to_point(
        efficiency, shape.tokens * model.hidden * formats.activation / at.tp, across=_pp_across(at, efficiency)
    )
    # forward and backward, each chunk of the interleaved schedule; the wait is not hidden behind compute
    pipeline = np.where(pp > 1, 2.0 * hops.time * at.vpp * (m + (pp - 1.0) / at.vpp), 0.0)
    gradients, exposed = _data_parallel(model, at, formats, precision, engine, efficiency, m * slowest, lora)
    if at.offload:
        hidden, world = total(backward).time * slow_share, at.tp * at.cp * at.pp * at.dp
        optimizer = offloaded_optimizer(_updated_params(model, at, lora), world, hidden, efficiency)
    else:
        optimizer = _optimizer(model, at, precision, efficiency, lora)
    time = m * slowest + bubble + pipeline + exposed + optimizer.time
    compute = total(forward + backward)
    least, most = (0.5, 2.0) if at.offload else (0.8, 1.3)
    low = compute.low / compute.time * (m * slowest + bubble) + 0.9 * pipeline + 0.8 * exposed + least * optimizer.time
    high = compute.high / compute.time * (m * slowest + bubble) + 1.3 * (pipeline + exposed) + most * optimizer.time
    return StepTime(
        Total(time, low, high), forward, backward, bubble, pipeline, gradients, exposed, optimizer, m, slow_share
    )


def _backward(
    model: ModelSpec,
    at: Split,
    shape: Shape,
    formats: Formats,
    engine: Engine,
    efficiency: Efficiency,
    lora: Lora | None,
) -> list[Term]:
    out = backward_terms(model, shape, formats, engine, efficiency, weight_gradient=lora is None)
    for layer, count in model.groups:
        again = 1.0 + (at.recompute == "full")
        out += tp_terms(
            layer, model.hidden, shape, formats, engine, efficiency, float(count),
            sequence_parallel=at.sequence_parallel, passes=again,
        )  # fmt: skip
        if at.sequence_parallel:  # the input of the column-split matrices was not kept whole: gathered once more
            gathers = tp_terms(
                layer, model.hidden, shape, formats, engine, efficiency, float(count), sequence_parallel=True
            )
            out.append(gathers[0])
        out += expert_terms(layer, model.hidden, shape, formats, efficiency, float(count), again)
        out += context_terms(layer, shape, formats, efficiency, float(count), again)
        for op in layer_ops(layer, model, shape, formats, engine):
            core = op.name in ("scores", "softmax", "weighted sum")
            if at.recompute == "full" or (at.recompute == "selective" and core):
                out.append(term("recomputation", op, efficiency, float(count)))
    if lora is not None:
        out += _adapters(model, shape, formats, efficiency, lora)
    else:
        dense, experts, _ = rank_params(model, at.tp, at.ep, 1.0)
        accumulate = Op("gradient accumulation", "stream", 0.0, ACCUMULATE_BYTES * (dense + experts))
        out.append(term("gradients", accumulate, efficiency))
    for item in ends(model, shape, formats, efficiency, None):
        if item.name == "head":
            out.append(Term("head backward", "head dX and dW", item.cost, 2.0, 2.0, item.family))
    return out


def _adapters(model: ModelSpec, shape: Shape, formats: Formats, efficiency: Efficiency, lora: Lora) -> list[Term]:
    """Forward and backward products of the adapters: 2 + 4 thin ones a targeted matrix."""
    out = []
    for layer, count in model.groups:
        for linear in layer.linears(model.hidden):
            if linear.name in lora.targets:
                down = gemm("adapter down", shape.tokens, linear.n_in / 1.0, float(lora.rank), formats)
                up = gemm("adapter up", shape.tokens, float(lora.rank), linear.n_out / shape.tp, formats)
                out += [term("adapters", op, efficiency, 3.0 * count) for op in (down, up)]
    return out


def _pp_across(at: Split, efficiency: Efficiency) -> npt.NDArray[np.bool_]:
    size = efficiency.hardware.scale_up.size or 2**31
    return np.asarray(at.stride("pp") * at.pp) > size


def _data_parallel(
    model: ModelSpec, at: Split, formats: Formats, precision: Precision, engine: Engine, efficiency: Efficiency,
    compute: Num, lora: Lora | None,
) -> tuple[list[Term], Num]:  # fmt: skip
    """Gradient (and, from ZeRO-1 on, weight) collectives of one step, and what of them is not hidden.

    ZeRO-0 all-reduces gradients; 1 and 2 reduce-scatter gradients and all-gather weights; 3 gathers weights in
    forward and
    backward of every microbatch and reduce-scatters gradients: 3 against 2 parameter volumes (arXiv 1910.02054 s. 7).
    """
    dense, experts, embedding = rank_params(model, at.tp, at.ep, at.pp)
    routed = any(isinstance(layer.ffn, MixtureOfExperts) for layer, _ in model.groups)
    stride, ranks = at.stride("cp", "dp"), at.dp * at.cp
    out: list[Term] = []

    def add(name: str, op: str, nbytes: Num, count: Num, members: Group) -> None:
        cost = collective(efficiency, op, nbytes, members)
        out.append(Term("data parallel", name, cost, count, 1.0, "collective"))

    def exchange(of: str, held: Num, trained: Num, replicas: Num, apart: Num) -> None:
        members = group(efficiency.hardware, replicas / at.replicas, apart)
        grad = trained * (4.0 if precision.gradients == "fp32" else 2.0)
        if at.zero == 0:
            add(f"all-reduce {of}gradients", "all_reduce", grad, 1.0, members)
        elif at.zero < 3:
            add(f"reduce-scatter {of}gradients", "reduce_scatter", grad, 1.0, members)
            if lora is None:
                add(f"all-gather {of}weights", "all_gather", held * formats.weight, 1.0, members)
        else:
            size = 4.0 if engine.gathers_masters else formats.weight
            add(f"all-gather {of}weights", "all_gather", held * size, 2.0 * at.microbatches, members)
            add(f"reduce-scatter {of}gradients", "reduce_scatter", grad, at.microbatches, members)
        if np.any(np.asarray(at.replicas) > 1):
            outer = group(efficiency.hardware, at.replicas, apart * replicas / at.replicas)
            add(f"all-reduce {of}over replicas", "all_reduce", grad / (replicas / at.replicas), 1.0, outer)

    shared = dense + embedding
    exchange("", shared, shared if lora is None else lora_params(model, lora) / (at.tp * at.pp), ranks, stride)
    if routed:  # replicas of an expert lie as far apart as the experts are spread
        apart = np.where(np.asarray(at.ep) > 1, np.maximum(at.ep, stride), stride)
        trained = experts if lora is None else 0.0 * experts
        exchange("expert ", experts, trained, np.maximum(at.expert_replicas, at.replicas), apart)
    time = sum((np.asarray(item.time) for item in out), start=np.zeros(()))
    if not engine.overlap_dp:
        return out, time
    # hidden behind all of the compute under ZeRO-3, behind the backward pass of the last microbatch otherwise; the
    # first gather and the last bucket have nothing to hide behind
    window = compute if at.zero == 3 else compute / at.microbatches * (2.0 / 3.0)
    unhidden = time / (
        len(model.layers) / np.asarray(at.pp, dtype=float) * np.maximum(at.microbatches, 1.0) ** (at.zero == 3)
    )
    exposed = np.maximum(time - window, np.minimum(unhidden, time))
    taken = 0.0 if efficiency.level == "peak" else COLLECTIVE_SHARE
    return out, exposed + taken * (time - exposed)


def _updated_params(model: ModelSpec, at: Split, lora: Lora | None) -> Num:
    """Parameters that the optimizer of one rank updates."""
    dense, experts, embedding = rank_params(model, at.tp, at.ep, at.pp)
    own = dense + embedding
    if at.zero >= 1:
        own = own / (at.dp * at.cp / at.replicas)
        experts = experts / np.maximum(at.expert_replicas / at.replicas, 1.0)
    params = own + experts
    if lora is not None:
        shard = at.dp * at.cp / at.replicas if at.zero >= 1 else 1.0
        params = lora_params(model, lora) / (at.tp * at.pp) / shard
    return params


def _optimizer(model: ModelSpec, at: Split, precision: Precision, efficiency: Efficiency, lora: Lora | None) -> Term:
    nbytes = ADAM_BYTES.get(precision.weights, 42.0) * _updated_params(model, at, lora)
    return term("optimizer", Op("Adam", "stream", 0.0, nbytes, kernels=10.0), efficiency)


def training_flops(
    model: ModelSpec, seq: int, global_batch: int, recompute: str, lora: Lora | None = None
) -> tuple[float, float]:
    """Model FLOPs and executed FLOPs of one step, by the convention of MFU and HFU.

    Model FLOPs are three forward passes with the whole score matrix (arXiv 2204.02311 app. B, 2205.05198 app. A);
    executed ones add the recomputed forward (full) or its attention core (selective). Under adapters the frozen
    matrices take no weight gradient: that third of their work is no model FLOP, three passes of the adapters are.
    """
    forward = model.forward_flops(seq, causal_skips=False) * global_batch
    if lora is not None:
        core = forward - model.forward_flops(1, causal_skips=False) * seq * global_batch
        useful = 2.0 * forward + core + 6.0 * lora_params(model, lora) * seq * global_batch
        return useful, useful + {"none": 0.0, "selective": core, "full": forward}[recompute]
    if recompute == "full":
        head = 2.0 * seq * model.vocab * (model.embedding_dim or model.hidden) * global_batch if model.lm_head else 0.0
        return 3.0 * forward, 4.0 * forward - head
    if recompute == "selective":
        without = model.forward_flops(1, causal_skips=False) * seq * global_batch
        core = forward - without
        return 3.0 * forward, 3.0 * forward + core
    return 3.0 * forward, 3.0 * forward
