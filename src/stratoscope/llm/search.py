"""Explores plans under constraints to a Pareto front; every formula runs on arrays with one entry a plan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stratoscope.llm.base import LlmError, UnsupportedError, Value
from stratoscope.llm.efficiency import Efficiency
from stratoscope.llm.infer import Deployment, validate_plan
from stratoscope.llm.memory import TrainingMemory, peak, serving_parts, training_timeline
from stratoscope.llm.plan import Engine, Generation, ParallelPlan, Precision
from stratoscope.llm.spec import MixtureOfExperts, ModelSpec, StateSpace
from stratoscope.llm.timing import check_supported
from stratoscope.llm.train import Split, step_time

Floats = npt.NDArray[np.float64]


class Candidate(Value):
    """One plan with what it costs."""

    plan: dict[str, Any]
    devices: int
    time_s: float
    memory_bytes: float
    tokens_per_s: float
    tokens_per_s_per_device: float
    dollar_per_million_tokens: float | None = None
    ttft_s: float | None = None
    tpot_s: float | None = None


class SearchResult(Value):
    """How many plans were priced, how many were feasible, why the others were not, and the front."""

    evaluated: int
    feasible: int
    rejected: dict[str, int]
    smallest_shortfall_bytes: float
    front: tuple[Candidate, ...]


@dataclass(frozen=True)
class TrainingSpace:
    """What a training search may choose from."""

    devices: tuple[int, ...]
    global_batch: int
    seq: int
    max_pp: int = 64
    max_micro_batch: int = 16
    interleaves: tuple[int, ...] = (1, 2, 3, 4, 6, 8)
    zero: tuple[int, ...] = (0, 1, 2, 3)
    recompute: tuple[str, ...] = ("none", "selective", "full")
    sequence_parallel: tuple[bool, ...] = (False, True)
    context_parallel: tuple[int, ...] = (1, 2, 4, 8, 16)  # beyond one only for long sequences


AXES = ("tp", "cp", "pp", "vpp", "ep", "dp", "micro_batch")
SHARE_TOKENS = 8192  # context parallelism is tried where each rank keeps at least so many tokens of a sequence


def divisors(number: int) -> list[int]:
    """All divisors, ascending."""
    return [i for i in range(1, number + 1) if number % i == 0]


def training_grid(model: ModelSpec, space: TrainingSpace, size: int | None) -> dict[str, Floats]:
    """Every plan that divides devices, heads, experts, layers and batch; one array an axis, one entry a plan."""
    heads = [_heads(layer.mixer) for layer, _ in model.groups if layer.mixer is not None]
    recurrent = any(isinstance(layer.mixer, StateSpace) for layer, _ in model.groups)
    out: list[tuple[int, ...]] = []
    for world in space.devices:
        for tp in divisors(world):
            if (size is not None and tp > size) or any(count % tp for count in heads):
                continue
            for cp in space.context_parallel:
                if world // tp % cp or (cp > 1 and (recurrent or space.seq < cp * SHARE_TOKENS)):
                    continue
                out += _pipelines(model, space, world, tp, cp)
    columns = np.array(out, dtype=float).reshape(-1, len(AXES)).T
    return dict(zip(AXES, columns, strict=True))


def _pipelines(model: ModelSpec, space: TrainingSpace, world: int, tp: int, cp: int) -> Iterator[tuple[int, ...]]:
    """The plans of one tensor- and context-parallel size."""
    layers = len(model.layers)
    for pp in divisors(world // tp // cp):
        if pp > min(space.max_pp, layers):
            continue
        dp = world // tp // cp // pp
        for ep in _expert_splits(model, tp * cp * dp):
            for micro in (2**i for i in range(int(np.log2(space.max_micro_batch)) + 1)):
                rounds, rest = divmod(space.global_batch, dp * micro)
                if rest:
                    continue
                for vpp in space.interleaves if pp > 1 else (1,):
                    if vpp == 1 or (layers % (pp * vpp) == 0 and rounds % pp == 0):
                        yield tp, cp, pp, vpp, ep, dp, micro


def _expert_splits(model: ModelSpec, ranks: int) -> list[int]:
    """Expert-parallel sizes, powers of two, that divide every routed layer's experts and the ranks of one stage."""
    experts = {layer.ffn.experts for layer, _ in model.groups if isinstance(layer.ffn, MixtureOfExperts)}
    if not experts:
        return [1]
    return [ep for ep in (2**i for i in range(11)) if ranks % ep == 0 and all(count % ep == 0 for count in experts)]


def _heads(mixer: object) -> int:
    if isinstance(mixer, StateSpace):
        return mixer.value_heads
    return int(getattr(mixer, "heads", 1))


def price_training(
    model: ModelSpec, grid: dict[str, Floats], space: TrainingSpace, precision: Precision, engine: Engine,
    efficiency: Efficiency, *, zero: int, sequence_parallel: bool, recompute: str,
) -> tuple[Floats, Floats]:  # fmt: skip
    """Seconds a step and peak bytes of the worst rank, one entry a plan of the grid."""
    at = Split(
        tp=grid["tp"], cp=grid["cp"], pp=grid["pp"], vpp=grid["vpp"], ep=grid["ep"], dp=grid["dp"],
        micro_batch=grid["micro_batch"], global_batch=float(space.global_batch), seq=float(space.seq), zero=zero,
        sequence_parallel=sequence_parallel, recompute=recompute,
    )  # fmt: skip
    time = np.asarray(step_time(model, at, precision, engine, efficiency).whole.time, dtype=float)
    held = TrainingMemory(
        tp=grid["tp"], cp=grid["cp"], pp=grid["pp"], vpp=grid["vpp"], ep=grid["ep"], dp=grid["dp"],
        micro_batch=grid["micro_batch"], microbatches=at.microbatches, seq=float(space.seq), zero=zero,
        shard=grid["dp"] * grid["cp"], sequence_parallel=sequence_parallel, recompute=recompute, offload="none",
    )  # fmt: skip
    return time, np.asarray(peak(training_timeline(model, held, precision, engine)), dtype=float)


def _choices(space: TrainingSpace) -> Iterator[tuple[int, bool, str]]:
    for zero in space.zero:
        for sequence_parallel in space.sequence_parallel:
            for recompute in space.recompute:
                yield zero, sequence_parallel, recompute


def search_training(
    model: ModelSpec,
    space: TrainingSpace,
    precision: Precision,
    engine: Engine,
    efficiency: Efficiency,
    *,
    dollars_per_device_hour: float | None = None,
    budget_dollars_per_million_tokens: float | None = None,
) -> SearchResult:
    """The plans that nothing else beats in both step time and devices (and cost), among those that fit in memory.

    Raises LlmError where no plan divides the devices and the batch.
    """
    check_supported(model)
    if not engine.trains:
        raise UnsupportedError(f"{engine.name} serves, it does not train", hint="megatron-core, fsdp or generic")
    grid = training_grid(model, space, efficiency.hardware.scale_up.size)
    if not len(grid["tp"]):
        raise LlmError(f"no plan divides {space.devices} devices and a batch of {space.global_batch}")
    tokens = space.global_batch * space.seq
    found: list[Candidate] = []
    evaluated = feasible = over_budget = 0
    shortfall = float("inf")
    for zero, sequence_parallel, recompute in _choices(space):
        time, memory = price_training(
            model, grid, space, precision, engine, efficiency, zero=zero, sequence_parallel=sequence_parallel,
            recompute=recompute,
        )  # fmt: skip
        world = grid["tp"] * grid["cp"] * grid["pp"] * grid["dp"]
        fits = memory <= efficiency.hardware.memory
        if zero >= 2:  # sharding gradients or weights again for every microbatch of a pipeline: no framework does it
            fits &= grid["pp"] == 1
        shortfall = min(shortfall, float(np.min(memory - efficiency.hardware.memory)))
        evaluated += len(time)
        cost = world * time / 3600.0 / tokens * 1e6 * (dollars_per_device_hour or 0.0)
        if budget_dollars_per_million_tokens is not None:
            within = cost <= budget_dollars_per_million_tokens
            over_budget += int(np.sum(fits & ~within))
            fits &= within
        feasible += int(fits.sum())
        for index in pareto(np.stack([time, world], axis=1), fits):
            plan: dict[str, Any] = {name: int(values[index]) for name, values in grid.items()}
            plan.update(zero=zero, sequence_parallel=sequence_parallel, recompute=recompute)
            found.append(
                Candidate(
                    plan=plan,
                    devices=int(world[index]),
                    time_s=float(time[index]),
                    memory_bytes=float(memory[index]),
                    tokens_per_s=tokens / float(time[index]),
                    tokens_per_s_per_device=tokens / float(time[index] * world[index]),
                    dollar_per_million_tokens=float(cost[index]) if dollars_per_device_hour else None,
                )
            )
    objectives = np.array([[item.time_s, item.devices] for item in found]).reshape(-1, 2)
    front = [found[index] for index in pareto(objectives, np.ones(len(found), dtype=bool))]
    return SearchResult(
        evaluated=evaluated,
        feasible=feasible,
        rejected={"memory or schedule": evaluated - feasible - over_budget, "budget": over_budget},
        smallest_shortfall_bytes=max(0.0, shortfall),
        front=tuple(sorted(front, key=lambda item: (item.devices, item.time_s))),
    )


def search_serving(
    model: ModelSpec, work: Generation, precision: Precision, engine: Engine, efficiency: Efficiency, *,
    max_devices: int, ttft_s: float | None = None, tpot_s: float | None = None,
    dollars_per_device_hour: float | None = None,
) -> SearchResult:  # fmt: skip
    """Plans and batch sizes that meet the limits on first token and per-token time: throughput per device
    against TPOT.
    """
    check_supported(model)
    found: list[Candidate] = []
    evaluated = 0
    rejected = {"memory": 0, "ttft": 0, "tpot": 0, "plan": 0}
    shortfall = float("inf")
    batches = np.unique(np.round(2 ** np.arange(0, 11.01, 0.25)))
    for world in (2**i for i in range(int(np.log2(max_devices)) + 1)):
        for tp in divisors(world):
            plan = ParallelPlan(tp=tp, pp=world // tp, ep=tp if _routed(model) and tp > 1 else 1)
            try:
                validate_plan(model, plan)
                deployment = Deployment(model, plan, precision, engine, efficiency)
            except LlmError:
                rejected["plan"] += len(batches)
                continue
            for batch in batches:
                count = int(batch)
                asked = work.model_copy(update={"batch": count})
                evaluated += 1
                parts = serving_parts(model, plan, asked, precision, engine, prefill_tokens=float(work.prompt))
                need = float(sum(float(np.max(part)) for part in parts.values()))
                if need > efficiency.hardware.memory:
                    shortfall = min(shortfall, need - efficiency.hardware.memory)
                    rejected["memory"] += 1
                    continue
                first = float(np.max(deployment.prefill(1, float(work.prompt - work.cached), float(work.cached)).time))
                step = float(np.max(deployment.decode(count, float(work.prompt + work.output / 2)).time))
                # each request's prefill takes turns with the decode steps of the others
                shared = step + count * first / work.output
                if ttft_s is not None and first + shared > ttft_s:
                    rejected["ttft"] += 1
                    continue
                if tpot_s is not None and shared > tpot_s:
                    rejected["tpot"] += 1
                    continue
                rate = count / shared
                cost = world * (dollars_per_device_hour or 0.0) / 3600.0 / rate * 1e6
                found.append(
                    Candidate(
                        plan={"tp": tp, "pp": plan.pp, "ep": plan.ep, "batch": count},
                        devices=world,
                        time_s=shared,
                        memory_bytes=need,
                        tokens_per_s=rate,
                        tokens_per_s_per_device=rate / world,
                        dollar_per_million_tokens=cost if dollars_per_device_hour else None,
                        ttft_s=first + shared,
                        tpot_s=shared,
                    )
                )
    objectives = np.array([[item.time_s, -item.tokens_per_s_per_device] for item in found]).reshape(-1, 2)
    front = [found[index] for index in pareto(objectives, np.ones(len(found), dtype=bool))]
    return SearchResult(
        evaluated=evaluated, feasible=len(found), rejected=rejected,
        smallest_shortfall_bytes=shortfall if evaluated and evaluated == rejected["memory"] else 0.0,
        front=tuple(sorted(front, key=lambda item: item.time_s)),
    )  # fmt: skip


def _routed(model: ModelSpec) -> bool:
    return any(isinstance(layer.ffn, MixtureOfExperts) for layer in model.layers)


def pareto(objectives: Floats, allowed: npt.NDArray[np.bool_]) -> list[int]:
    """Positions that no allowed other one beats in both objectives (smaller is better), by a sort and one sweep."""
    positions = np.flatnonzero(allowed)
    if not len(positions):
        return []
    chosen = objectives[positions]
    order = np.lexsort((chosen[:, 1], chosen[:, 0]))
    best = np.minimum.accumulate(chosen[order, 1])
    keep = np.concatenate([[True], chosen[order, 1][1:] < best[:-1]])
    return [int(positions[index]) for index in order[keep]]
