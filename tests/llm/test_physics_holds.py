"""Monotonicity and limits of the model, as properties over plans, sizes and devices."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratoscope.llm import LlmError
from stratoscope.llm.collectives import collective, group
from stratoscope.llm.efficiency import Efficiency, efficiency
from stratoscope.llm.hardware import Figure, find_hardware, hardware_table
from stratoscope.llm.hf import load_model, shipped_configs
from stratoscope.llm.infer import Deployment, generate
from stratoscope.llm.inverse import fewest_devices, largest_batch, longest_context, serving_bytes
from stratoscope.llm.memory import cache_bytes, peak, training_memory, training_timeline
from stratoscope.llm.ops import Formats, Shape, layer_ops
from stratoscope.llm.plan import Generation, ParallelPlan, Precision, TrainStep, find_engine
from stratoscope.llm.search import TrainingSpace, pareto, price_training, search_serving, search_training, training_grid
from stratoscope.llm.size import saved_bytes_per_token
from stratoscope.llm.spec import ModelSpec, visible_pairs
from stratoscope.llm.train import Split, step_time

GENERIC, MEGATRON = find_engine("generic"), find_engine("megatron-lm")
LLAMA, MIXTRAL, GPT3 = load_model("llama-3.1-8b"), load_model("mixtral-8x7b"), load_model("gpt-3-175b")
A100 = efficiency(find_hardware("a100"))
NAMES = [device.name for device in hardware_table().devices]


def with_bandwidth(base: Efficiency, factor: float) -> Efficiency:
    """The same device with faster memory and links."""
    hardware = base.hardware
    up = hardware.scale_up
    faster = hardware.model_copy(
        update={
            "memory_bandwidth_bytes_per_s": Figure(value=hardware.memory_bandwidth * factor, source="test"),
            "scale_up": up.model_copy(
                update={"bandwidth_bytes_per_s": Figure(value=up.bandwidth_bytes_per_s.value * factor, source="test")}
            ),
        }
    )
    return replace(base, hardware=faster)


@settings(deadline=None, max_examples=40)
@given(
    factor=st.floats(1.0, 8.0),
    batch=st.integers(1, 256),
    prompt=st.integers(1, 4096),
    tp=st.sampled_from([1, 2, 4, 8]),
)
def test_more_bandwidth_is_never_slower(factor: float, batch: int, prompt: int, tp: int) -> None:
    work = Generation(batch=batch, prompt=prompt, output=8)
    slow, fast = (
        generate(Deployment(LLAMA, ParallelPlan(tp=tp), Precision(), GENERIC, device), work)
        for device in (A100, with_bandwidth(A100, factor))
    )
    assert float(fast.latency.time) <= float(slow.latency.time) * (1 + 1e-12)


@settings(deadline=None, max_examples=40)
@given(
    batch=st.integers(1, 512),
    prompt=st.integers(1, 4096),
    name=st.sampled_from(["bf16", "fp8", "int4wo"]),
    model=st.sampled_from([LLAMA, MIXTRAL]),
)
def test_more_batch_never_needs_less_memory_and_never_less_time(
    batch: int, prompt: int, name: str, model: ModelSpec
) -> None:
    precision = Precision.preset(name)
    few, many = (Generation(batch=n, prompt=prompt, output=8) for n in (batch, batch + 1))
    needs = [serving_bytes(model, ParallelPlan(), work, precision, GENERIC) for work in (few, many)]
    assert needs[0] <= needs[1]
    device = efficiency(find_hardware("h100"))
    times = [generate(Deployment(model, ParallelPlan(), precision, GENERIC, device), w).latency for w in (few, many)]
    assert float(times[0].time) <= float(times[1].time)
    for time in times:
        assert 0 < float(time.low) <= float(time.time) <= float(time.high)


@settings(deadline=None, max_examples=30)
@given(micro=st.integers(1, 16), seq=st.sampled_from([512, 2048, 8192]), recompute=st.sampled_from(["none", "full"]))
def test_a_larger_microbatch_never_needs_less_memory(micro: int, seq: int, recompute: str) -> None:
    plan = ParallelPlan(tp=8, pp=4, recompute=recompute)  # type: ignore[arg-type]
    used = [
        float(np.max(peak(training_timeline(GPT3, training_memory(plan, n, n * 8, seq), Precision(), GENERIC))))
        for n in (micro, micro + 1)
    ]
    assert used[0] <= used[1]


def test_one_rank_communicates_nothing() -> None:
    for op in ("all_reduce", "all_gather", "reduce_scatter", "alltoall"):
        assert float(collective(A100, op, 1e9, group(A100.hardware, 1.0, 1.0)).time) == 0.0
    deployment = Deployment(LLAMA, ParallelPlan(), Precision(), GENERIC, A100)
    assert sum(float(np.max(t.time)) for t in deployment.decode(8, 100.0).terms if t.family == "collective") == 0.0


@settings(deadline=None, max_examples=40)
@given(
    op=st.sampled_from(["all_reduce", "all_gather", "reduce_scatter", "alltoall"]),
    size=st.floats(1.0, 1e10),
    ranks=st.sampled_from([2, 4, 8, 16, 64, 1024]),
    level=st.sampled_from(["peak", "prior"]),
)
def test_collectives_grow_with_bytes_and_never_beat_the_wire(op: str, size: float, ranks: int, level: str) -> None:
    device = efficiency(find_hardware("a100"), level)  # type: ignore[arg-type]
    members = group(device.hardware, float(ranks), 1.0)
    once, twice = (float(collective(device, op, n, members).time) for n in (size, 2 * size))
    assert once <= twice
    wire = (ranks - 1) / ranks * size / 300e9 * (2 if op == "all_reduce" else 1)
    assert once >= 0.99 * wire / (1 if ranks <= 8 else 8 / 7 * 2)


def test_full_recomputation_adds_one_forward_pass() -> None:
    at = Split(8.0, 1.0, 1.0, 1.0, 1.0, 1.0, 4.0, 4.0, 2048.0)
    none, full = (
        step_time(GPT3, replace(at, recompute=mode), Precision(), MEGATRON, A100) for mode in ("none", "full")
    )
    layers = [term for term in none.forward if term.group != "head"]
    added = float(full.whole.time) - float(none.whole.time)
    assert added == pytest.approx(sum(float(np.max(term.time)) for term in layers), rel=1e-6)


@settings(deadline=None)
@given(queries=st.integers(1, 300), past=st.integers(0, 300), window=st.one_of(st.none(), st.integers(1, 400)))
def test_visible_pairs_equal_counting_them(queries: int, past: int, window: int | None) -> None:
    context = queries + past
    counted = sum(min(past + i + 1, window or 10**9) for i in range(queries))
    assert visible_pairs(float(queries), float(context), causal=True, window=window) == counted


def test_causal_attention_is_half_of_full_attention_in_the_limit() -> None:
    causal = visible_pairs(1e6, 1e6, causal=True, window=None)
    assert causal / visible_pairs(1e6, 1e6, causal=False, window=None) == pytest.approx(0.5, abs=1e-5)
    skipped, whole = (LLAMA.forward_flops(65536, causal_skips=flag) for flag in (True, False))
    attention = 2 * 2 * 65536**2 * 32 * 128 * 32
    assert whole - skipped == pytest.approx(attention / 2, rel=1e-3)


@pytest.mark.parametrize("tp", [1, 2, 8])
@pytest.mark.parametrize("sequence_parallel", [False, True])
@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_saved_activations_equal_the_formulas_of_korthikanti(tp: int, sequence_parallel: bool, recompute: str) -> None:
    h, a, s, t = 12288, 96, 2048, tp
    split = float(tp) if sequence_parallel else 1.0
    saved = saved_bytes_per_token(GPT3.layers[0], h, float(s), float(t), split, Formats.of(Precision()), MEGATRON,
                                  recompute)  # type: ignore[arg-type]  # fmt: skip
    expected = {
        "none": h * (10 / split + 24 / t + 5 * a * s / (h * t)),
        "selective": h * (10 / split + 24 / t),
        "full": 2 * h / split,
    }[recompute]
    assert float(saved) == pytest.approx(expected)


def test_cache_splits_over_heads_but_not_beyond_and_latent_cache_not_at_all() -> None:
    by_tp = [float(cache_bytes(LLAMA, 1.0, 1024.0, float(tp), 1.0, 2.0)) for tp in (1, 2, 8, 16)]
    assert by_tp[0] == 131072 * 1024
    assert by_tp[0] / by_tp[2] == 8
    assert by_tp[3] == by_tp[2]
    latent = load_model("deepseek-v3")
    assert float(cache_bytes(latent, 1.0, 1024.0, 8.0, 1.0, 2.0)) == 70272 * 1024


@pytest.mark.parametrize("name", sorted(shipped_configs()))
def test_flops_of_the_operator_graph_equal_those_of_the_spec(name: str) -> None:
    model, tokens = load_model(name), 128
    formats = Formats.of(Precision())
    shape = Shape("prefill", 1.0, float(tokens), float(tokens))
    graph = sum(
        count * float(np.sum(op.flops))
        for layer, count in model.groups
        for op in layer_ops(layer, model, shape, formats, GENERIC)
    )
    head = 2.0 * tokens * model.vocab * model.hidden
    assert graph == pytest.approx(model.forward_flops(tokens) - head, rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_no_operator_is_faster_than_the_roofs(name: str) -> None:
    hardware = find_hardware(name)
    dtype = "bf16" if "bf16" in hardware.peak_flops_per_s else "fp16"
    prior, roof = efficiency(hardware), efficiency(hardware, "peak")
    for m in (1.0, 64.0, 4096.0):
        nbytes = 2 * (m * 8192 + 4096 * (m + 8192))
        times = [float(e.gemm(m, 8192.0, 4096.0, kind="bf16", unit=dtype, nbytes=nbytes).time) for e in (prior, roof)]
        assert times[0] >= times[1] > 0


def test_plans_that_do_not_divide_are_named_errors() -> None:
    for plan, reason in (
        (ParallelPlan(tp=3), "heads"),
        (ParallelPlan(pp=64), "stages"),
        (ParallelPlan(dp=2, ep=2), "experts"),
    ):
        with pytest.raises(LlmError, match=reason):
            Deployment(LLAMA, plan, Precision(), GENERIC, A100)
    with pytest.raises(LlmError, match="not a part"):
        ParallelPlan.parse("tp8,xx3")
    assert ParallelPlan.parse("tp8,pp4,dp2,zero1,sp,full").world == 64


def test_inverse_questions_stop_exactly_at_the_memory() -> None:
    work = Generation(batch=1, prompt=1024, output=128)
    found = largest_batch(LLAMA, ParallelPlan(), work, Precision(), GENERIC, A100.hardware)
    for batch, fits in ((found.largest, True), (found.largest + 1, False)):
        need = serving_bytes(LLAMA, ParallelPlan(), work.model_copy(update={"batch": batch}), Precision(), GENERIC)
        assert (need <= A100.hardware.memory) is fits
    context = longest_context(LLAMA, ParallelPlan(), work, Precision(), GENERIC, A100.hardware)
    assert context.largest + 128 <= 131072
    plan, need = fewest_devices(load_model("llama-3.1-70b"), work, Precision(), GENERIC, A100.hardware)
    assert plan.world == 2
    assert need <= A100.hardware.memory


def test_quantised_weights_take_less_memory_and_decode_faster_at_batch_one(h100: Efficiency) -> None:
    work = Generation(batch=1, prompt=128, output=64)
    used, times = [], []
    for name in ("bf16", "int8wo", "int4wo"):
        precision = Precision.preset(name)
        used.append(serving_bytes(LLAMA, ParallelPlan(), work, precision, GENERIC))
        large = load_model("llama-3.1-70b")
        times.append(float(generate(Deployment(large, ParallelPlan(), precision, GENERIC, h100), work).tpot.time))
    assert used == sorted(used, reverse=True)
    assert times == sorted(times, reverse=True)


def test_array_prices_equal_scalar_prices() -> None:
    space = TrainingSpace(devices=(64,), global_batch=128, seq=2048)
    grid = training_grid(LLAMA, space, 8)
    time, memory = price_training(
        LLAMA, grid, space, Precision(), MEGATRON, A100, zero=1, sequence_parallel=True, recompute="selective"
    )
    for index in range(0, len(time), 17):
        tp, pp, vpp, dp, micro = (int(grid[name][index]) for name in ("tp", "pp", "vpp", "dp", "micro_batch"))
        plan = ParallelPlan(tp=tp, pp=pp, vpp=vpp, dp=dp, zero=1, sequence_parallel=True, recompute="selective")
        at = Split(float(tp), 1.0, float(pp), float(vpp), 1.0, float(dp), float(micro), 128.0, 2048.0, zero=1,
                   sequence_parallel=True, recompute="selective")  # fmt: skip
        alone = step_time(LLAMA, at, Precision(), MEGATRON, A100)
        held = peak(training_timeline(LLAMA, training_memory(plan, micro, 128, 2048), Precision(), MEGATRON))
        assert float(alone.whole.time) == pytest.approx(time[index], rel=1e-9)
        assert float(np.max(held)) == pytest.approx(memory[index], rel=1e-9)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=40))
def test_the_front_is_exactly_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    values = np.array(points, dtype=float)
    front = {tuple(values[index]) for index in pareto(values, np.ones(len(values), dtype=bool))}
    beaten = {p for p in points for q in points if q != p and q[0] <= p[0] and q[1] <= p[1]}
    assert front == {tuple(map(float, p)) for p in points if p not in beaten}


def test_search_keeps_to_memory_and_limits(h100: Efficiency) -> None:
    result = search_training(
        LLAMA, TrainingSpace(devices=(8, 16), global_batch=64, seq=8192), Precision(), GENERIC, h100
    )
    assert result.front
    assert all(item.memory_bytes <= h100.hardware.memory for item in result.front)
    work = Generation(batch=1, prompt=1024, output=128)
    served = search_serving(LLAMA, work, Precision(), GENERIC, h100, max_devices=4, ttft_s=0.5, tpot_s=0.03)
    assert served.front
    assert all(item.ttft_s is not None and item.ttft_s <= 0.5 for item in served.front)
    assert all(item.tpot_s is not None and item.tpot_s <= 0.03 for item in served.front)
    nothing = search_training(
        load_model("llama-3.1-405b"), TrainingSpace(devices=(8,), global_batch=8, seq=8192), Precision(), GENERIC, h100
    )
    assert nothing.feasible == 0
    assert nothing.smallest_shortfall_bytes > 0
    with pytest.raises(LlmError, match="divides"):
        search_training(LLAMA, TrainingSpace(devices=(1009,), global_batch=5, seq=64), Precision(), GENERIC, h100)


def test_a_batch_that_the_replicas_do_not_divide_is_refused() -> None:
    from stratoscope.llm.estimate import estimate_training

    with pytest.raises(LlmError, match="multiple"):
        estimate_training(LLAMA, ParallelPlan(dp=3), TrainStep(global_batch=4, seq=64), A100, engine=GENERIC)


def test_experts_split_over_expert_parallel_ranks() -> None:
    formats = Formats.of(Precision())
    whole, half = (
        next(
            op
            for op in layer_ops(
                MIXTRAL.layers[0], MIXTRAL, Shape("train", 1.0, 2048.0, 2048.0, ep=ep), formats, GENERIC
            )
            if op.kind == "experts"
        )
        for ep in (1.0, 8.0)
    )
    assert float(half.weight_elements) * 8 == float(whole.weight_elements)
    assert float(half.flops) == float(whole.flops)  # each rank keeps its share of the visits
