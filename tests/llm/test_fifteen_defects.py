"""The fifteen reproduced defects of llm-analysis as regressions: each test states what is right."""

from __future__ import annotations

import numpy as np
import pytest

from stratoscope.llm import LlmError, UnsupportedError, from_hf
from stratoscope.llm.efficiency import Efficiency, efficiency
from stratoscope.llm.estimate import estimate_inference, estimate_training
from stratoscope.llm.hardware import find_hardware, hardware_table
from stratoscope.llm.hf import load_model, shipped_configs
from stratoscope.llm.infer import Deployment, generate
from stratoscope.llm.inverse import largest_micro_batch
from stratoscope.llm.memory import training_memory, training_timeline
from stratoscope.llm.ops import Formats, Shape, head_ops, layer_ops
from stratoscope.llm.plan import ENGINES, Generation, ParallelPlan, Precision, TrainStep, find_engine
from stratoscope.llm.spec import ModelSpec
from stratoscope.llm.train import Split, step_time, training_flops


def gpt(layers: int = 48, hidden: int = 6144, heads: int = 64, vocab: int = 51200, name: str = "gpt") -> ModelSpec:
    """A plain GPT: multi-head attention, 4h feed-forward, biases, learned positions, tied head."""
    fields = {"n_embd": hidden, "n_layer": layers, "n_head": heads, "n_positions": 2048, "vocab_size": vocab}
    return from_hf({"model_type": "gpt2", **fields}, name)


def llama_like() -> ModelSpec:
    return load_model("llama-3.1-8b")


def mixtral_like(top_k: int = 2) -> ModelSpec:
    return from_hf({**shipped_configs()["mixtral-8x7b"], "num_experts_per_tok": top_k}, "mixtral")


GENERIC, MEGATRON = find_engine("generic"), find_engine("megatron-lm")
HALF = Precision.preset("fp16")


def split(**changes: object) -> Split:
    base: dict[str, object] = {
        "tp": 8.0, "cp": 1.0, "pp": 1.0, "vpp": 1.0, "ep": 1.0, "dp": 1.0, "micro_batch": 4.0, "global_batch": 4.0,
        "seq": 2048.0,
    }  # fmt: skip
    return Split(**{**base, **changes})  # type: ignore[arg-type]


def test_01_without_zero_no_weights_are_gathered(a100: Efficiency) -> None:
    for dp in (1, 2, 64):
        at = split(dp=float(dp), global_batch=4.0 * dp)
        names = {term.name for term in step_time(gpt(), at, HALF, MEGATRON, a100).gradients}
        assert names == {"all-reduce gradients"}
    forward = {
        float(np.max(step_time(gpt(), split(dp=float(d), global_batch=4.0 * d), HALF, MEGATRON, a100).forward[3].time))
        for d in (1, 64)
    }
    assert len(forward) == 1


def test_02_recomputation_costs_time(a100: Efficiency) -> None:
    none, full = (step_time(gpt(), split(recompute=mode), HALF, MEGATRON, a100) for mode in ("none", "full"))
    assert float(full.whole.time) > 1.2 * float(none.whole.time)


def test_03_selective_recomputation_adds_the_attention_core_once_a_layer(a100: Efficiency) -> None:
    model = gpt()
    at = split(recompute="selective")
    again = [term for term in step_time(model, at, HALF, MEGATRON, a100).backward if term.group == "recomputation"]
    assert {term.name for term in again} == {"scores", "softmax", "weighted sum"}
    assert all(term.count == len(model.layers) for term in again)
    useful, executed = training_flops(model, 2048, 4, "selective")
    core = 4 * 4 * 2048**2 * 6144 * 48  # 4 b s^2 h a layer
    assert executed - useful == pytest.approx(core, rel=1e-3)


def test_04_a_pipeline_has_a_bubble_and_does_not_shorten_latency(a100: Efficiency) -> None:
    model = gpt(name="OPT-13B", layers=40, hidden=5120, heads=40)
    work = Generation(batch=1, prompt=128, output=32)
    alone, staged = (
        generate(Deployment(model, ParallelPlan(pp=pp), HALF, GENERIC, a100), work).latency.time for pp in (1, 8)
    )
    assert float(staged) >= float(alone)
    step = step_time(model, split(tp=1.0, pp=8.0, global_batch=32.0), HALF, MEGATRON, a100)
    assert float(step.bubble) > 0
    assert float(step.pipeline) > 0


def test_05_experts_scale_with_top_k_and_only_touched_ones_are_read() -> None:
    one, two = mixtral_like(1), mixtral_like(2)
    extra = two.forward_flops(1) - one.forward_flops(1)
    assert extra == 32 * 2 * 3 * 4096 * 14336
    formats = Formats.of(Precision())
    shape = Shape("decode", 1.0, 1.0, 128.0)
    experts = next(op for op in layer_ops(two.layers[0], two, shape, formats, GENERIC) if op.kind == "experts")
    assert float(experts.nbytes) == pytest.approx(2 * 2 * 3 * 4096 * 14336, rel=0.01)  # 2 experts of 8, 2 bytes
    config = {
        "model_type": "mixtral", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 10, "num_local_experts": 8,
        "num_experts_per_tok": 2,
    }  # fmt: skip
    assert from_hf(config).layers[0].ffn.top_k == 2


def test_06_decode_grows_with_the_context_and_reads_the_cache_once(a100: Efficiency) -> None:
    formats = Formats.of(Precision())
    model = llama_like()
    short, long = (
        next(
            op
            for op in layer_ops(model.layers[0], model, Shape("decode", 1.0, 1.0, context), formats, GENERIC)
            if op.kind == "decode_attention"
        )
        for context in (128.0, 4064.0)
    )
    assert long.flops == pytest.approx(short.flops * 4064 / 128)
    assert float(long.nbytes) == 2 * 4064 * 8 * 256  # 16-bit keys and values, read once, never written back
    deployment = Deployment(model, ParallelPlan(), Precision(), GENERIC, a100)
    assert float(deployment.decode(64, 4000.0).time) > float(deployment.decode(64, 100.0).time)


def test_07_any_ratio_of_widths_loads_and_nothing_remote_runs() -> None:
    for width in (11008, 25600):
        config = {
            "model_type": "llama", "hidden_size": 4096, "intermediate_size": width, "num_hidden_layers": 2,
            "num_attention_heads": 32, "vocab_size": 100, "auto_map": {"AutoConfig": "x--y.Z"},
        }  # fmt: skip
        assert from_hf(config).layers[0].ffn.gated


def test_08_untied_head_and_wide_heads_are_counted() -> None:
    assert llama_like().params == pytest.approx(8.03e9, rel=1e-3)


def test_09_gemma_has_heads_wider_than_hidden_over_heads() -> None:
    config = {
        "model_type": "gemma", "hidden_size": 3072, "intermediate_size": 24576, "num_hidden_layers": 28,
        "num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 256, "vocab_size": 256000,
    }  # fmt: skip
    assert from_hf(config).forward_flops(128) > 2 * 7.5e9 * 128


def test_10_what_does_not_fit_is_infeasible_with_its_shortfall() -> None:
    device = efficiency(find_hardware("a100-40"))
    model = gpt(layers=96, hidden=12288, heads=96, vocab=50272, name="OPT-175B")
    report = estimate_training(
        model, ParallelPlan(), TrainStep(global_batch=1, seq=2048), device, precision=HALF, engine=GENERIC
    )
    assert not report.feasible
    assert report.shortfall_bytes > 3e12 - 43e9  # 18 bytes a parameter alone
    limit = largest_micro_batch(model, ParallelPlan(), 2048, HALF, GENERIC, device.hardware)
    assert limit.largest == 0
    assert limit.next_shortfall_bytes > 0
    moments = training_timeline(model, training_memory(ParallelPlan(), 1, 1, 2048), HALF, GENERIC)
    assert all(float(np.max(part)) >= 0 for moment in moments for part in moment.parts.values())


def test_11_tokens_per_second_count_all_accumulation_and_missing_peaks_are_named(a100: Efficiency) -> None:
    work = TrainStep(global_batch=64, micro_batch=1, seq=2048)
    plan = ParallelPlan(tp=8, dp=2)
    report = estimate_training(gpt(), plan, work, a100, precision=HALF, engine=MEGATRON)
    assert report.value("tokens_per_s") * report.value("step_s") == pytest.approx(64 * 2048)
    with pytest.raises(UnsupportedError, match="int8"):
        find_hardware("v100").peak("int8")
    head = head_ops(llama_like(), 1.0, 1.0, Formats.of(Precision()), training=False)[0]
    assert float(head.nbytes) >= 2 * 128256 * 4096  # the head's weights are read; the embedding looks up one row


def test_12_traffic_is_read_and_written_bytes_and_latencies_add(a100: Efficiency) -> None:
    model = gpt()
    ops = layer_ops(model.layers[0], model, Shape("train", 4.0, 2048.0, 2048.0, tp=8.0), Formats.of(HALF), MEGATRON)
    norm = next(op for op in ops if op.name == "norm")
    assert norm.nbytes == 2 * 2 * 4 * 2048 * 6144  # read once, written once, 2 bytes
    step = step_time(model, split(), HALF, MEGATRON, a100)
    forward = [term for term in step.forward if term.family == "collective"]
    backward = [term for term in step.backward if term.family == "collective"]
    assert sum(float(t.time) for t in forward) == pytest.approx(sum(float(t.time) for t in backward))


def test_13_gradients_persist_beside_activations_and_the_framework_is_counted() -> None:
    plan = ParallelPlan(tp=8)
    moments = training_timeline(gpt(), training_memory(plan, 4, 4, 2048), HALF, MEGATRON)
    backward = next(moment for moment in moments if moment.phase == "backward" and moment.stage == "first")
    assert float(np.max(backward.parts["gradients"])) == pytest.approx(4 * 22e9 / 8, rel=0.03)
    assert float(np.max(backward.parts["activations"])) > 0
    assert float(np.max(backward.parts["framework and communicator"])) > 0.9 * 2**30
    loss = next(moment for moment in moments if moment.phase == "loss")
    assert float(np.max(loss.parts["logits"])) >= 4 * 2048 * 51200 / 8 * 4  # an fp32 copy at least


def test_14_hardware_figures_are_sane() -> None:
    for device in hardware_table().devices:
        up = device.scale_up.bandwidth_bytes_per_s.value
        if device.scale_out is not None:
            assert device.scale_out.bandwidth_bytes_per_s.value <= up
            assert device.scale_out.bandwidth_bytes_per_s.value <= 100e9  # per device, not per node
        assert "int4" not in device.peak_flops_per_s
        for figure in device.measured_matmul_flops_per_s.values():
            assert figure.value < max(peak.value for peak in device.peak_flops_per_s.values())


def test_15_counts_are_decimal() -> None:
    assert gpt(layers=96, hidden=12288, heads=96, vocab=51200).params / 1e9 == pytest.approx(174.6, abs=0.1)


def test_reports_exist_for_every_engine(a100: Efficiency) -> None:
    for engine in ENGINES.values():
        deployment = Deployment(llama_like(), ParallelPlan(), Precision(), engine, a100)
        assert estimate_inference(deployment, Generation(batch=1, prompt=64, output=4)).value("latency_s") > 0
    with pytest.raises(LlmError, match="known"):
        find_engine("no such engine")
