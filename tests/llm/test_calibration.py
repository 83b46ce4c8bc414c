"""Fitting curves: on times made by known curves the fit finds them again; documents keep their environment."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stratoscope.llm import LlmError
from stratoscope.llm.calibrate import (
    DECODE,
    GEMM_M,
    GEMM_NK,
    HEAD_DIM,
    Timer,
    calibrated_engine,
    calibrated_hardware,
    fit_document,
    load_calibration,
)
from stratoscope.llm.efficiency import efficiency
from stratoscope.llm.fit import coordinate_search, log_error

BANDWIDTH, PEAK, FLOOR = 20e9, 100e9, 4e-6


def synthetic() -> dict[str, Any]:
    """Times of a machine with a 4 us floor, 20 GB/s and 100 GFLOP/s, without noise."""

    def gemm(m: int, n: int, k: int) -> float:
        return FLOOR + max(4 * (n * k + m * k + m * n) / BANDWIDTH, 2 * m * n * k / PEAK)

    return {
        "device": "test", "dtype": "fp32", "size": 4, "torch": "0", "threads": 1, "memory_bytes": 2**33,
        "framework": [{"layers": 2, "seconds": 2e-3}, {"layers": 6, "seconds": 5e-3}],
        "gemm": [{"m": m, "n": n, "k": k, "seconds": gemm(m, n, k)} for n, k in GEMM_NK for m in GEMM_M],
        "stream": [{"bytes": b, "seconds": 1e-6 + b / BANDWIDTH} for b in (2**14, 2**18, 2**27)],
        "copies": [{"bytes": b, "seconds": 1e-6 + 2.5 * b / BANDWIDTH} for b in (2**16, 2**20, 2**22)],
        "prefill": [
            {"batch": b, "heads": 8, "seq": s, "seconds": 1e-5 + 2 * b * 8 * HEAD_DIM * s * (s + 1) / (0.5 * PEAK)}
            for b, s in ((1, 64), (2, 256), (4, 512))
        ],
        "decode": [
            {"batch": b, "heads": h, "context": c, "seconds": 5e-6 + 8 * b * h * c * HEAD_DIM / BANDWIDTH}
            for b, h, c in DECODE
        ],
    }  # fmt: skip


def test_the_fit_recovers_the_machine_that_made_the_times() -> None:
    document = fit_document(synthetic())
    assert document["bandwidth_bytes_per_s"] == pytest.approx(BANDWIDTH, rel=0.02)
    assert document["peak_flops_per_s"] == pytest.approx(PEAK, rel=0.05)
    curve = document["curves"]["gemm"]["bf16"]
    assert curve["mae"] < 0.03
    assert curve["t0_s"] == pytest.approx(FLOOR, rel=0.25)
    for name in ("elementwise", "prefill", "decode"):
        assert document["curves"][name]["mae"] < 0.1


def test_calibrated_prices_follow_the_machine_and_carry_their_level() -> None:
    document = json.loads(json.dumps(fit_document(synthetic())))
    device = efficiency(calibrated_hardware(document), "calibrated", document)
    m, n, k = 48.0, 768.0, 768.0  # not among the measured shapes
    cost = device.gemm(m, n, k, kind="bf16", unit="fp32", nbytes=4 * (n * k + m * (n + k)))
    assert cost.level == "calibrated"
    assert float(cost.time) == pytest.approx(FLOOR + max(4 * (n * k + m * (n + k)) / BANDWIDTH, 2 * m * n * k / PEAK),
                                             rel=0.06)  # fmt: skip
    table = efficiency(calibrated_hardware(document), "measured", document)
    hit = table.gemm(4, 512, 512, kind="bf16", unit="fp32", nbytes=1.0)
    assert hit.level == "measured"
    assert hit.time == next(r["seconds"] for r in document["measured"] if (r["m"], r["n"], r["k"]) == (4, 512, 512))
    miss = table.gemm(5, 512, 512, kind="bf16", unit="fp32", nbytes=1.0)
    assert miss.level == "calibrated"  # a shape that the table lacks falls to the curve, and says so
    engine = calibrated_engine(document)
    assert engine.copy_cost == pytest.approx(2.5, rel=0.1)
    assert engine.layer_host_s == pytest.approx(0.75e-3, rel=0.2)


def test_the_timer_takes_the_median_on_its_own_clock() -> None:
    ticks = count()
    timer = Timer(budget_s=0.0, least=5, clock=lambda: float(next(ticks)))
    assert timer(lambda: None) == 1.0


def test_coordinate_search_stays_within_its_bounds() -> None:
    x = np.arange(1.0, 20.0)
    found = coordinate_search(lambda p: p[0] + p[1] * x, 3.0 + 0.5 * x, [1.0, 1.0], [(0.1, 10.0), (0.6, 10.0)])
    assert found[1] == 0.6
    assert log_error(found[0] + found[1] * x, 3.0 + 0.5 * x) < 0.2


def test_a_file_that_is_no_calibration_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    with pytest.raises(LlmError, match="No such file"):
        load_calibration(path)
    path.write_text("{}")
    with pytest.raises(LlmError, match="not a calibration"):
        load_calibration(path)


def test_starting_on_each_row_of_weights_is_told_from_bandwidth() -> None:
    measured = synthetic()
    for row in measured["gemm"]:
        row["seconds"] += row["n"] * 8e-8
    document = fit_document(measured)
    assert document["curves"]["gemm"]["bf16"]["row_s"] == pytest.approx(8e-8, rel=0.25)
    assert document["curves"]["gemm"]["bf16"]["mae"] < 0.04


def test_a_curve_is_corrected_near_measured_shapes_and_left_alone_far_from_them() -> None:
    document = json.loads(json.dumps(fit_document(synthetic())))
    for row in document["measured"]:
        row["log_ratio"] = float(np.log(1.2))
    hardware = calibrated_hardware(document)
    corrected = efficiency(hardware, "calibrated", document)
    for row in document["measured"]:
        row["log_ratio"] = 0.0
    plain = efficiency(hardware, "calibrated", document)

    def ratio(m: float, n: float, k: float) -> float:
        times = [device.gemm(m, n, k, kind="bf16", unit="fp32", nbytes=4 * n * k).time for device in (corrected, plain)]
        return float(np.max(times[0] / times[1]))

    assert 1.17 < ratio(3.0, 700.0, 700.0) <= 1.2
    assert ratio(2.0**20, 2.0**20, 2.0**20) == pytest.approx(1.0, abs=1e-6)
