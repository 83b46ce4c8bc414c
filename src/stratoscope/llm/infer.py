"""Time of a static batch: prefill, decode steps over a growing cache, pipeline stages, and what comes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stratoscope.llm.base import LlmError, Num, UnsupportedError
from stratoscope.llm.collectives import point_to_point
from stratoscope.llm.efficiency import Cost, Efficiency
from stratoscope.llm.ops import Formats, Shape
from stratoscope.llm.plan import Engine, Generation, ParallelPlan, Precision
from stratoscope.llm.report import Term, Total, total
from stratoscope.llm.spec import MixtureOfExperts, ModelSpec, StateSpace
from stratoscope.llm.timing import check_supported, forward_terms, sampling_term

CONTEXT_POINTS = 9  # where decode is priced between the first and the last token; windows make it piecewise linear


@dataclass(frozen=True)
class Pass:
    """The terms of one forward pass as a pipeline runs it, and its time."""

    terms: list[Term]
    time: Num
    low: Num
    high: Num
    bubble: Num


def validate_plan(model: ModelSpec, plan: ParallelPlan) -> None:
    """Raises LlmError for a plan that does not divide the model."""
    if plan.pp > len(model.layers):
        raise LlmError(f"{plan.pp} pipeline stages for the {len(model.layers)} layers of {model.name}")
    for layer, _ in model.groups:
        mixer = layer.mixer
        heads = 0 if mixer is None else mixer.value_heads if isinstance(mixer, StateSpace) else mixer.heads
        if heads % plan.tp:
            raise LlmError(
                f"tp={plan.tp} does not divide the {heads} heads of {model.name}",
                hint="choose a tensor-parallel size that divides the heads",
            )
        if isinstance(layer.ffn, MixtureOfExperts):
            if layer.ffn.experts % plan.ep:
                raise LlmError(f"ep={plan.ep} does not divide the {layer.ffn.experts} experts of {model.name}")
        elif layer.ffn is not None and layer.ffn.width % plan.tp:
            raise LlmError(f"tp={plan.tp} does not divide the feed-forward width {layer.ffn.width} of {model.name}")
    if plan.ep > 1 and not any(isinstance(layer.ffn, MixtureOfExperts) for layer in model.layers):
        raise LlmError(f"ep={plan.ep}: {model.name} has no experts")


def check_serving_plan(plan: ParallelPlan) -> None:
    """Raises LlmError for parts of a plan that only training has."""
    training = {
        "zero": plan.zero > 0, "vpp": plan.vpp > 1, plan.recompute: plan.recompute != "none",
        "offload": plan.offload != "none", "hsdp": plan.hsdp_replicas > 1,
    }  # fmt: skip
    for name, asked in training.items():
        if asked:
            raise LlmError(f"{name} in a plan that serves: only training has it", hint="for example tp8,pp2")


def pipelined(terms: list[Term], pp: Num, chunks: Num, efficiency: Efficiency, hop_bytes: Num, *, across: bool) -> Pass:
    """A pass whose layers lie on `pp` stages, run as `chunks` microbatches: (pp + chunks - 1) stage times and hops.

    `terms` price all layers for one microbatch. One batch alone (chunks = 1) takes the sum of the stages: pipelining
    never shortens a latency.
    """
    summed = total(terms)
    hops = point_to_point(efficiency, hop_bytes, across=across)
    rounds = (pp + chunks - 1) / pp
    send = np.where(np.asarray(pp) > 1, 1.0, 0.0) * (pp + chunks - 2) * hops.time
    return Pass(
        [*terms, Term("pipeline", "hops", hops, np.where(np.asarray(pp) > 1, pp + chunks - 2, 0.0), 1.0, "collective")],
        summed.time * rounds + send,
        summed.low * rounds + send * 0.9,
        summed.high * rounds + send * 1.3,
        summed.time * (rounds - chunks / pp),
    )


def host_bound(passed: Pass, engine: Engine, efficiency: Efficiency) -> Pass:
    """Without CUDA graphs a pass takes at least as long as the host needs to launch its kernels.

    The expected time assumes that launches hide behind kernels; the upper end that none does, since how far the
    host runs
    ahead is not known from outside.
    """
    if engine.cuda_graphs or efficiency.level == "peak":
        return passed
    launches = sum((np.asarray(term.count) * _launches(term) for term in passed.terms), start=np.zeros(()))
    floor = launches * engine.host_launch_s
    slower = np.maximum(passed.time, floor)
    extra = slower - passed.time
    high = np.maximum(passed.high + 0.5 * extra, passed.time + floor)
    return Pass(passed.terms, slower, passed.low + 0.5 * extra, high, passed.bubble)


def _launches(term: Term) -> float:
    """Kernel launches that a term costs the host; enqueueing a collective costs about two."""
    return 2.0 * term.kernels if term.family == "collective" else term.kernels


@dataclass(frozen=True)
class Deployment:
    """What serves: a model on a plan, priced by an efficiency model and run by an engine."""

    model: ModelSpec
    plan: ParallelPlan
    precision: Precision
    engine: Engine
    efficiency: Efficiency

    def __post_init__(self) -> None:
        check_supported(self.model)
        validate_plan(self.model, self.plan)
        check_serving_plan(self.plan)

    @property
    def formats(self) -> Formats:
        """Element sizes and matrix unit."""
        return Formats.of(self.precision)

    @property
    def across_nodes(self) -> bool:
        """Whether neighbouring pipeline stages lie in different scale-up domains."""
        size = self.efficiency.hardware.scale_up.size
        return size is not None and self.plan.stride("pp") * self.plan.pp > size

    def _shape(self, phase: str, batch: Num, queries: Num, context: Num) -> Shape:
        plan = self.plan
        split = float(plan.tp) if plan.sequence_parallel else 1.0
        return Shape(
            "prefill" if phase == "prefill" else "decode", batch, queries, context,
            tp=float(plan.tp), ep=float(plan.ep), cp=float(plan.cp), split=split,
        )  # fmt: skip

    def _engine_terms(self) -> list[Term]:
        """What the engine spends beside its kernels: between passes, and per layer where a framework walks modules."""
        if self.efficiency.level == "peak":
            return []
        parts = (
            ("between steps", self.engine.step_host_s, 1.0),
            ("framework per layer", self.engine.layer_host_s, float(len(self.model.layers))),
        )
        out = []
        for name, each, count in parts:
            cost = Cost(each, 0.5 * each, 2.0 * each, 0.0, 0.0, each, name, self.efficiency.level)
            if each > 0:
                out.append(Term("engine", name, cost, count, 0.0, "engine"))
        return out

    def chunks(self, batch: int, queries: float) -> tuple[int, ...]:
        """Numbers of microbatches that a static batch may be cut into to keep the pipeline's stages busy.

        An engine with a rule of its own (FasterTransformer: halves until a part has few enough tokens) has one choice;
        others take the faster of the batch whole and one part a stage.
        """
        stages, limit = self.plan.pp, self.engine.stage_tokens
        if stages == 1 or batch == 1:
            return (1,)
        if limit is None:
            return (1, min(stages, batch))
        part = batch // stages if batch % stages == 0 else batch
        while part * queries > limit and part % 2 == 0:
            part //= 2
        return (batch // part,)

    def _staged(self, batch: int, queries: float, run: Callable[[int], Pass]) -> Pass:
        """The fastest of the ways that the batch may be cut."""
        return min((run(count) for count in self.chunks(batch, queries)), key=lambda one: float(np.sum(one.time)))

    def prefill(self, batch: int, tokens: Num, cached: Num = 0.0) -> Pass:
        """The pass over `tokens` new tokens of each of `batch` sequences, after `cached` ones; gives the first
        token.
        """

        def run(chunks: int) -> Pass:
            part = batch / chunks
            shape = self._shape("prefill", part, tokens, tokens + cached)
            terms = self._engine_terms() + forward_terms(
                self.model, shape, self.formats, self.engine, self.efficiency,
                sequence_parallel=self.plan.sequence_parallel, head_tokens=part,
            )  # fmt: skip
            hop = shape.tokens * self.model.hidden * self.formats.activation
            passed = pipelined(terms, self.plan.pp, chunks, self.efficiency, hop, across=self.across_nodes)
            return host_bound(passed, self.engine.model_copy(update={"cuda_graphs": False}), self.efficiency)

        return self._staged(batch, float(np.max(tokens)), run)

    def decode(self, batch: int, context: Num, *, top_p: bool = False) -> Pass:
        """One token for each of `batch` sequences that hold `context` tokens each (an array prices several at once).

        Raises UnsupportedError for an encoder: it reads its input once and generates nothing.
        """
        if not self.model.generates:
            raise UnsupportedError(
                f"{self.model.name} is an encoder: it generates nothing", hint="ask for its one pass: output 1"
            )

        def run(chunks: int) -> Pass:
            part = batch / chunks
            shape = self._shape("decode", part, 1.0, context)
            terms = forward_terms(self.model, shape, self.formats, self.engine, self.efficiency, head_tokens=part)
            terms += sampling_term(self.efficiency, self.model.vocab, part, top_p=top_p)
            terms += self._engine_terms()
            hop = shape.tokens * self.model.hidden * self.formats.activation
            passed = pipelined(terms, self.plan.pp, chunks, self.efficiency, hop, across=self.across_nodes)
            return host_bound(passed, self.engine, self.efficiency)

        return self._staged(batch, 1.0, run)


@dataclass(frozen=True)
class Timeline:
    """Times of a static batch: first token, mean time per further token, all of it."""

    ttft: Total
    tpot: Total
    latency: Total
    prefill: Pass
    decode: Pass | None


def generate(deployment: Deployment, work: Generation) -> Timeline:
    """Prefill, then `output - 1` decode steps priced at contexts between the first and the last."""
    new = work.prompt - work.cached
    first = deployment.prefill(work.batch, float(new), float(work.cached))
    ttft = Total(first.time, first.low, first.high)
    if work.output == 1:
        zero = Total(0.0, 0.0, 0.0)
        return Timeline(ttft, zero, ttft, first, None)
    points = np.linspace(work.prompt + 1, work.prompt + work.output - 1, CONTEXT_POINTS)
    top_p = work.sampling == "top_p"
    steps = deployment.decode(work.batch, points, top_p=top_p)
    tpot = Total(*(_mean(part) for part in (steps.time, steps.low, steps.high)))
    count = work.output - 1
    down = np.hypot(ttft.time - ttft.low, count * (tpot.time - tpot.low))
    up = np.hypot(ttft.high - ttft.time, count * (tpot.high - tpot.time))
    whole = ttft.time + count * tpot.time
    middle = deployment.decode(work.batch, float(work.prompt + work.output / 2), top_p=top_p)
    return Timeline(ttft, tpot, Total(whole, np.maximum(whole - down, 0.0), whole + up), first, middle)


def _mean(values: Num) -> float:
    """Trapezoid mean over equally spaced contexts."""
    array = np.broadcast_to(np.asarray(values, dtype=float), (CONTEXT_POINTS,))
    return float((array[0] / 2 + array[1:-1].sum() + array[-1] / 2) / (CONTEXT_POINTS - 1))
