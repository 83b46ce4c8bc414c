"""Cold starts from states made on purpose: every step lies where it belongs, in time and in its parent."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from stratoscope.errors import MeasurementError
from stratoscope.measure.cold_states import STATES, measure_cold_states
from stratoscope.models.resolve import resolve
from stratoscope.spec.model import LoadableModel
from stratoscope.spec.options import BackendOptions
from stratoscope.spec.record import ColdStartSection, ColdState
from stratoscope.trace.spans import SPAN_SCHEMA


@pytest.fixture(autouse=True)
def _store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRATOSCOPE_SHARE", str(tmp_path / "s"))


def by_state(section: ColdStartSection) -> dict[str, ColdState]:
    return {state.state: state for state in section.states}


def test_steps_lie_inside_their_parents_and_add_up_to_the_whole() -> None:
    section, spans = measure_cold_states("onnxruntime", resolve("digits"), BackendOptions(threads=1), repeats=1)
    states = by_state(section)
    assert list(states) == list(STATES)
    for name in ("dropped", "cached", "mapped-dropped", "mapped", "shared"):
        steps = {step.name: step for step in states[name].steps}
        assert {"parse", "optimise", "pack"} <= set(steps)
        assert ({"find", "map", "page faults"} <= set(steps)) == (name not in ("dropped", "cached"))
        ends = {key: step.start_s.require() + step.duration_s.require() for key, step in steps.items()}
        for step in steps.values():
            if step.inside is not None:
                parent = steps[step.inside]
                assert parent.start_s.require() <= step.start_s.require()
                assert ends[step.name] <= ends[parent.name] + 1e-6
        top = sum(step.duration_s.require() for step in steps.values() if step.inside is None)
        assert top <= states[name].total_s.require() + 1e-6
        assert ends["first run"] == pytest.approx(states[name].total_s.require())
    assert states["resident"].total_s.require() < states["cached"].load_and_first_s.require()
    assert spans.schema == pl.Schema(SPAN_SCHEMA)
    assert spans.filter(pl.col("parent").is_null())["name"].to_list() == [
        f"cold start: {name}" for name in STATES if name != "resident"
    ]


@pytest.mark.torch
def test_pytorch_has_the_same_states_with_steps_of_its_own() -> None:
    section, _ = measure_cold_states("pytorch", resolve("digits"), BackendOptions(threads=1), repeats=1)
    mapped = by_state(section)["mapped"]
    assert mapped.tier == "file"
    assert {"find", "map", "build the module", "assign weights"} <= {step.name for step in mapped.steps}


def test_a_back_end_that_does_not_share_has_the_default_states(tiny_model: LoadableModel, tmp_path: Path) -> None:
    path = resolve("digits").path
    model = LoadableModel(tiny_model.manifest, path)
    section, _ = measure_cold_states("null", model, BackendOptions(null_latency_s=0.01), repeats=1)
    assert list(by_state(section)) == ["dropped", "cached", "resident"]


def test_a_model_without_a_file_is_refused(tiny_model: LoadableModel) -> None:
    with pytest.raises(MeasurementError, match="no file to load"):
        measure_cold_states("onnxruntime", LoadableModel(tiny_model.manifest, None), BackendOptions())
