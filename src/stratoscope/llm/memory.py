"""Memory of one rank as a timeline over the step: what is alive in each phase, on the first and on the last stage."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stratoscope.llm.base import Num
from stratoscope.llm.efficiency import Efficiency
from stratoscope.llm.ops import Formats
from stratoscope.llm.plan import Engine, Generation, Lora, ParallelPlan, Precision
from stratoscope.llm.report import Node
from stratoscope.llm.size import lora_params, rank_params, saved_bytes_per_token
from stratoscope.llm.spec import Attention, LatentAttention, ModelSpec, StateSpace

OPTIMIZER_BYTES = 12.0  # fp32 master weight and two Adam moments
PAGE_TOKENS = 16  # block of a paged cache (vLLM's default)


@dataclass(frozen=True)
class Moment:
    """What is alive on a rank in one phase of the step, in bytes by kind."""

    phase: str
    stage: str
    parts: dict[str, Num]

    @property
    def total(self) -> Num:
        """Bytes of all kinds."""
        return sum(self.parts.values(), start=np.zeros(()))


@dataclass(frozen=True)
class TrainingMemory:
    """The plan's numbers that decide its memory; floats, or arrays with one entry a plan."""

    tp: Num
    cp: Num
    pp: Num
    vpp: Num
    ep: Num
    dp: Num
    micro_batch: Num
    microbatches: Num
    seq: float
    zero: int
    shard: Num  # ranks that share sharded states (dp, or dp / replicas under HSDP)
    sequence_parallel: bool
    recompute: str
    offload: str

    @property
    def expert_shard(self) -> Num:
        """Ranks that share the sharded states of an expert: those that hold the same experts."""
        replicas = self.shard * self.tp / np.asarray(self.ep, dtype=float)
        return np.where(np.asarray(self.ep) > 1, np.maximum(replicas, 1.0), self.shard)


def training_timeline(
    model: ModelSpec, at: TrainingMemory, precision: Precision, engine: Engine, lora: Lora | None = None
) -> list[Moment]:
    """Phases of one step on the first and the last pipeline stage.

    Weights, gradients and optimizer states persist; activations pile up to the number of microbatches in flight (1F1B:
    min(m, p) on the first stage, one on the last; interleaving adds 1 + (p-1)/(p v), arXiv 2104.04473 s. 2.2); logits
    exist on the last stage between its forward and backward pass; ZeRO-3 holds two gathered layers.
    """
    formats = Formats.of(precision)
    dense, experts, ends = rank_params(model, at.tp, at.ep, at.pp)
    static = _states(model, at, precision, dense + ends, experts, lora)
    layers = float(len(model.layers))
    per_stage = np.ceil(layers / np.asarray(at.pp, dtype=float))
    split = at.tp if at.sequence_parallel else 1.0
    tokens = at.micro_batch * at.seq / at.cp
    kept: Num = 0.0
    largest: Num = 0.0
    for layer, count in model.groups:
        saved = saved_bytes_per_token(
            layer, model.hidden, at.seq, at.tp, split, formats, engine,
            "full" if at.recompute == "full" else "selective" if at.recompute == "selective" else "none",
        )  # fmt: skip
        whole = saved_bytes_per_token(layer, model.hidden, at.seq, at.tp, split, formats, engine, "none")
        kept = kept + count / layers * saved * tokens
        largest = np.maximum(largest, whole * tokens)
    piled = np.minimum(at.microbatches, at.pp)
    interleaved = np.where(np.asarray(at.vpp) > 1, 1.0 + (at.pp - 1.0) / (at.pp * at.vpp), 1.0)
    first = kept * per_stage * piled * interleaved
    masks = tokens * model.hidden * at.pp / split if engine.dropout else 0.0  # embedding dropout: sbhp bytes
    working = largest if at.recompute == "full" else formats.activation * tokens * model.hidden * 4.0 / split
    logits = tokens * model.vocab / at.tp * (formats.activation + 4.0 + 4.0) if model.lm_head else 0.0
    reserve = engine.reserve_bytes + np.where(at.tp * at.cp * at.pp * at.dp > 1, engine.communicator_bytes, 0.0)
    fixed = {**static, "framework and communicator": reserve}
    last = kept * per_stage * np.where(np.asarray(at.pp) > 1, 1.0, piled)
    return [
        Moment("weights and states", "first", fixed),
        Moment("forward, all microbatches in flight", "first", {**fixed, "activations": first + masks}),
        Moment("backward", "first", {**fixed, "activations": first + masks, "working set": working}),
        Moment("loss", "last", {**fixed, "activations": last, "logits": logits}),
        Moment("backward", "last", {**fixed, "activations": last, "logits": logits / 2, "working set": working}),
        Moment("optimizer step", "first", fixed),
    ]


def _states(
    model: ModelSpec, at: TrainingMemory, precision: Precision, dense: Num, experts: Num, lora: Lora | None
) -> dict[str, Num]:
    size = Formats.of(precision).weight
    grad = 4.0 if precision.gradients == "fp32" else 2.0

    def sharded(from_stage: int, plain: Num, routed: Num) -> Num:
        return plain / at.shard + routed / at.expert_shard if at.zero >= from_stage else plain + routed

    adapters = 0.0 if lora is None else lora_params(model, lora) / (at.tp * at.pp)
    trained = (dense, experts) if lora is None else (adapters, 0.0 * experts)
    params = dense + experts
    parts: dict[str, Num] = {
        "weights": sharded(3, dense, experts) * size + adapters * 2.0,
        "gradients": sharded(2, *trained) * grad,
        "optimizer": sharded(1, *trained) * OPTIMIZER_BYTES,
    }
    if at.offload == "optimizer":
        parts["optimizer"] = 0.0 * parts["optimizer"]
    if at.zero >= 3:
        per_layer = params / np.ceil(len(model.layers) / np.asarray(at.pp, dtype=float))
        parts["gathered layers"] = 2.0 * per_layer * size
    return parts


def training_memory(plan: ParallelPlan, micro_batch: int, global_batch: int, seq: int) -> TrainingMemory:
    """The numbers of one plan."""
    return TrainingMemory(
        tp=float(plan.tp), cp=float(plan.cp), pp=float(plan.pp), vpp=float(plan.vpp), ep=float(plan.ep),
        dp=float(plan.dp), micro_batch=float(micro_batch), microbatches=global_batch / (plan.dp * micro_batch),
        seq=float(seq), zero=plan.zero, shard=float(plan.dp * plan.cp // plan.hsdp_replicas),
        sequence_parallel=plan.sequence_parallel, recompute=plan.recompute, offload=plan.offload,
    )  # fmt: skip


def peak(timeline: list[Moment]) -> Num:
    """The largest total over the phases."""
    worst: Num = timeline[0].total
    for moment in timeline[1:]:
        worst = np.maximum(worst, moment.total)
    return worst


def cache_bytes(model: ModelSpec, batch: Num, tokens: Num, tp: Num, pp: Num, kv_size: float) -> Num:
    """Cache bytes of one rank for `batch` sequences of `tokens`, in whole pages.

    Key-value heads are split over `tp` down to one head a rank; compressed caches (MLA) are held whole by every rank.
    """
    layers = float(len(model.layers))
    share = np.ceil(layers / np.asarray(pp, dtype=float)) / layers
    paged = np.ceil(np.asarray(tokens, dtype=float) / PAGE_TOKENS) * PAGE_TOKENS
    held: Num = 0.0
    for layer, count in model.groups:
        mixer = layer.mixer
        if isinstance(mixer, Attention) and mixer.causal:
            seen = paged if mixer.window is None else np.minimum(paged, float(mixer.window))
            split = np.minimum(np.asarray(tp, dtype=float), float(mixer.kv_heads))
            held = held + count * seen * mixer.cache_elements_per_token / split * kv_size
        elif isinstance(mixer, LatentAttention):
            held = held + count * paged * mixer.cache_elements_per_token * kv_size
        elif isinstance(mixer, StateSpace):
            held = held + count * mixer.state_elements / tp * 4.0
    return batch * held * share


def serving_parts(
    model: ModelSpec, plan: ParallelPlan, work: Generation, precision: Precision, engine: Engine,
    prefill_tokens: Num | None = None, batch: Num | None = None, context: Num | None = None,
) -> dict[str, Num]:  # fmt: skip
    """Bytes of one rank while it serves a static batch; `batch` and `context` may be arrays."""
    formats = Formats.of(precision)
    tp, pp = float(plan.tp), float(plan.pp)
    dense, experts, ends = rank_params(model, tp, float(plan.ep), pp)
    # embeddings and head stay in 16 bits under weight quantisation
    weights = (dense + experts) * formats.weight + ends * max(formats.weight, 2.0)
    count = float(work.batch) if batch is None else batch
    length = float(work.prompt + work.output) if context is None else context
    tokens = count * work.prompt if prefill_tokens is None else prefill_tokens
    if engine.prefill_token_budget is not None:
        tokens = np.minimum(tokens, float(engine.prefill_token_budget))
    widest = 0.0
    for layer, _ in model.groups:
        ffn = layer.ffn
        width = 0.0 if ffn is None else float(ffn.width) * (2.0 if ffn.gated else 1.0)
        widest = max(widest, width / tp)
    per_token = formats.activation * (engine.workspace_widths * model.hidden + widest)
    copies = 8.0 if engine.unfused_buffers else 4.0 + 12.0 * (work.sampling == "top_p")
    logits = count * model.vocab / tp * copies if model.lm_head else 0.0
    activations = tokens / plan.cp * per_token
    if engine.unfused_buffers:
        ends = model.vocab * model.hidden / tp if model.tied else 0.0  # the head is loaded beside the table it equals
        weights = weights + ends * max(formats.weight, 2.0)
        heads = max((layer.mixer.heads for layer, _ in model.groups if isinstance(layer.mixer, Attention)), default=0)
        scores = heads / tp * (formats.activation + 4.0) * work.prompt  # in 16 bits, and in fp32 before the softmax
        mask = formats.activation * np.square(length)
        activations = activations + tokens * scores + count * mask
    reserve = engine.reserve_bytes + (engine.communicator_bytes if plan.world > 1 else 0.0)
    return {
        "weights": weights,
        "cache": cache_bytes(model, count, length, tp, pp, formats.kv),
        "activations": activations,
        "logits": logits,
        "framework and communicator": reserve,
    }


def memory_node(parts: dict[str, Num], efficiency: Efficiency, name: str = "memory") -> Node:
    """The explanation of a set of bytes. Weights and cache are exact; activations and reserve are the uncertain
    parts.
    """
    margin = {"activations": (0.7, 1.4), "framework and communicator": (0.6, 2.5), "working set": (0.7, 1.5)}
    children = []
    for part, value in parts.items():
        low, high = margin.get(part, (1.0, 1.0))
        amount = float(np.max(value))
        children.append(
            Node(name=part, value=amount, unit="byte", low=amount * low, high=amount * high, level=efficiency.level)
        )
    return Node(
        name=name, value=sum(child.value for child in children), unit="byte", low=sum(child.low for child in children),
        high=sum(child.high for child in children), bound="memory", formula="sum of what is alive",
        level=efficiency.level, children=tuple(sorted(children, key=lambda child: -child.value)),
    )  # fmt: skip
