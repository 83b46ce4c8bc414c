"""Cold start in fresh processes, with back ends that are quick, slow and broken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from stratoscope.errors import MeasurementError
from stratoscope.measure.cold_start import measure_cold_start
from stratoscope.spec.model import LoadableModel
from stratoscope.spec.options import BackendOptions


def test_the_null_back_ends_first_answer_takes_its_latency(tiny_model: LoadableModel) -> None:
    section = measure_cold_start("null", tiny_model, BackendOptions(null_latency_s=0.02), repeats=3)
    assert section.first_inference_s.require() >= 0.02
    assert section.steady_s.require() >= 0.02
    assert section.import_s.require() > 0
    assert section.load_s.require() > 0
    assert section.first_inference_s.n == 3
    assert section.first_inference_s.ci_low is not None


def test_a_real_back_end_imports_and_loads(tmp_path: Path) -> None:
    from stratoscope.models.resolve import resolve

    section = measure_cold_start("onnxruntime", resolve("digits"), BackendOptions(threads=1), repeats=1)
    assert section.import_s.require() > 0.001  # a framework is no empty module
    assert section.load_s.require() > 0
    assert section.steady_s.require() > 0


def test_failures_of_the_fresh_process_are_one_clear_error(tiny_model: LoadableModel, tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match=r"cold start of model 'tiny': unknown back end 'nonesuch'"):
        measure_cold_start("nonesuch", tiny_model, BackendOptions(), repeats=1)
    missing = replace(tiny_model, path=tmp_path / "gone.onnx")
    with pytest.raises(MeasurementError, match=r"cold start of model 'tiny'.*gone\.onnx"):
        measure_cold_start("onnxruntime", missing, BackendOptions(), repeats=1)
    with pytest.raises(MeasurementError, match=r"longer than 0\.05 s"):
        measure_cold_start("null", tiny_model, BackendOptions(), repeats=1, timeout_s=0.05)


def test_what_has_no_cold_start_is_refused(tiny_model: LoadableModel) -> None:
    with pytest.raises(MeasurementError, match="object of this process"):
        measure_cold_start("null", replace(tiny_model, module=object()), BackendOptions())
    with pytest.raises(MeasurementError, match="at least once"):
        measure_cold_start("null", tiny_model, BackendOptions(), repeats=0)
