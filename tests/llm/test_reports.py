"""Reports, explanations, questions in files, pages: what a user reads adds up and names its level."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from stratoscope.llm import LlmError
from stratoscope.llm.diff import answer, compare, load_question
from stratoscope.llm.economics import priced
from stratoscope.llm.efficiency import Efficiency, efficiency
from stratoscope.llm.estimate import estimate_inference, estimate_training
from stratoscope.llm.hardware import find_hardware, hardware_table
from stratoscope.llm.hf import load_model
from stratoscope.llm.infer import Deployment
from stratoscope.llm.memory import training_memory, training_timeline
from stratoscope.llm.page import page, search_page
from stratoscope.llm.plan import Generation, Lora, ParallelPlan, Precision, TrainStep, find_engine
from stratoscope.llm.render import diff_lines, hardware_lines, report_lines, search_lines, suite_lines
from stratoscope.llm.report import Report
from stratoscope.llm.search import SearchResult, TrainingSpace, search_training
from stratoscope.llm.serve import Service, highest_rate, simulate
from stratoscope.llm.timing import layer_prices
from stratoscope.llm.validate import KINDS, validate

LLAMA = load_model("llama-3.1-8b")
GENERIC = find_engine("generic")


def training(device: Efficiency, **changes: object) -> Report:
    plan = ParallelPlan(tp=4, pp=2, dp=2, recompute="selective")
    work = TrainStep(global_batch=32, seq=4096).model_copy(update=changes)
    return estimate_training(LLAMA, plan, work, device, engine=find_engine("megatron-core"))


def serving(device: Efficiency, batch: int = 4) -> Report:
    deployment = Deployment(LLAMA, ParallelPlan(tp=2), Precision(), find_engine("vllm"), device)
    return estimate_inference(deployment, Generation(batch=batch, prompt=512, output=32))


def test_the_parts_of_a_step_add_up_to_the_step(h100: Efficiency) -> None:
    step = training(h100).results["step_s"]
    assert sum(child.value for child in step.children) == pytest.approx(step.value, rel=1e-6)


def test_every_time_carries_level_interval_and_bound(h100: Efficiency) -> None:
    for report in (training(h100), serving(h100)):
        for result in report.results.values():
            assert result.level == "prior"
            for _, node in result.walk():
                assert node.low <= node.value * (1 + 1e-9)
                assert node.value <= node.high * (1 + 1e-9)
                assert node.unit != "s" or node.bound
                assert node.unit != "s" or node.children or (node.formula and node.source) or node is result
    assert estimate_training(
        LLAMA, ParallelPlan(tp=8), TrainStep(global_batch=8, seq=1024), efficiency(find_hardware("h100"), "peak"),
        engine=GENERIC,
    ).level == "peak"  # fmt: skip


def test_a_step_at_the_roofs_is_a_lower_bound(h100: Efficiency) -> None:
    roof = efficiency(find_hardware("h100"), "peak")
    assert training(roof).value("step_s") < training(h100).value("step_s")
    assert training(roof).value("mfu") <= 1.0
    assert serving(roof).value("latency_s") < serving(h100).value("latency_s")


def test_adapters_shrink_optimizer_and_gradients_and_skip_weight_gradients(h100: Efficiency) -> None:
    whole, adapted = training(h100), training(h100, lora=Lora(rank=16))
    assert adapted.memory.value < whole.memory.value
    assert adapted.value("step_s") < whole.value("step_s")
    parts = {child.name: child.value for child in adapted.memory.children}
    count = 32 * 16 * (2 * (4096 + 4096) + 2 * (4096 + 1024))  # rank x (in + out) of q, k, v, o
    assert parts["optimizer"] == pytest.approx(12 * count / 8)


def test_price_turns_device_seconds_into_money(h100: Efficiency) -> None:
    report = priced(serving(h100), 3.6)
    seconds = report.value("latency_s") * 2
    assert report.value("dollar_per_million_tokens") == pytest.approx(seconds * 3.6 / 3600 / (4 * 32) * 1e6)
    assert report.value("joule_per_token") <= 2 * 700 * 1.5 * report.value("latency_s") / (4 * 32)


def test_a_context_beyond_the_model_is_refused(h100: Efficiency) -> None:
    deployment = Deployment(load_model("llama-2-7b"), ParallelPlan(), Precision(), GENERIC, h100)
    with pytest.raises(LlmError, match="context"):
        estimate_inference(deployment, Generation(batch=1, prompt=4096, output=2))


def test_reports_survive_json(h100: Efficiency) -> None:
    for report in (training(h100), serving(h100)):
        assert Report.model_validate_json(report.model_dump_json()) == report


def write(path: Path, hardware: str, extra: str = "generate: {batch: 8, prompt: 256, output: 16}") -> Path:
    path.write_text(f"model: llama-3.1-8b\nhardware: {hardware}\nplan: tp2\n{extra}\n", encoding="utf-8")
    return path


def test_diff_says_where_the_faster_device_saves(tmp_path: Path) -> None:
    before, after = (
        answer(load_question(write(tmp_path / f"{name}.yaml", name)), tmp_path) for name in ("a100", "h100")
    )
    changes = compare(before, after)
    gain = before.value("latency_s") - after.value("latency_s")
    assert sum(change.gain_s for change in changes) == pytest.approx(gain, rel=0.03)
    assert changes == sorted(changes, key=lambda change: -abs(change.gain_s))
    text = "\n".join(diff_lines(before, after, changes))
    assert "decode" in text
    training_question = write(tmp_path / "t.yaml", "h100", "train: {global_batch: 8, seq: 512}")
    with pytest.raises(LlmError, match="compared"):
        compare(before, answer(load_question(training_question)))


@pytest.mark.parametrize(
    ("extra", "reason"),
    [("", "exactly one"), ("train: {global_batch: 0, seq: 1}", "global_batch"), ("colour: red", "colour")],
)
def test_faulty_questions_name_the_field(tmp_path: Path, extra: str, reason: str) -> None:
    with pytest.raises(LlmError, match=reason):
        load_question(write(tmp_path / "q.yaml", "h100", extra))


class Balanced(HTMLParser):
    """Counts open tags and refuses scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag != "script"
        if tag not in ("meta", "rect", "circle", "polyline"):
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("rect", "circle", "polyline"):
            assert self.stack.pop() == tag
        elif self.stack and self.stack[-1] == tag:
            self.stack.pop()


def test_pages_are_well_formed_and_escape_names(h100: Efficiency) -> None:
    evil = LLAMA.model_copy(update={"name": "<script>alert(1)</script>"})
    plan, work = ParallelPlan(tp=4), TrainStep(global_batch=8, seq=1024)
    report = estimate_training(evil, plan, work, h100, engine=GENERIC)
    timeline = training_timeline(evil, training_memory(plan, 1, 8, 1024), Precision(), GENERIC)
    ops = layer_prices(evil, "train", 1, 1024, 4.0, Precision(), GENERIC, h100)
    result = search_training(LLAMA, TrainingSpace(devices=(8,), global_batch=8, seq=1024), Precision(), GENERIC, h100)
    text = page(report, timeline=timeline, ops=ops, roofs=(989e12, 3.35e12), search=result)
    for html in (text, search_page("x & y", result)):
        parser = Balanced()
        parser.feed(html)
        assert parser.stack == []
    for title in ("Memory over the step", "Roofline", "Pareto", "Where the time goes"):
        assert title in text
    assert all(seconds * 989e12 >= float(np.max(op.flops)) for op, seconds in ops)


def test_texts_name_level_shortfall_and_sources(h100: Efficiency) -> None:
    large = estimate_training(
        load_model("llama-3.1-70b"), ParallelPlan(), TrainStep(global_batch=1, seq=1024), h100, engine=GENERIC
    )
    text = "\n".join(report_lines(large, explain=True))
    assert "DOES NOT FIT" in text
    assert "[prior]" in text
    assert "kernel tables" in text
    lines = hardware_lines(hardware_table(), find_hardware("h100"))
    assert all("2026" in line for line in lines)
    empty = SearchResult(evaluated=3, feasible=0, rejected={"memory": 3}, smallest_shortfall_bytes=2**30, front=())
    assert "1.00 GiB a device short" in "\n".join(search_lines(empty))


def test_a_service_holds_below_capacity_and_not_above(h100: Efficiency) -> None:
    deployment = Deployment(LLAMA, ParallelPlan(), Precision(), find_engine("vllm"), h100)
    load = Service(rate_per_s=2.0, prompt=512, output=64, requests=1200)
    calm = simulate(deployment, load)
    assert calm.stable
    assert calm.completed_per_s == pytest.approx(2.0, rel=0.1)
    assert simulate(deployment, load) == calm  # the clock is virtual: the same seed gives the same run
    busy = simulate(deployment, load.model_copy(update={"rate_per_s": 20.0}))
    assert busy.tpot_p50_s > calm.tpot_p50_s
    flood = simulate(deployment, load.model_copy(update={"rate_per_s": 500.0}))
    assert not flood.stable
    assert flood.ttft_p99_s > 10 * busy.ttft_p99_s
    best = highest_rate(deployment, load, ttft_s=0.5, tpot_s=0.03)
    assert best.ttft_p99_s <= 0.5
    assert best.tpot_p99_s <= 0.03
    hits = simulate(deployment, load.model_copy(update={"rate_per_s": 20.0, "prefix_hit": 0.9}))
    assert hits.ttft_p50_s < busy.ttft_p50_s


def test_little_s_law_holds_in_the_service(h100: Efficiency) -> None:
    deployment = Deployment(LLAMA, ParallelPlan(), Precision(), find_engine("vllm"), h100)
    report = simulate(deployment, Service(rate_per_s=15.0, prompt=512, output=64, requests=1500))
    running = report.completed_per_s * report.tpot_p50_s * 63
    assert report.mean_batch == pytest.approx(running, rel=0.15)


def test_a_request_that_cannot_fit_is_a_named_error(h100: Efficiency) -> None:
    deployment = Deployment(load_model("llama-3.1-70b"), ParallelPlan(), Precision(), GENERIC, h100)
    with pytest.raises(LlmError, match="GiB short"):
        simulate(deployment, Service(rate_per_s=1.0, prompt=512, output=64))


def test_published_rows_stay_within_the_errors_of_record() -> None:
    suites = {suite.name: suite for suite in validate()}
    limits = {
        "C1": 0.08, "C3": 0.08, "M1": 0.08, "C13": 0.15, "C13-mem": 0.05, "C13-large": 0.15, "C14": 0.20,
        "C14-late": 0.20, "C14-ttft": 0.20, "T1": 0.20, "C3-fig1": 0.05,
    }  # fmt: skip
    for name, limit in limits.items():
        assert suites[name].mape <= limit, name
        assert suites[name].coverage == 1.0
    timed = [p for name in KINDS for p in suites[name].predictions]
    assert 0.80 <= float(np.mean([p.inside for p in timed])) <= 0.95
    assert all(p.value == p.row.value for p in suites["C13-oom"].predictions)
    text = "\n".join(suite_lines(suites.values(), rows=True))
    assert "MAPE" in text
    assert json.dumps(text)
