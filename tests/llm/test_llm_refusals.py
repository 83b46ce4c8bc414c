"""What cannot be answered is refused in one line that names the thing and a way out; nothing is guessed or crashes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from stratoscope.cli.llm import llm_app
from stratoscope.errors import StratoscopeError
from stratoscope.llm import LlmError, UnsupportedError, from_hf
from stratoscope.llm.base import Value
from stratoscope.llm.calibrate import load_calibration
from stratoscope.llm.efficiency import Efficiency
from stratoscope.llm.estimate import estimate_inference, estimate_training
from stratoscope.llm.hf import load_model
from stratoscope.llm.infer import Deployment
from stratoscope.llm.plan import Generation, Lora, ParallelPlan, Precision, TrainStep, find_engine
from stratoscope.llm.serve import Service, simulate

LLAMA = {
    "model_type": "llama", "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
    "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 1000,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hidden_size": None}, "hidden_size"),
        ({"hidden_size": "256"}, "hidden_size is '256', not a count"),
        ({"hidden_size": 256.5}, "hidden_size"),
        ({"hidden_size": float("nan")}, "hidden_size"),
        ({"hidden_size": True}, "hidden_size"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"hidden_size": 10**18}, "hidden_size"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"num_attention_heads": 0}, "num_attention_heads"),
        ({"num_attention_heads": 7, "num_key_value_heads": 7}, "7 heads do not divide"),
        ({"num_attention_heads": [8]}, "num_attention_heads"),
        ({"num_key_value_heads": 0}, "num_key_value_heads"),
        ({"num_key_value_heads": 3}, "key-value heads"),
        ({"head_dim": 0}, "head_dim"),
        ({"vocab_size": -1}, "vocab_size"),
        ({"tie_word_embeddings": "maybe"}, "tie_word_embeddings"),
        ({"layer_types": "full_attention"}, "layer_types"),
        ({"layer_types": ["full_attention"] * 3}, "layer_types"),
        ({"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 5}, "top-5 of 4"),
        ({"model_type": "a_family_of_tomorrow"}, "a_family_of_tomorrow"),
        ({"model_type": None}, "model_type"),
    ],
)
def test_a_faulty_configuration_is_refused_with_the_field(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(LlmError) as caught:
        from_hf({**LLAMA, **changes}, "faulty")
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    "text",
    ["", "{", "[1, 2]", "null", '{"layers": [], "family": "x"}', '{"layers": [{"mixer": {"kind": "psychic"}}], '
     '"family": "x", "name": "x", "hidden": 1, "vocab": 1}', "[" * 100_000, "\x00"],
)  # fmt: skip
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(LlmError, match=r"config\.json"):
        load_model(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(LlmError, match=r"config\.json"):
        load_model(path)


def test_a_saved_spec_is_read_back_whole(tmp_path: Path) -> None:
    for name in ("deepseek-v3", "mixtral-8x7b", "gpt-2"):
        path = tmp_path / f"{name}.json"
        path.write_text(load_model(name).model_dump_json())
        assert load_model(path) == load_model(name)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("tp0", "tp is 0"), ("tp-2", "'tp-2'"), ("zero9", "zero is 9"), ("vpp2", "pipeline stages"), ("tp", "'tp'"),
        ("tp" + "9" * 20, "not a part"), ("dp3,hsdp2", "HSDP"), ("tp2,ep3", "ep=3"), ("order=tp-pp", "placement"),
        ("speed9", "speed9"),
    ],
)  # fmt: skip
def test_a_faulty_plan_is_refused_with_the_part(text: str, named: str) -> None:
    with pytest.raises(LlmError) as caught:
        ParallelPlan.parse(text)
    assert named in str(caught.value)
    assert "pydantic" not in str(caught.value)


def test_plans_carry_every_part() -> None:
    plan = ParallelPlan.parse("tp2,cp2,pp2,vpp2,ep4,dp4,zero1,hsdp2,sp,full,offload,order=tp-cp-pp-dp")
    assert (plan.world, plan.hsdp_replicas, plan.offload, plan.stride("dp")) == (32, 2, "optimizer", 8)
    assert plan.sequence_parallel


@pytest.mark.parametrize(
    ("kind", "fields", "named"),
    [
        (Generation, {"batch": 0, "prompt": 1}, "batch"),
        (Generation, {"batch": 1, "prompt": 8, "cached": 8}, "cached < prompt"),
        (TrainStep, {"global_batch": -1, "seq": 1}, "global_batch"),
        (TrainStep, {"global_batch": 1, "seq": "long"}, "seq"),
        (Service, {"rate_per_s": float("inf"), "prompt": 1, "output": 2}, "rate_per_s"),
        (Service, {"rate_per_s": float("nan"), "prompt": 1, "output": 2}, "rate_per_s"),
        (Service, {"rate_per_s": 1.0, "prompt": 1, "output": 1}, "output"),
        (Lora, {"rank": 0}, "rank"),
        (Lora, {"rank": 1, "alpha": 2}, "alpha"),
    ],
)
def test_a_faulty_question_is_refused_with_the_field(kind: type[Value], fields: dict[str, Any], named: str) -> None:
    with pytest.raises(LlmError, match=named):
        kind(**fields)


def test_what_only_training_has_is_refused_in_serving(h100: Efficiency) -> None:
    model, engine = load_model("llama-3.1-8b"), find_engine("vllm")
    for text in ("dp2,zero3", "pp2,vpp2", "full", "offload", "dp4,hsdp2"):
        with pytest.raises(LlmError, match="only training"):
            Deployment(model, ParallelPlan.parse(text), Precision(), engine, h100)


@pytest.mark.parametrize(
    ("engine", "precision", "model", "seq", "named"),
    [
        ("vllm", "bf16", "llama-3.1-8b", 64, "does not train"),
        ("generic", "int4wo", "llama-3.1-8b", 64, "no gradients"),
        ("generic", "bf16", "gpt-2", 1025, "learned positions"),
    ],
)
def test_a_step_that_nobody_can_run_is_refused(
    h100: Efficiency, engine: str, precision: str, model: str, seq: int, named: str
) -> None:
    step, numbers = TrainStep(global_batch=1, seq=seq), Precision.preset(precision)
    with pytest.raises(LlmError, match=named):
        estimate_training(load_model(model), ParallelPlan(), step, h100, precision=numbers, engine=find_engine(engine))


def test_quantised_weights_train_under_adapters(h100: Efficiency) -> None:
    model, engine = load_model("llama-3.1-8b"), find_engine("generic")
    step = TrainStep(global_batch=1, seq=64, lora=Lora(rank=8))
    four, sixteen = (
        estimate_training(model, ParallelPlan(), step, h100, precision=Precision.preset(name), engine=engine)
        for name in ("int4wo", "bf16")
    )
    assert four.memory.value < sixteen.memory.value / 2


def test_replicas_share_a_batch_and_a_load(h100: Efficiency) -> None:
    model, engine = load_model("llama-3.1-8b"), find_engine("vllm")
    one, four = (Deployment(model, ParallelPlan(dp=dp), Precision(), engine, h100) for dp in (1, 4))
    alone, shared = (
        estimate_inference(deployment, Generation(batch=batch, prompt=256, output=16))
        for deployment, batch in ((one, 2), (four, 8))
    )
    assert shared.value("latency_s") == alone.value("latency_s")
    assert shared.value("output_tokens_per_s") == pytest.approx(4 * alone.value("output_tokens_per_s"))
    with pytest.raises(LlmError, match="replicas"):
        estimate_inference(four, Generation(batch=6, prompt=256, output=16))
    load = Service(rate_per_s=1.0, prompt=256, output=16, requests=200)
    quarter, whole = simulate(one, load), simulate(four, load.model_copy(update={"rate_per_s": 4.0}))
    assert whole.completed_per_s == pytest.approx(4 * quarter.completed_per_s)
    assert whole.tpot_p50_s == quarter.tpot_p50_s


@pytest.mark.parametrize("text", ["{}", '{"schema": 1, "curves": {}}', '{"schema": 1, "curves": 5}', "[" * 100_000])
def test_an_incomplete_calibration_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(text)
    with pytest.raises(LlmError, match="calibration"):
        load_calibration(path)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("train", "-m", "llama-3.1-8b", "--gbs", "8", "--price", "inf"), "--price"),
        (("infer", "-m", "llama-3.1-8b", "--kv", "int2"), "int2"),
        (("infer", "-m", "llama-3.1-8b", "--cached", "5000"), "cached"),
        (("infer", "-m", "llama-3.1-8b", "--hw", "nowhere.json"), "nowhere.json"),
        (("serve", "-m", "llama-3.1-8b", "--rate", "0"), "--rate"),
        (("serve", "-m", "llama-3.1-8b", "--rate", "inf"), "--rate"),
        (("serve", "-m", "llama-3.1-8b", "--ttft", "-1"), "--ttft"),
        (("search", "-m", "llama-3.1-8b", "--devices", "0"), "--devices"),
        (("search", "-m", "llama-3.1-8b", "--devices", "-8"), "--devices"),
        (("search", "-m", "llama-3.1-8b", "--devices", "8,"), "--devices"),
        (("search", "-m", "llama-3.1-8b", "--budget", "nan"), "--budget"),
        (("search", "-m", "llama-3.1-8b", "--engine", "vllm"), "does not train"),
        (("memory", "-m", "llama-3.1-8b", "--plan", "tp3"), "heads"),
        (("memory", "-m", "llama-3.1-8b", "--gbs", "8", "--plan", "pp64"), "stages"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(arguments: tuple[str, ...], named: str) -> None:
    result = CliRunner().invoke(llm_app, list(arguments))
    assert isinstance(result.exception, StratoscopeError)
    assert named in str(result.exception)
    assert "\n" not in str(result.exception)


def test_memory_answers_for_training_too() -> None:
    result = CliRunner().invoke(
        llm_app, ["memory", "-m", "llama-3.1-8b", "--gbs", "8", "--plan", "dp8,zero3,full", "--json", "-"]
    )
    answers = json.loads(result.output)
    assert answers["fits"]
    assert answers["largest_micro_batch"] >= 1
    assert answers["longest_sequence"] >= 4096
    assert answers["needs_bytes"] <= answers["capacity_bytes"]


def test_the_limits_that_nothing_keeps_are_not_called_a_lack_of_memory() -> None:
    result = CliRunner().invoke(
        llm_app, ["search", "-m", "llama-3.1-8b", "--for", "serve", "--devices", "2", "--tpot", "1e-9"]
    )
    assert "none keeps the limits" in result.output


def test_an_unsupported_time_is_named() -> None:
    config = {"model_type": "t5", "d_model": 64, "num_heads": 4, "d_kv": 16, "num_layers": 2, "d_ff": 128,
              "vocab_size": 100}  # fmt: skip
    with pytest.raises(UnsupportedError, match="encoder-decoder"):
        simulate(Deployment(from_hf(config), ParallelPlan(), Precision(), find_engine("vllm"), None), None)  # type: ignore[arg-type]
