"""What must hold for every shipped device with every shipped model: finite numbers in order, no roof broken."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from stratoscope.llm.efficiency import Efficiency, Level, efficiency
from stratoscope.llm.estimate import estimate_inference, estimate_training
from stratoscope.llm.hardware import Figure, HardwareSpec, find_hardware, hardware_table
from stratoscope.llm.hf import load_model, shipped_configs
from stratoscope.llm.infer import Deployment
from stratoscope.llm.plan import Generation, ParallelPlan, Precision, TrainStep, find_engine
from stratoscope.llm.report import Report
from stratoscope.llm.spec import ModelSpec

DEVICES = [device.name for device in hardware_table().devices]
MODELS = sorted(shipped_configs())
ASKED = Generation(batch=4, prompt=512, output=16)
STEP = TrainStep(global_batch=4, seq=1024)


@cache
def model(name: str) -> ModelSpec:
    return load_model(name)


def formats(hardware: HardwareSpec) -> Precision:
    return Precision.preset("bf16" if "bf16" in hardware.peak_flops_per_s else "fp16")


def served(device: Efficiency, name: str, plan: ParallelPlan | None = None) -> Report:
    numbers = formats(device.hardware)
    deployment = Deployment(model(name), plan or ParallelPlan(), numbers, find_engine("tensorrt-llm"), device)
    return estimate_inference(deployment, ASKED)


def trained(device: Efficiency, name: str) -> Report:
    return estimate_training(
        model(name), ParallelPlan(), STEP, device, precision=formats(device.hardware), engine=find_engine("generic")
    )


@pytest.mark.parametrize("device_name", DEVICES)
@pytest.mark.parametrize("level", ["prior", "peak"])
def test_numbers_are_finite_ordered_and_within_the_roofs(device_name: str, level: Level) -> None:
    hardware = find_hardware(device_name)
    device = efficiency(hardware, level)
    for name in MODELS:
        answer, step = served(device, name), trained(device, name)
        for report in (answer, step):
            for key, node in report.results.items():
                values = (0.0, node.low, node.value, node.high)
                assert np.isfinite(values).all(), (name, key)
                assert all(a <= b * (1 + 1e-9) for a, b in pairwise(values)), (name, key, values)
        assert step.value("mfu") <= step.value("hfu") * (1 + 1e-9)
        assert step.value("mfu") <= 1.0
        # dense weights are read at least once a token, experts at least those of one token
        floor = 2.0 * (model(name).active_params - model(name).embedding_params) / hardware.memory_bandwidth
        assert answer.value("tpot_s") >= floor
        useful = model(name).forward_flops(512) - 2.0 * 511 * model(name).vocab * model(name).hidden
        assert answer.value("ttft_s") >= 0.99 * 4 * useful / hardware.peak(formats(hardware).compute)


@pytest.mark.parametrize("device_name", DEVICES)
def test_faster_parts_never_make_a_device_slower(device_name: str) -> None:
    hardware = find_hardware(device_name)
    base = efficiency(hardware)
    memory = Figure(value=2 * hardware.memory_bandwidth, source="test")
    wider = replace(base, hardware=hardware.model_copy(update={"memory_bandwidth_bytes_per_s": memory}))
    peaks = {key: Figure(value=2 * figure.value, source="test") for key, figure in hardware.peak_flops_per_s.items()}
    stronger = replace(base, hardware=hardware.model_copy(update={"peak_flops_per_s": peaks}))
    for name in ("llama-3.1-8b", "mixtral-8x7b"):
        latency, step = served(base, name).value("latency_s"), trained(base, name).value("step_s")
        for better in (wider, stronger):
            assert served(better, name).value("latency_s") <= latency
            assert trained(better, name).value("step_s") <= step


@pytest.mark.parametrize("name", MODELS)
def test_later_generations_of_one_vendor_are_faster(name: str) -> None:
    for line in (("v100", "a100", "h100", "b200"), ("mi250x", "mi300x", "mi355x"), ("tpuv4", "tpuv5p", "tpuv7x")):
        devices = [efficiency(find_hardware(device), "peak") for device in line]
        latencies = [served(device, name).value("latency_s") for device in devices]
        assert latencies == sorted(latencies, reverse=True), line


@pytest.mark.parametrize("name", MODELS)
def test_more_ranks_never_hold_more_and_never_go_without_communication(name: str) -> None:
    device = efficiency(find_hardware("h200"))
    plans = [ParallelPlan(tp=tp) for tp in (1, 2, 4)]
    reports = [served(device, name, plan) for plan in plans]
    held = [sum(part.value for part in report.memory.children if part.name == "weights") for report in reports]
    assert held == sorted(held, reverse=True)
    collective = [report.results["latency_s"].find("tensor parallel") for report in reports]
    assert collective[0] is None
    assert all(node is not None and node.value > 0 for node in collective[1:])
