"""Kernel times on GPUs: never faster than the roofline, whole waves, cycles that scale with the clock."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratoscope.errors import MeasurementError
from stratoscope.explain.predict.gpu_kernels import (
    FORMATS,
    GEMM,
    decode_seconds,
    gemm_seconds,
    prefill_seconds,
    roofline_seconds,
    transferred,
)
from stratoscope.explain.predict.gpus import GPUS, find_gpu

A100, H200 = GPUS["a100-sxm4-80gb"], GPUS["h200-sxm5"]
sizes = st.integers(1, 20000)


@given(m=sizes, n=sizes, k=sizes, name=st.sampled_from(sorted(GPUS)))
def test_no_product_beats_the_roofline_of_its_gpu(m: int, n: int, k: int, name: str) -> None:
    gpu = GPUS[name]
    moved = 2.0 * (m * k + k * n + m * n)
    floor = roofline_seconds(gpu, 2.0 * m * n * k, moved)
    assert gemm_seconds(gpu, m, n, k) >= floor


@given(tokens=st.integers(1, 16384), batch=st.integers(1, 64), heads=st.sampled_from([8, 32, 64]))
def test_no_attention_beats_the_roofline(tokens: int, batch: int, heads: int) -> None:
    flops = 2.0 * batch * heads * tokens**2 * 128
    assert prefill_seconds(H200, batch, tokens, heads, 8) >= roofline_seconds(H200, flops, 0.0)
    read = 4.0 * batch * tokens * 8 * 128
    assert decode_seconds(H200, batch, tokens, heads, 8) >= roofline_seconds(H200, 0.0, read)


def test_a_large_product_reaches_the_share_of_the_peak_that_its_constants_say() -> None:
    """64 full waves of 128 x 256 tiles on 108 units: time is FLOPs over the rate of that tile, memory overlapped."""
    m, n, k = 128 * 108, 256 * 64, 65536
    loss = GEMM.small_tile * 64 * (1 / 128 + 1 / 256)
    ideal = 2 * m * n * k / (A100.peak("bfloat16") * GEMM.compute * (1 - loss))
    assert gemm_seconds(A100, m, n, k) == pytest.approx(ideal, rel=0.02)


def test_one_tile_more_than_a_wave_costs_another_wave() -> None:
    constants = replace(GEMM, launch_cycles=0.0, wave_cycles=0.0, split_cycles=1e9)
    rows, columns, inner = 256, 128, 8192
    full, more = (
        float(gemm_seconds(A100, rows * count, columns, inner, constants=constants)) for count in (108, 2 * 108 + 1)
    )
    assert more / full > 2.2


def test_launch_scales_with_the_clock_and_bandwidth_with_the_memory() -> None:
    slow = replace(A100, clock_hz=A100.clock_hz / 2, peak_flops_per_s={"bfloat16": A100.peak("bfloat16") / 2})
    assert gemm_seconds(slow, 16, 64, 64) == pytest.approx(2 * gemm_seconds(A100, 16, 64, 64), rel=0.01)
    narrow = replace(H200, bandwidth_bytes_per_s=H200.bandwidth_bytes_per_s / 10)
    assert gemm_seconds(narrow, 1, 65536, 8192) == pytest.approx(10 * gemm_seconds(H200, 1, 65536, 8192), rel=0.05)


def test_arrays_give_what_single_shapes_give() -> None:
    m = np.array([1, 77, 4096])
    together = gemm_seconds(H200, m, 4096, 1024)
    assert together.tolist() == pytest.approx([float(gemm_seconds(H200, int(one), 4096, 1024)) for one in m])


def test_lighter_weights_are_not_slower() -> None:
    by_kind = {kind: float(gemm_seconds(H200, 8, 8192, 8192, kind)) for kind in FORMATS}
    assert by_kind["int4-weights"] <= by_kind["int8-weights"] <= by_kind["bfloat16"]
    assert by_kind["float8"] <= by_kind["bfloat16"]


def test_a_transfer_to_the_same_gpu_gives_the_measured_time_back() -> None:
    assert transferred(3.0, 2.0, 2.0, 1.0) == pytest.approx(3.0)
    assert transferred(3.0, 2.0, 5.0, 0.0) == pytest.approx(5.0)
    assert transferred(4.0, 1.0, 10.0, 0.5) == pytest.approx(20.0)


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100-sxm4-80gb"),
        ("NVIDIA H200", "h200-sxm5"),
        ("NVIDIA H100 80GB HBM3 SXM5", "h100-sxm5"),
        ("NVIDIA L40S", "l40s"),
        ("Tesla T4", "t4"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
    ],
)
def test_devices_are_found_by_the_names_that_drivers_tell(told: str, name: str) -> None:
    assert find_gpu(told).name == name


def test_what_is_not_known_is_said() -> None:
    with pytest.raises(MeasurementError, match="no GPU 'Voodoo 2'"):
        find_gpu("Voodoo 2")
    with pytest.raises(MeasurementError, match="no matrix units for float8"):
        gemm_seconds(A100, 8, 8, 8, "float8")
    with pytest.raises(MeasurementError, match="no product format"):
        gemm_seconds(A100, 8, 8, 8, "float7")


def test_data_sheet_clocks_give_the_stated_peaks_of_data_centre_gpus() -> None:
    """Operations a clock and unit of bfloat16: 2048 on Ampere, 4096 on Hopper, 8192 on Blackwell."""
    expected = {"a100-sxm4-80gb": 2048, "a30": 2048, "h100-sxm5": 4096, "h200-sxm5": 4096, "b200-sxm6": 8192}
    for name, per_clock in expected.items():
        gpu = GPUS[name]
        assert gpu.peak("bfloat16") == pytest.approx(gpu.multiprocessors * gpu.clock_hz * per_clock, rel=0.02)
