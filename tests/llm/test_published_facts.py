"""Facts that published rows decide: attention versions, conversions, stages, offloading, adapters, encoders."""

from __future__ import annotations

import numpy as np
import pytest

from stratoscope.llm import LlmError, UnsupportedError, from_hf
from stratoscope.llm.efficiency import Efficiency, efficiency
from stratoscope.llm.estimate import estimate_inference, estimate_training, split_of
from stratoscope.llm.hardware import find_hardware
from stratoscope.llm.hf import load_model
from stratoscope.llm.infer import Deployment
from stratoscope.llm.ops import Formats, Shape, layer_ops
from stratoscope.llm.plan import Engine, Generation, Lora, ParallelPlan, Precision, TrainStep, find_engine
from stratoscope.llm.rows import shipped_rows
from stratoscope.llm.serve import Service, saturated, simulate, with_interval
from stratoscope.llm.size import lora_params
from stratoscope.llm.timing import price
from stratoscope.llm.train import step_time, training_flops

LLAMA = load_model("llama-3.1-8b")


def deployment(engine: Engine, device: Efficiency, plan: str = "", precision: str = "bf16") -> Deployment:
    return Deployment(LLAMA, ParallelPlan.parse(plan), Precision.preset(precision), engine, device)


def test_each_version_of_flash_attention_is_faster_than_the_one_before(h100: Efficiency) -> None:
    times = []
    for version in (1, 2, 3):
        engine = find_engine("generic").model_copy(update={"flash_version": version})
        times.append(float(np.max(deployment(engine, h100).prefill(1, 16384.0).time)))
    assert times[0] > times[1] > times[2]


def test_the_fp8_curve_is_the_product_alone_with_its_conversion_apart(h100: Efficiency) -> None:
    curve = h100.curves.gemm["fp8"]
    # dense rate of a large product, measured by stas00/ml-engineering: 1402.6 of 1979 TFLOP/s
    assert curve.compute == pytest.approx(1402.6 / 1979, abs=0.03)
    assert curve.quantize_s > 0
    times = {}
    for how in ("dynamic", "static", "fused"):
        engine = find_engine("generic").model_copy(update={"quantization": how})
        for precision in ("fp8", "bf16"):
            passed = deployment(engine, h100, precision=precision).prefill(1, 4096.0)
            times[how, precision] = float(np.max(passed.time))
    assert times["dynamic", "fp8"] > times["static", "fp8"] > times["fused", "fp8"]
    assert len({times[how, "bf16"] for how in ("dynamic", "static", "fused")}) == 1


def test_a_conversion_happens_once_before_each_product_and_once_for_both_of_its_gradients() -> None:
    formats = Formats.of(Precision.preset("fp8"))
    dynamic = find_engine("generic").model_copy(update={"quantization": "dynamic"})
    ops = layer_ops(LLAMA.layers[0], LLAMA, Shape("prefill", 1.0, 128.0, 128.0), formats, dynamic)
    products = [op for op in ops if op.kind == "gemm"]
    assert [op.quantize for op in products] == [op.m * op.k for op in products]
    static = layer_ops(LLAMA.layers[0], LLAMA, Shape("prefill", 1.0, 128.0, 128.0), formats, find_engine("generic"))
    assert sum(op.name.endswith("quantize") for op in static) == len(products)


def test_fastertransformer_halves_a_batch_until_a_part_is_small_enough(a100: Efficiency) -> None:
    three = deployment(find_engine("fastertransformer"), a100, "pp2")
    # getLocalBatchSize: divided by the stages where that goes, then halved while more than 2048 tokens
    assert three.chunks(3, 1.0) == (1,)
    assert three.chunks(8, 1.0) == (2,)
    assert three.chunks(64, 128.0) == (4,)
    assert three.chunks(1, 4096.0) == (1,)


def test_cutting_a_batch_is_never_slower_than_running_it_whole(h100: Efficiency) -> None:
    whole = find_engine("generic").model_copy(update={"stage_tokens": 10**9})
    for batch in (3, 5, 63):  # no multiple of the stages: the rule keeps them whole
        for engine_time, whole_time in zip(
            *((float(np.max(part.time)) for part in (one.prefill(batch, 512.0), one.decode(batch, 512.0)))
              for one in (deployment(find_engine("generic"), h100, "pp4"), deployment(whole, h100, "pp4"))),
            strict=True,
        ):  # fmt: skip
            assert engine_time <= whole_time * (1 + 1e-9)


def test_offloading_takes_longer_and_a_faster_host_link_never_slower() -> None:
    base = find_hardware("a100")
    step = TrainStep(global_batch=4, micro_batch=4, seq=1024)
    times = []
    for rate in (1e9, 30e9, 900e9):
        link = base.host_bytes_per_s
        assert link is not None
        device = efficiency(base.model_copy(update={"host_bytes_per_s": link.model_copy(update={"value": rate})}))
        plan = ParallelPlan(recompute="full", offload="optimizer")
        times.append(float(np.max(step_time(LLAMA, split_of(plan, step), Precision(), ENGINE, device).whole.time)))
    kept = step_time(LLAMA, split_of(ParallelPlan(recompute="full"), step), Precision(), ENGINE, efficiency(base))
    assert times[0] > times[1] >= times[2] > float(np.max(kept.whole.time))
    tpu = efficiency(find_hardware("TPUv5p"))
    with pytest.raises(UnsupportedError, match="host link"):
        estimate_training(LLAMA, ParallelPlan(offload="optimizer"), step, tpu, engine=ENGINE)


ENGINE = find_engine("megatron-core")


def test_ten_billion_parameters_on_one_v100_with_offloading_reach_the_published_rate() -> None:
    # ZeRO-Offload, arXiv 2101.06840 abstract: 40 TFLOP/s on one V100 at 10 billion parameters
    fields = {"n_embd": 4096, "n_layer": 50, "n_head": 32, "n_positions": 1024, "vocab_size": 50257}
    model = from_hf({"model_type": "gpt2", **fields}, "gpt-10b")
    plan, work = ParallelPlan(recompute="full", offload="optimizer"), TrainStep(global_batch=8, micro_batch=8, seq=1024)
    report = estimate_training(
        model, plan, work, efficiency(find_hardware("v100")), precision=Precision.preset("fp16"),
        engine=find_engine("megatron-lm"),
    )  # fmt: skip
    mfu = report.results["mfu"]
    assert mfu.low * 125 <= 40 <= mfu.high * 125


def test_frozen_weights_are_no_model_flops() -> None:
    lora = Lora(rank=8)
    plain, _ = training_flops(LLAMA, 2048, 1, "none")
    useful, executed = training_flops(LLAMA, 2048, 1, "none", lora)
    forward = LLAMA.forward_flops(2048, causal_skips=False)
    scores = forward - LLAMA.forward_flops(1, causal_skips=False) * 2048
    assert useful == executed
    assert plain - useful == pytest.approx(forward - scores - 6 * lora_params(LLAMA, lora) * 2048)
    assert training_flops(LLAMA, 2048, 1, "full", lora)[1] == pytest.approx(useful + forward)


def test_a_saturated_service_gains_from_bandwidth_and_refuses_what_does_not_fit(h100: Efficiency) -> None:
    engine = find_engine("tensorrt-llm")
    _, rate = saturated(deployment(engine, h100), 512, 512)
    _, more = saturated(deployment(engine, efficiency(find_hardware("h200"))), 512, 512)
    assert float(rate.low) <= float(rate.time) <= float(rate.high)
    assert float(more.time) > float(rate.time)
    large = Deployment(load_model("llama-3.1-405b"), ParallelPlan(), Precision(), engine, h100)
    with pytest.raises(LlmError, match="no request"):
        saturated(large, 512, 512)


def test_the_interval_of_a_service_encloses_its_expected_times_and_prices_its_tokens(h100: Efficiency) -> None:
    served = deployment(find_engine("vllm"), h100)
    service = Service(rate_per_s=8.0, prompt=512, output=64, requests=400)
    plain = simulate(served, service)
    report = with_interval(served, service, plain, price=3.6)
    assert report.ttft_p50_low_s is not None
    assert report.ttft_p50_high_s is not None
    assert report.ttft_p50_low_s <= plain.ttft_p50_s <= report.ttft_p50_high_s
    assert report.bound in ("compute", "memory", "latency", "communication")
    assert report.device_s_per_million_tokens == pytest.approx(1e6 / plain.output_tokens_per_s)
    assert report.dollar_per_million_tokens == pytest.approx(1e3 / plain.output_tokens_per_s)


def test_an_encoder_has_one_pass_and_no_cache(h100: Efficiency) -> None:
    fields = {
        "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
        "patch_size": 16, "image_size": 224,
    }  # fmt: skip
    vit = from_hf({"model_type": "vit", **fields}, "vit")
    served = Deployment(vit, ParallelPlan(), Precision(), find_engine("generic"), h100)
    report = estimate_inference(served, Generation(batch=64, prompt=197, output=1))
    flops = 64 * (vit.forward_flops(197, causal_skips=False) + 2 * 197 * 16 * 16 * 3 * 768)
    assert flops / 64 == pytest.approx(35.1e9, rel=0.01)  # 17.6 GMAC, the published count of ViT-B/16
    assert 0.1 < flops / report.value("latency_s") / 989e12 < 0.8
    memory = report.memory.find("cache")
    assert memory is not None
    assert memory.value == 0
    with pytest.raises(UnsupportedError, match="generates nothing"):
        estimate_inference(served, Generation(batch=1, prompt=100, output=2))


def test_rows_that_state_only_what_changes_inherit_the_rest() -> None:
    late = [row for row in shipped_rows() if row.suite == "C13-large"]
    assert len(late) == 104
    assert {row.parallel["tp"] * row.parallel["pp"] for row in late} == {8, 16, 24, 32}
    assert len({row.id for row in shipped_rows()}) == len(shipped_rows())
    work = late[0].workload
    assert Generation(batch=work["batch"], prompt=work["input"]).prompt == 20


def test_the_price_of_an_operator_counts_its_conversion(h100: Efficiency) -> None:
    formats = Formats.of(Precision.preset("fp8"))
    dynamic = find_engine("generic").model_copy(update={"quantization": "dynamic"})
    ops = layer_ops(LLAMA.layers[0], LLAMA, Shape("prefill", 1.0, 4096.0, 4096.0), formats, dynamic)
    product = next(op for op in ops if op.kind == "gemm")
    bare = h100.gemm(product.m, product.n, product.k, kind="fp8", unit="fp8", nbytes=product.nbytes)
    assert float(np.max(price(product, h100).time)) > float(np.max(bare.time))
