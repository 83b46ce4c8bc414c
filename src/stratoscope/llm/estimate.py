"""The questions of the command line as functions: a Report for a training step or for a static batch of inference."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from importlib import resources

import numpy as np

from stratoscope.llm.base import LlmError, UnsupportedError
from stratoscope.llm.economics import price_nodes
from stratoscope.llm.efficiency import Efficiency
from stratoscope.llm.infer import Deployment, Timeline, generate, validate_plan
from stratoscope.llm.memory import memory_node, peak, serving_parts, training_memory, training_timeline
from stratoscope.llm.plan import Engine, Generation, ParallelPlan, Precision, TrainStep
from stratoscope.llm.report import Node, Report, Term, Total, node_of, widen
from stratoscope.llm.spec import ModelSpec
from stratoscope.llm.timing import check_supported
from stratoscope.llm.train import Split, StepTime, step_time, training_flops

SCHEDULE_SOURCE = "arXiv 2104.04473 s. 2.2 (schedules), 1910.02054 s. 7 (communication of sharded states)"


@cache
def model_error(kind: str) -> float:
    """How far intervals are stretched so that they cover 90 % of the shipped rows of `train` or `infer`."""
    text = resources.files("stratoscope.llm").joinpath("data/model_error.json").read_text(encoding="utf-8")
    return float(json.loads(text)[kind])


def split_of(plan: ParallelPlan, work: TrainStep) -> Split:
    """A plan's numbers as the step model takes them."""
    return Split(
        tp=float(plan.tp), cp=float(plan.cp), pp=float(plan.pp), vpp=float(plan.vpp), ep=float(plan.ep),
        dp=float(plan.dp), micro_batch=float(work.micro_batch), global_batch=float(work.global_batch),
        seq=float(work.seq), zero=plan.zero, replicas=float(plan.hsdp_replicas),
        sequence_parallel=plan.sequence_parallel, recompute=plan.recompute, outward=plan.placement,
        offload=plan.offload != "none",
    )  # fmt: skip


def check_training(model: ModelSpec, plan: ParallelPlan, work: TrainStep, precision: Precision, engine: Engine) -> None:
    """Raises LlmError for a batch or schedule that the plan cannot run."""
    check_supported(model)
    validate_plan(model, plan)
    if not engine.trains:
        raise UnsupportedError(f"{engine.name} serves, it does not train", hint="megatron-core, fsdp or generic")
    if precision.weights in ("int8", "int4") and work.lora is None:
        raise UnsupportedError(
            f"{precision.weights} weights take no gradients", hint="freeze them under adapters: lora"
        )
    if model.learned_positions and model.max_context and work.seq > model.max_context:
        raise LlmError(
            f"{work.seq} tokens exceed the learned positions of {model.name}", hint=f"at most {model.max_context}"
        )
    if work.global_batch % (plan.dp * work.micro_batch):
        raise LlmError(
            f"global batch {work.global_batch} is not a multiple of dp x micro batch = {plan.dp * work.micro_batch}"
        )
    microbatches = work.global_batch // (plan.dp * work.micro_batch)
    if plan.vpp > 1 and microbatches % plan.pp:
        raise LlmError(f"interleaving needs microbatches ({microbatches}) in multiples of pp={plan.pp}")
    if plan.pp * plan.vpp > len(model.layers):
        raise LlmError(f"pp x vpp = {plan.pp * plan.vpp} chunks for {len(model.layers)} layers")


def estimate_training(
    model: ModelSpec,
    plan: ParallelPlan,
    work: TrainStep,
    efficiency: Efficiency,
    *,
    precision: Precision | None = None,
    engine: Engine,
    error: float | None = None,
) -> Report:
    """One optimizer step: seconds, throughput, MFU and HFU, memory of the worst rank.

    `error` overrides the shipped model error (measured/predicted at p10 and p90) that widens the interval.
    """
    precision = precision or Precision()
    check_training(model, plan, work, precision, engine)
    step = step_time(model, split_of(plan, work), precision, engine, efficiency, work.lora)
    whole = _widen(step.whole, efficiency, error if error is not None else model_error("train"))
    timeline = training_timeline(
        model,
        training_memory(plan, work.micro_batch, work.global_batch, work.seq),
        precision,
        engine,
        work.lora,
    )
    worst = max(timeline, key=lambda moment: float(np.max(moment.total)))
    memory = memory_node(worst.parts, efficiency, f"peak memory ({worst.phase}, {worst.stage} stage)")
    used = float(np.max(peak(timeline)))
    capacity = efficiency.hardware.memory
    time = float(np.max(whole.time))
    tree = _training_tree(step, whole, efficiency)
    tokens = work.global_batch * work.seq
    useful, executed = training_flops(model, work.seq, work.global_batch, plan.recompute, work.lora)
    peak_flops = plan.world * efficiency.hardware.peak(precision.compute)
    rate = {
        "step_s": tree,
        "tokens_per_s": _inverse("tokens_per_s", tokens, whole, "1/s", "tokens / step"),
        "mfu": _inverse("mfu", useful / peak_flops, whole, "1", "model FLOPs / (step x devices x peak)"),
        "hfu": _inverse("hfu", executed / peak_flops, whole, "1", "executed FLOPs / (step x devices x peak)"),
    }
    rate.update(price_nodes(efficiency.hardware, plan.world, whole, tokens, busy=min(1.0, useful / peak_flops / time)))
    for name, node in rate.items():
        rate[name] = node.model_copy(update={"level": efficiency.level, "bound": node.bound or tree.bound})
    return Report(
        kind="train",
        model=model.name,
        hardware=f"{plan.world} x {efficiency.hardware.name}",
        level=efficiency.level,
        feasible=used <= capacity,
        shortfall_bytes=max(0.0, used - capacity),
        results=rate,
        memory=memory,
        assumptions=(efficiency.source, engine.source),
    )


def _training_tree(step: StepTime, whole: Total, efficiency: Efficiency) -> Node:
    """The step as parts that add up to it: the slowest stage's microbatches, bubble, hops, exposed communication,
    optimizer (and the host, where launching kernels takes longer than running them).
    """
    m, share = float(np.max(step.microbatches)), float(np.max(step.stage_share))

    def on_slowest_stage(terms: list[Term]) -> list[Term]:
        ends = ("head", "head backward")
        return [replace(t, count=t.count * m * (1.0 if t.group in ends else share)) for t in terms]

    formula = f"slowest stage, {m:g} microbatches"
    compute = [node_of(name, on_slowest_stage(terms)) for name, terms in
               (("forward", step.forward), ("backward", step.backward))]  # fmt: skip
    children = [part.model_copy(update={"formula": formula}) for part in compute]
    children += [
        node_of("optimizer", [step.optimizer]),
        _plain("pipeline bubble", step.bubble, "bubble", "(all stages - slowest) / vpp", efficiency),
        _plain("pipeline hops", step.pipeline, "communication", "2 hops a chunk and microbatch", efficiency),
        _plain("exposed data-parallel communication", step.exposed, "communication", "not behind compute", efficiency),
    ]
    host = float(np.max(whole.time)) - sum(child.value for child in children)
    if host > 1e-6 * float(np.max(whole.time)):
        children.append(_plain("waiting for the host", host, "latency", "launches slower than kernels", efficiency))
    children = sorted((part for part in children if part.value > 0), key=lambda part: -part.value)
    formula = "m x slowest stage + bubble + hops + exposed + optimizer"
    return _total_node("step_s", whole, "s", children[0].bound, formula, efficiency, tuple(children))


def estimate_inference(deployment: Deployment, work: Generation, *, error: float | None = None) -> Report:
    """A static batch: time to first token, time per output token, latency, throughput, memory of one rank."""
    efficiency = deployment.efficiency
    length = work.prompt + (work.output if deployment.model.generates else 0)
    if deployment.model.max_context and length > deployment.model.max_context:
        raise LlmError(
            f"{length} tokens exceed the context of {deployment.model.name}",
            hint=f"at most {deployment.model.max_context}",
        )
    asked, work = work, replica_share(deployment.plan, work)
    times = generate(deployment, work)
    factor = error if error is not None else model_error("infer")
    latency = _widen(times.latency, efficiency, factor)
    ttft, tpot = _widen(times.ttft, efficiency, factor), _widen(times.tpot, efficiency, factor)
    parts = serving_parts(deployment.model, deployment.plan, work, deployment.precision, deployment.engine)
    used = float(sum(float(np.max(part)) for part in parts.values()))
    capacity = efficiency.hardware.memory
    produced = asked.batch * asked.output
    results = _inference_nodes(times, ttft, tpot, latency, asked, efficiency)
    prices = price_nodes(efficiency.hardware, deployment.plan.world, latency, produced, busy=0.6)
    bound = results["latency_s"].bound
    results |= {
        name: node.model_copy(update={"level": efficiency.level, "bound": bound}) for name, node in prices.items()
    }
    return Report(
        kind="infer",
        model=deployment.model.name,
        hardware=f"{deployment.plan.world} x {efficiency.hardware.name}",
        level=efficiency.level,
        feasible=used <= capacity,
        shortfall_bytes=max(0.0, used - capacity),
        results=results,
        memory=memory_node(parts, efficiency),
        assumptions=(efficiency.source, deployment.engine.source),
    )


def replica_share(plan: ParallelPlan, work: Generation) -> Generation:
    """What one of the data-parallel replicas does of a batch; raises LlmError where they do not divide it."""
    if work.batch % plan.dp:
        raise LlmError(f"{plan.dp} replicas do not divide a batch of {work.batch}", hint="a batch in multiples of dp")
    return work.model_copy(update={"batch": work.batch // plan.dp})


def _inference_nodes(
    times: Timeline, ttft: Total, tpot: Total, latency: Total, work: Generation, efficiency: Efficiency
) -> dict[str, Node]:
    prefill = node_of("prefill", times.prefill.terms)
    first = _total_node("ttft_s", ttft, "s", prefill.bound, "prefill pass", efficiency, prefill.children)
    results = {"ttft_s": first}
    children = [first.model_copy(update={"name": "prefill"})]
    if times.decode is not None:
        step = node_of("decode step, mid context", times.decode.terms)
        formula = f"mean of {work.output - 1} decode steps over the growing cache"
        results["tpot_s"] = _total_node("tpot_s", tpot, "s", step.bound, formula, efficiency, step.children)
        steps = work.output - 1
        many = node_of(f"decode, {steps} steps", [replace(t, count=t.count * steps) for t in times.decode.terms])
        children.append(many)
    bound = max(children, key=lambda child: child.value).bound
    results["latency_s"] = _total_node(
        "latency_s", latency, "s", bound, "ttft + (output - 1) x tpot", efficiency, tuple(children)
    )
    produced = work.batch * work.output
    results["output_tokens_per_s"] = _inverse(
        "output_tokens_per_s", produced, latency, "1/s", "batch x output / latency"
    )
    return {
        name: node.model_copy(update={"level": node.level or efficiency.level, "bound": node.bound or bound})
        for name, node in results.items()
    }


def _widen(value: Total, efficiency: Efficiency, error: float) -> Total:
    return value if efficiency.level == "peak" else widen(value, error)


def _plain(name: str, value: object, bound: str, formula: str, efficiency: Efficiency) -> Node:
    number = float(np.max(np.asarray(value, dtype=float)))
    return Node(
        name=name, value=number, unit="s", low=0.8 * number, high=1.3 * number, bound=bound, formula=formula,
        source=SCHEDULE_SOURCE, level=efficiency.level,
    )  # fmt: skip


def _total_node(
    name: str, value: Total, unit: str, bound: str, formula: str, efficiency: Efficiency, children: tuple[Node, ...]
) -> Node:
    return Node(
        name=name, value=float(np.max(value.time)), unit=unit, low=float(np.max(value.low)),
        high=float(np.max(value.high)), bound=bound, formula=formula, source=efficiency.source, level=efficiency.level,
        children=children,
    )  # fmt: skip


def _inverse(name: str, numerator: float, time: Total, unit: str, formula: str) -> Node:
    """A rate: its low end belongs to the high end of the time."""
    slow, fast = float(np.max(time.high)), max(float(np.max(time.low)), 1e-12)
    middle = float(np.max(time.time))
    return Node(
        name=name, value=numerator / middle, unit=unit, low=numerator / slow, high=numerator / fast, formula=formula
    )
