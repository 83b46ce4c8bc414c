"""The inverse questions: largest batch, longest context, fewest devices; answers come with the memory that
stops there.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from stratoscope.llm.base import LlmError, Value
from stratoscope.llm.efficiency import Efficiency
from stratoscope.llm.hardware import HardwareSpec
from stratoscope.llm.infer import check_serving_plan, validate_plan
from stratoscope.llm.memory import peak, serving_parts, training_memory, training_timeline
from stratoscope.llm.plan import Engine, Generation, Lora, ParallelPlan, Precision, TrainStep
from stratoscope.llm.spec import ModelSpec

LIMIT = 2**40


class Limit(Value):
    """The largest size that fits, what it needs, and what the next one would lack. `largest` is 0 where nothing
    fits.
    """

    quantity: str
    largest: int
    needs_bytes: float
    capacity_bytes: float
    next_shortfall_bytes: float


def largest(quantity: str, needs: Callable[[int], float], capacity: float) -> Limit:
    """The largest n >= 1 with needs(n) <= capacity, by doubling and bisection; `needs` must not fall with n."""
    if needs(1) > capacity:
        return Limit(
            quantity=quantity, largest=0, needs_bytes=needs(1), capacity_bytes=capacity,
            next_shortfall_bytes=needs(1) - capacity,
        )  # fmt: skip
    low, high = 1, 2
    while high < LIMIT and needs(high) <= capacity:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if needs(middle) <= capacity:
            low = middle
        else:
            high = middle
    return Limit(
        quantity=quantity, largest=low, needs_bytes=needs(low), capacity_bytes=capacity,
        next_shortfall_bytes=max(0.0, needs(low + 1) - capacity),
    )  # fmt: skip


def serving_bytes(
    model: ModelSpec, plan: ParallelPlan, work: Generation, precision: Precision, engine: Engine
) -> float:
    """Bytes of the fullest rank while it serves a static batch."""
    return float(sum(float(np.max(part)) for part in serving_parts(model, plan, work, precision, engine).values()))


def largest_batch(
    model: ModelSpec, plan: ParallelPlan, work: Generation, precision: Precision, engine: Engine, hardware: HardwareSpec
) -> Limit:
    """How many sequences of this prompt and output fit at once."""
    validate_plan(model, plan)

    def needs(batch: int) -> float:
        return serving_bytes(model, plan, work.model_copy(update={"batch": batch}), precision, engine)

    return largest("batch", needs, hardware.memory)


def longest_context(
    model: ModelSpec, plan: ParallelPlan, work: Generation, precision: Precision, engine: Engine, hardware: HardwareSpec
) -> Limit:
    """The longest prompt, in tokens, that `batch` sequences can have at this output length."""
    validate_plan(model, plan)

    def needs(prompt: int) -> float:
        return serving_bytes(model, plan, work.model_copy(update={"prompt": prompt}), precision, engine)

    found = largest("prompt tokens", needs, hardware.memory)
    if model.max_context and found.largest + work.output > model.max_context:
        cap = max(0, model.max_context - work.output)
        return found.model_copy(update={"largest": cap, "quantity": "prompt tokens (limit of the model)"})
    return found


def largest_micro_batch(
    model: ModelSpec, plan: ParallelPlan, seq: int, precision: Precision, engine: Engine, hardware: HardwareSpec,
    lora: Lora | None = None,
) -> Limit:  # fmt: skip
    """The largest training microbatch that fits, with enough microbatches to fill the pipeline."""
    validate_plan(model, plan)

    def needs(micro: int) -> float:
        at = training_memory(plan, micro, micro * plan.dp * plan.pp, seq)
        return float(np.max(peak(training_timeline(model, at, precision, engine, lora))))

    return largest("micro batch", needs, hardware.memory)


def fewest_devices(
    model: ModelSpec, work: Generation, precision: Precision, engine: Engine, hardware: HardwareSpec, limit: int = 4096
) -> tuple[ParallelPlan, float]:
    """The smallest plan (tensor parallel inside a scale-up domain, then pipeline stages) that holds model and cache.

    Raises LlmError with the shortfall on `limit` devices where none does.
    """
    size = hardware.scale_up.size or limit
    shortfall = float("inf")
    for world in (2**i for i in range(int(np.log2(limit)) + 1)):
        for tp in (2**i for i in range(int(np.log2(min(world, size))), -1, -1)):
            try:
                plan = ParallelPlan(tp=tp, pp=world // tp)
                validate_plan(model, plan)
            except LlmError:
                continue
            need = serving_bytes(model, plan, work, precision, engine)
            if need <= hardware.memory:
                return plan, need
            shortfall = min(shortfall, need - hardware.memory)
    raise LlmError(
        f"{model.name} does not fit on up to {limit} x {hardware.name}",
        hint=f"the best plan lacks {shortfall / 2**30:.1f} GiB a device",
    )


def longest_sequence(
    model: ModelSpec, plan: ParallelPlan, work: TrainStep, precision: Precision, engine: Engine, hardware: HardwareSpec
) -> Limit:
    """The longest training sequence that fits at this microbatch."""
    validate_plan(model, plan)

    def needs(seq: int) -> float:
        return training_bytes(model, plan, work.model_copy(update={"seq": seq}), precision, engine)

    found = largest("tokens a sequence", needs, hardware.memory)
    if model.learned_positions and model.max_context and found.largest > model.max_context:
        return found.model_copy(update={"largest": model.max_context, "quantity": "tokens (limit of the model)"})
    return found


def training_bytes(
    model: ModelSpec, plan: ParallelPlan, work: TrainStep, precision: Precision, engine: Engine
) -> float:
    """Peak bytes of the fullest rank over a step."""
    at = training_memory(plan, work.micro_batch, work.global_batch, work.seq)
    return float(np.max(peak(training_timeline(model, at, precision, engine, work.lora))))


def training_answers(
    model: ModelSpec, plan: ParallelPlan, work: TrainStep, precision: Precision, engine: Engine, device: Efficiency
) -> dict[str, object]:
    """All memory questions of a training step at once, as JSON-ready data (bytes)."""
    validate_plan(model, plan)
    hardware = device.hardware
    at = training_memory(plan, work.micro_batch, work.global_batch, work.seq)
    worst = max(training_timeline(model, at, precision, engine, work.lora), key=lambda one: float(np.max(one.total)))
    used = {name: round(float(np.max(value))) for name, value in worst.parts.items()}
    need = sum(used.values())
    out: dict[str, object] = {
        "peak": f"{worst.phase}, {worst.stage} stage",
        **{f"{name}_bytes": value for name, value in used.items()},
        "needs_bytes": need,
        "capacity_bytes": round(hardware.memory),
        "fits": need <= hardware.memory,
        "shortfall_bytes": max(0, round(need - hardware.memory)),
        "largest_micro_batch": largest_micro_batch(
            model, plan, work.seq, precision, engine, hardware, work.lora
        ).largest,
        "longest_sequence": longest_sequence(model, plan, work, precision, engine, hardware).largest,
    }
    try:
        smallest, each = fewest_training_devices(model, work, precision, engine, hardware)
        out["fewest_devices"] = f"{smallest.world} (fully sharded, full recomputation: {each / 2**30:.1f} GiB each)"
    except LlmError as error:
        out["fewest_devices"] = str(error)
    return out


def fewest_training_devices(
    model: ModelSpec, work: TrainStep, precision: Precision, engine: Engine, hardware: HardwareSpec, limit: int = 4096
) -> tuple[ParallelPlan, float]:
    """The smallest number of devices (a power of two) that holds the step under ZeRO-3 with full recomputation.

    Raises LlmError with the shortfall on `limit` devices where none does.
    """
    need = 0.0
    for world in (2**i for i in range(int(np.log2(limit)) + 1)):
        plan = ParallelPlan(dp=world, zero=3, recompute="full")
        step = work.model_copy(update={"global_batch": world * work.micro_batch})
        need = training_bytes(model, plan, step, precision, engine)
        if need <= hardware.memory:
            return plan, need
    raise LlmError(
        f"{model.name} does not train on up to {limit} x {hardware.name}, fully sharded",
        hint=f"{(need - hardware.memory) / 2**30:.1f} GiB a device short: a shorter sequence, or tensor parallelism",
    )


def memory_answers(
    model: ModelSpec, plan: ParallelPlan, work: Generation, precision: Precision, engine: Engine, device: Efficiency
) -> dict[str, object]:
    """All memory questions of a deployment at once, as JSON-ready data (bytes)."""
    hardware = device.hardware
    check_serving_plan(plan)
    parts = serving_parts(model, plan, work, precision, engine)
    used = {name: round(float(np.max(value))) for name, value in parts.items()}
    need = sum(used.values())
    out: dict[str, object] = {
        **{f"{name}_bytes": value for name, value in used.items()},
        "needs_bytes": need,
        "capacity_bytes": round(hardware.memory),
        "fits": need <= hardware.memory,
        "shortfall_bytes": max(0, round(need - hardware.memory)),
        "largest_batch": largest_batch(model, plan, work, precision, engine, hardware).largest,
        "longest_prompt": longest_context(model, plan, work, precision, engine, hardware).largest,
    }
    try:
        smallest, each = fewest_devices(model, work, precision, engine, hardware)
        out["fewest_devices"] = f"{smallest.world} (tp{smallest.tp},pp{smallest.pp}: {each / 2**30:.1f} GiB each)"
    except LlmError as error:
        out["fewest_devices"] = str(error)
    return out
